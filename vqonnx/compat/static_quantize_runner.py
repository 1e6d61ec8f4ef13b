"""``python -m vqonnx.compat.static_quantize_runner``: onnxruntime's options; ``vqonnx quantize`` has more.

Samples are ONNX's: folders ``test_data_set_0``, ``test_data_set_1`` … beside the model, with ``input_0.pb`` and so on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.folder import read_sample, sample_paths
from vqonnx.calibration.model import model_inputs
from vqonnx.compat.calibrate.reader import CalibrationDataReader
from vqonnx.compat.configs import StaticQuantConfig
from vqonnx.compat.quantize import quantize
from vqonnx.errors import OptionError, SampleError, VqonnxError
from vqonnx.graph.io import load
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantType

_TYPES = ("qint8", "quint8", "qint16", "quint16", "qint4", "quint4", "qfloat8e4m3fn")
_METHODS = ("minmax", "entropy", "percentile", "distribution")


class OnnxModelCalibrationDataReader(CalibrationDataReader):
    """The samples beside a model, read one at a time.

    Attributes:
        model_dir: The model's folder.
    """

    def __init__(self, model_path: str | PathLike[str]) -> None:
        self.model_dir = Path(model_path).parent
        self._inputs = model_inputs(load(Path(model_path)))
        self._paths = [path for path in sample_paths(self.model_dir) if path.name.startswith("test_data_set_")]
        if not self._paths:
            raise SampleError(
                f"{str(self.model_dir)!r} has no folder test_data_set_0 with the model's inputs as input_0.pb, "
                "input_1.pb …; write them with onnx.save_tensor"
            )
        self._next = 0

    def get_next(self) -> Feed | None:
        """The next sample; None at the end."""
        number, self._next = self._next, self._next + 1
        return read_sample(self._paths[number], self._inputs, number) if number < len(self._paths) else None


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``arguments``."""
    parser = argparse.ArgumentParser(
        prog="python -m vqonnx.compat.static_quantize_runner",
        description="Quantize a model with the samples beside it. 'vqonnx quantize' verifies the result too.",
    )
    add = parser.add_argument
    add("-i", "--input_model_path", required=True, help="the float model")
    add("-o", "--output_quantized_model_path", required=True, help="where the quantized model goes")
    add("--activation_type", choices=_TYPES, default="quint8", help="element type of activations")
    add("--weight_type", choices=_TYPES, default="qint8", help="element type of weights")
    add("--calibration_method", choices=_METHODS, default="minmax", help="how ranges are chosen")
    add("--quant_format", choices=("qdq", "qoperator"), default="qdq", help="the form of the result")
    add("--minimum_real_range", type=float, default=0.0001, help="smallest width of a range")
    add("--nodes_to_quantize", nargs="+", help="names or patterns of the only nodes to quantize")
    add("--nodes_to_exclude", nargs="+", help="names or patterns of nodes to leave float")
    add("--op_types_to_exclude_output_quantization", nargs="+", default=[], help="operators whose outputs stay float")
    add(
        "--op_per_channel_axis",
        nargs=2,
        action="append",
        default=[],
        metavar=("OP_TYPE", "AXIS"),
        help="the axis of an operator's weight that has a scale for each entry, with --per_channel",
    )
    add("--tensor_quant_overrides", help="JSON file of scales and zero points by tensor name")
    for name, text in _FLAGS.items():
        add(f"--{name}", action="store_true", help=text)
    return parser.parse_args(arguments)


_FLAGS = {
    "enable_subgraph": "quantize the bodies of If, Loop and Scan too",
    "force_quantize_no_input_check": "quantize around MaxPool, Transpose … whatever comes in",
    "matmul_const_b_only": "leave MatMul of two activations float",
    "add_qdq_pair_to_weight": "keep float weights, with a pair behind each",
    "dedicated_qdq_pair": "give every reader of a tensor its own pair",
    "calib_tensor_range_symmetric": "centre ranges on zero",
    "calib_moving_average": "average the ends of the samples, for minmax",
    "disable_quantize_bias": "leave biases float",
    "use_qdq_contrib_ops": "write pairs of the domain com.microsoft",
    "qdq_keep_removable_activations": "keep Relu and Clip nodes that a range repeats",
    "qdq_disable_weight_adjust_for_int32_bias": "leave the scales of weights whose bias would not fit",
    "per_channel": "one scale an output channel for weights",
}


def get_tensor_quant_overrides(file: str | PathLike[str] | None) -> dict[str, Any]:
    """``{tensor: [{"scale": …, "zero_point": …}]}`` of a JSON file; nothing without one.

    Raises:
        OptionError: The file cannot be read, or is no such JSON.
    """
    if not file:
        return {}
    try:
        found: dict[str, list[dict[str, Any]]] = json.loads(Path(file).read_text("utf-8"))
        return {tensor: [_override(entry) for entry in entries] for tensor, entries in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OptionError(
            f"cannot read overrides from {str(file)!r}: {error}; it should hold "
            '{"tensor": [{"scale": 0.01, "zero_point": 0}]}',
            option="tensor_quant_overrides",
        ) from error


def _override(entry: dict[str, Any]) -> dict[str, Any]:
    scale = {"scale": np.array(entry["scale"], np.float32)} if "scale" in entry else {}
    zero_point = {"zero_point": np.array(entry["zero_point"])} if "zero_point" in entry else {}
    kind = {"quant_type": QuantType.of(entry["quant_type"])} if "quant_type" in entry else {}
    return {**entry, **scale, **zero_point, **kind}


def quant_config(options: argparse.Namespace) -> StaticQuantConfig:
    """What the options ask for.

    Raises:
        OptionError: An axis is no number, or the overrides cannot be read.
        SampleError: There is no sample beside the model.
    """
    return StaticQuantConfig(
        OnnxModelCalibrationDataReader(options.input_model_path),
        calibrate_method=CalibrationMethod.of(options.calibration_method),
        quant_format=QuantFormat.of(options.quant_format),
        activation_type=QuantType.of(options.activation_type),
        weight_type=QuantType.of(options.weight_type),
        nodes_to_quantize=options.nodes_to_quantize,
        nodes_to_exclude=options.nodes_to_exclude,
        per_channel=options.per_channel,
        extra_options={
            "EnableSubgraph": options.enable_subgraph,
            "ForceQuantizeNoInputCheck": options.force_quantize_no_input_check,
            "MatMulConstBOnly": options.matmul_const_b_only,
            "AddQDQPairToWeight": options.add_qdq_pair_to_weight,
            "OpTypesToExcludeOutputQuantization": options.op_types_to_exclude_output_quantization,
            "DedicatedQDQPair": options.dedicated_qdq_pair,
            "QDQOpTypePerChannelSupportToAxis": dict(map(_axis, options.op_per_channel_axis)),
            "CalibTensorRangeSymmetric": options.calib_tensor_range_symmetric,
            "CalibMovingAverage": options.calib_moving_average,
            "QuantizeBias": not options.disable_quantize_bias,
            "UseQDQContribOps": options.use_qdq_contrib_ops,
            "MinimumRealRange": options.minimum_real_range,
            "QDQKeepRemovableActivations": options.qdq_keep_removable_activations,
            "QDQDisableWeightAdjustForInt32Bias": options.qdq_disable_weight_adjust_for_int32_bias,
            "TensorQuantOverrides": get_tensor_quant_overrides(options.tensor_quant_overrides),
        },
    )


def _axis(given: Sequence[str]) -> tuple[str, int]:
    op_type, axis = given
    try:
        return op_type, int(axis)
    except ValueError as error:
        raise OptionError(
            f"--op_per_channel_axis {op_type} takes the number of an axis, not {axis!r}", option="op_per_channel_axis"
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Quantize a file.

    Raises:
        VqonnxError: The input is bad.
    """
    options = parse_arguments(arguments)
    quantize(options.input_model_path, options.output_quantized_model_path, quant_config(options))


def _run() -> int:
    try:
        main()
    except VqonnxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_run())
