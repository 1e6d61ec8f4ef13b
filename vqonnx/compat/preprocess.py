"""``python -m vqonnx.compat.preprocess``: onnxruntime's options for ``quant_pre_process``."""

import argparse
import sys
from collections.abc import Sequence

from vqonnx.compat.shape_inference import quant_pre_process
from vqonnx.errors import VqonnxError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line, or of ``arguments``."""
    parser = argparse.ArgumentParser(
        prog="python -m vqonnx.compat.preprocess",
        description="Infer shapes and simplify a model before quantization. 'vqonnx quantize' does so by itself.",
    )
    add = parser.add_argument
    add("--input", required=True, help="the model")
    add("--output", required=True, help="where the result goes")
    for name, step in (
        ("skip_optimization", "ONNX Runtime's basic rewrites"),
        ("skip_onnx_shape", "ONNX's shape inference"),
        ("skip_symbolic_shape", "symbolic shape inference"),
    ):
        add(f"--{name}", type=_bool, nargs="?", const=True, default=False, metavar="BOOL", help=f"leave out {step}")
    add("--auto_merge", action="store_true", help="take dimensions for one where an operator needs them equal")
    add("--int_max", type=int, default=2**31 - 1, help="numbers from here on count as no bound")
    add("--guess_output_rank", action="store_true", help="unknown operators keep the rank of their first input")
    add("--verbose", type=int, default=0, help="messages of symbolic inference: 0 none, 1 warnings, 3 all")
    add("--save_as_external_data", action="store_true", help="put tensors into files beside the model")
    add("--all_tensors_to_one_file", action="store_true", help="one file, not one for each tensor")
    add("--external_data_location", help="that file, below the model's folder")
    add("--external_data_size_threshold", type=int, default=1024, help="bytes from which on a tensor goes there")
    return parser.parse_args(arguments)


def _bool(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError("Expected true, false, 1, or 0")
    return known[text.lower()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Process a file; returns 2 for bad input, as ``vqonnx`` does."""
    options = vars(parse_arguments(arguments))
    try:
        quant_pre_process(options.pop("input"), options.pop("output"), **options)
    except VqonnxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
