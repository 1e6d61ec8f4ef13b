"""The configuration of a QDQ model for the QNN execution provider."""

import copy
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import onnx

from vqonnx.calibration.readers import Reader
from vqonnx.compat.configs import StaticQuantConfig
from vqonnx.compat.execution_providers.qnn.mixed_precision_overrides_utils import (
    MixedPrecisionTensorQuantOverridesFixer,
)
from vqonnx.quantizers.types import CalibrationMethod, QuantType

Overrides = MutableMapping[str, list[dict[str, Any]]]

OP_TYPES_TO_EXCLUDE = frozenset({"Cast"})
MODEL_SIZE_THRESHOLD = 1 << 31
_EIGHT_BITS = frozenset({QuantType.QInt8, QuantType.QUInt8})
_SIXTEEN_BITS = frozenset({QuantType.QInt16, QuantType.QUInt16})
_OPSET_21 = _SIXTEEN_BITS | {QuantType.QInt4, QuantType.QUInt4}
_NATIVE_OPSET = 21
_LEAST_RANGE = 1e-4
_FIXED_OUTPUTS = {
    ("Sigmoid", QuantType.QUInt16): (2.0**-16, 0),
    ("Sigmoid", QuantType.QInt16): (2.0**-15, 0),
    ("Tanh", QuantType.QUInt16): (2.0**-15, 1 << 15),
    ("Tanh", QuantType.QInt16): (2.0**-15, 0),
}
"""Scale and zero point that QNN's 16-bit operators have (onnxruntime, execution_providers/qnn)."""


def get_qnn_qdq_config(
    model_input: str | PathLike[str] | onnx.ModelProto,
    calibration_data_reader: Reader | None,
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    activation_type: QuantType = QuantType.QUInt8,
    weight_type: QuantType = QuantType.QUInt8,
    per_channel: bool = False,
    init_overrides: Mapping[str, list[dict[str, Any]]] | None = None,
    add_qtype_converts: bool = True,
    activation_symmetric: bool = False,
    weight_symmetric: bool | None = None,
    keep_removable_activations: bool = False,
    stride: int | None = None,
    calibration_providers: Sequence[str] | None = None,
    op_types_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | None = None,
) -> StaticQuantConfig:
    """A configuration whose result the QNN execution provider runs, for ``quantize``.

    Args:
        model_input: The model, best after ``qnn_preprocess_model``; weights are not read.
        calibration_data_reader: Feeds.
        calibrate_method: How ranges are chosen.
        activation_type: Element type of activations.
        weight_type: Element type of weights.
        per_channel: One scale an output channel for the weights of convolutions.
        init_overrides: What is fixed for single tensors; copied.
        add_qtype_converts: Let the nodes around tensors of another type work in it, and convert at their border.
        activation_symmetric: Centre the ranges of activations on zero.
        weight_symmetric: Centre those of weights; None: where their type is signed.
        keep_removable_activations: Keep Relu and Clip nodes that a range repeats.
        stride: Samples of which MinMax takes the ends at a time.
        calibration_providers: Execution providers of calibration.
        op_types_to_quantize: Operators; by default all of the model but Cast.
        nodes_to_exclude: Names of nodes to leave float.

    Raises:
        OptionError: The overrides are malformed or contradict each other; also a ValueError.
    """
    model = _graph(model_input)
    activation, weight = QuantType.of(activation_type), QuantType.of(weight_type)
    symmetric = weight.qtype.signed if weight_symmetric is None else weight_symmetric
    overrides: Overrides = copy.deepcopy(dict(init_overrides or {}))
    if overrides and add_qtype_converts:
        fixer = MixedPrecisionTensorQuantOverridesFixer.create_from_model(overrides, model, activation)
        fixer.apply(activation, activation_symmetric)
    chosen, excluded = set(op_types_to_quantize or ()), set(nodes_to_exclude or ())
    rules = _QnnRules(model, overrides, activation, weight, symmetric=symmetric, per_channel=per_channel)
    op_types: dict[str, None] = {}
    for node in model.graph.node:
        if (not chosen or node.op_type in chosen) and node.name not in excluded:
            rules.apply(node)
            op_types.setdefault(node.op_type)
    options: dict[str, Any] = {
        "MinimumRealRange": _LEAST_RANGE,
        "DedicatedQDQPair": False,
        "QDQKeepRemovableActivations": keep_removable_activations,
        "TensorQuantOverrides": overrides,
        "ActivationSymmetric": activation_symmetric,
        "WeightSymmetric": symmetric,
        "CalibStridedMinMax": stride,
    }
    if _opset(model) < _NATIVE_OPSET and ({activation, weight} | _types(overrides)) & _OPSET_21:
        options["UseQDQContribOps"] = True
    return StaticQuantConfig(
        calibration_data_reader,
        calibrate_method=calibrate_method,
        activation_type=activation_type,
        weight_type=weight_type,
        op_types_to_quantize=op_types_to_quantize or [op for op in op_types if op not in OP_TYPES_TO_EXCLUDE],
        nodes_to_exclude=nodes_to_exclude,
        per_channel=per_channel,
        use_external_data_format=_is_large(model),
        calibration_providers=calibration_providers,
        extra_options=options,
    )


class _QnnRules:
    """Adds to overrides what QNN demands of single operators."""

    def __init__(
        self,
        model: onnx.ModelProto,
        overrides: Overrides,
        activation: QuantType,
        weight: QuantType,
        *,
        symmetric: bool,
        per_channel: bool,
    ) -> None:
        self._overrides, self._activation, self._weight = overrides, activation, weight
        self._symmetric, self._per_channel = symmetric, per_channel
        self._constants = {tensor.name for tensor in model.graph.initializer}

    def apply(self, node: onnx.NodeProto) -> None:
        """Override the tensors of one node."""
        if node.op_type in ("Sigmoid", "Tanh"):
            self._fix_output(node)
        elif node.op_type == "MatMul" and self._per_channel:
            # QNN has no MatMul with a scale a column, which per_channel would give it.
            for name in node.input:
                if name in self._constants and name not in self._overrides:
                    self._overrides[name] = [{"quant_type": self._weight, "symmetric": self._symmetric}]
        elif node.op_type in ("MatMul", "LayerNormalization") and not self._per_channel:
            self._keep_weight_narrow(node)

    def _fix_output(self, node: onnx.NodeProto) -> None:
        entry = (self._overrides.get(node.output[0]) or [{}])[0]
        made = QuantType.of(entry.get("quant_type", self._activation))
        if (node.op_type, made) not in _FIXED_OUTPUTS:
            return
        scale, zero_point = _FIXED_OUTPUTS[node.op_type, made]
        kept = {key: value for key, value in entry.items() if key == "convert"}
        self._overrides[node.output[0]] = [
            {
                "quant_type": made,
                "scale": np.array(scale, np.float32),
                "zero_point": np.array(zero_point, made.qtype.dtype),
                **kept,
            }
        ]

    def _keep_weight_narrow(self, node: onnx.NodeProto) -> None:
        """Give a constant beside a 16-bit activation the 8-bit type of weights, where nothing else is said of it."""
        operands = [name for name in node.input[:2] if name]
        if self._weight not in _EIGHT_BITS or any("axis" in self._entry(name) for name in operands):
            return
        wide = any(name not in self._constants and self._read_type(name, node) in _SIXTEEN_BITS for name in operands)
        weights = [name for name in operands if name in self._constants]
        if not (wide and weights):
            return
        entry, wanted = self._entry(weights[-1]), {"quant_type": self._weight, "symmetric": self._symmetric}
        if not set(wanted) & set(entry):
            self._overrides[weights[-1]] = [{**entry, **wanted}]
        elif wanted.items() - entry.items():
            warnings.warn(
                f"{node.op_type} {node.name!r} reads 16-bit activations and the constant {weights[-1]!r}, which is "
                f"overridden with {entry}; QNN may run it on the CPU.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _entry(self, name: str) -> dict[str, Any]:
        return (self._overrides.get(name) or [{}])[0]

    def _read_type(self, name: str, node: onnx.NodeProto) -> QuantType:
        """The type in which ``node`` reads an activation."""
        entry = self._entry(name)
        conversion = entry.get("convert")
        if conversion is not None and node.name in conversion.get("recv_nodes", (node.name,)):
            entry = conversion
        return QuantType.of(entry.get("quant_type", self._activation))


def _types(overrides: Overrides) -> set[QuantType]:
    entries = [entry for found in overrides.values() for entry in found]
    entries += [entry["convert"] for entry in entries if "convert" in entry]
    return {QuantType.of(entry["quant_type"]) for entry in entries if "quant_type" in entry}


def _graph(model: str | PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)


def _opset(model: onnx.ModelProto) -> int:
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), _NATIVE_OPSET)


def _is_large(model: onnx.ModelProto) -> bool:
    external = any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    return external or model.ByteSize() >= MODEL_SIZE_THRESHOLD
