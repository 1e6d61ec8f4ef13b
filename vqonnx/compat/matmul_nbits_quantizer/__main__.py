"""``python -m vqonnx.compat.matmul_nbits_quantizer``: onnxruntime's options; ``vqonnx weight-only`` has more."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vqonnx.compat.matmul_nbits_quantizer.configs import (
    AWQWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantConfig,
    GPTQWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    KQuantWeightOnlyQuantConfig,
    RTNWeightOnlyQuantConfig,
    WeightOnlyQuantConfig,
)
from vqonnx.compat.matmul_nbits_quantizer.quantizer import MatMulNBitsQuantizer
from vqonnx.errors import OutputError, VqonnxError
from vqonnx.progress import terminal_progress
from vqonnx.quantizers.types import QuantFormat

_CONFIGS: Mapping[str, Callable[[argparse.Namespace], WeightOnlyQuantConfig]] = {
    "default": lambda _: DefaultWeightOnlyQuantConfig(),
    "rtn": lambda _: RTNWeightOnlyQuantConfig(),
    "k_quant": lambda _: KQuantWeightOnlyQuantConfig(),
    "hqq": lambda _: HQQWeightOnlyQuantConfig(),
    "gptq": lambda options: GPTQWeightOnlyQuantConfig(options.calibration, mse=True),
    "awq": lambda options: AWQWeightOnlyQuantConfig(options.calibration),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize a file; returns 2 for bad input, as ``vqonnx`` does."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except VqonnxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if Path(options.output_model).exists():
        raise OutputError(
            f"{options.output_model!r} exists. Remove it, or give another --output_model.", path=options.output_model
        )
    with terminal_progress() as progress:
        quantizer = MatMulNBitsQuantizer(
            options.input_model,
            bits=options.bits,
            block_size=options.block_size,
            is_symmetric=options.symmetric and options.quant_method != "hqq",
            accuracy_level=options.accuracy_level,
            nodes_to_exclude=options.nodes_to_exclude,
            nodes_to_include=options.nodes_to_include,
            quant_format=QuantFormat.of(options.quant_format),
            op_types_to_quantize=options.op_types_to_quantize,
            quant_axes=options.quant_axes,
            algo_config=_CONFIGS[options.quant_method](options),
            progress=progress,
        )
        quantizer.process()
    quantizer.model.save_model_to_file(options.output_model, use_external_data_format=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vqonnx.compat.matmul_nbits_quantizer",
        description="Pack the weights of a model into 2, 4 or 8 bits. 'vqonnx weight-only' verifies the result too.",
    )
    add = parser.add_argument
    add("--input_model", required=True, help="the float model")
    add("--output_model", required=True, help="where the packed model goes; must not exist")
    add("--quant_method", choices=tuple(_CONFIGS), default="default", help="how codes are chosen")
    add("--calibration", help="folder of samples (.npz, or test_data_set_*), for gptq and awq")
    add("--bits", type=int, default=4, help="2, 4 or 8")
    add("--block_size", type=int, default=32, help="weights that share a scale")
    add(
        "--symmetric",
        type=_bool,
        nargs="?",
        const=True,
        default=True,
        metavar="BOOL",
        help="whether every zero point is the middle code, which hqq has no use for; True by default",
    )
    add("--accuracy_level", type=int, help="MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32")
    add("--nodes_to_exclude", nargs="+", default=(), help="names or patterns of nodes to leave float")
    add("--nodes_to_include", nargs="+", help="names or patterns of nodes to pack besides those of the operators")
    add("--quant_format", choices=[form.name for form in QuantFormat], default="QOperator", help="the packed form")
    add("--op_types_to_quantize", nargs="+", help="MatMul by default; also Gather, Gemm, Conv")
    add("--quant_axes", nargs="+", type=_axis, help="axis of the blocks, as in MatMul:0 Gather:1")
    return parser


def _bool(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is none of True, False")
    return known[text.lower()]


def _axis(text: str) -> tuple[str, int]:
    op_type, _, axis = text.partition(":")
    try:
        return op_type, int(axis)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no operator:axis") from None


if __name__ == "__main__":
    sys.exit(main())
