"""onnxruntime.quantization's ``matmul_bnb4_quantizer``: 4-bit indices into bitsandbytes' code books."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from vqonnx.compat.matmul_nbits_quantizer.model import ONNXModel
from vqonnx.core.plan import Skip
from vqonnx.core.weight_plan import CodebookSpec, WeightForm
from vqonnx.errors import OptionError, OutputError, VqonnxError
from vqonnx.flows.packing import Packing, WeightOnlyJob
from vqonnx.graph.io import load
from vqonnx.graph.versions import least_ir_version
from vqonnx.kernels.blocks.codebook import FP4, NF4, code_book, round_to_book
from vqonnx.planning.rules import Pattern, Selection
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.report.figures import Level
from vqonnx.stages.weights.store import MemoryStore

_BOOKS = {book.quant_type: book.name for book in (FP4, NF4)}


class MatMulBnb4Quantizer:
    """Packs the constant weights of MatMuls, bodies included, as com.microsoft.MatMulBnb4.

    Args:
        model: The model, or its path; it stays as it is.
        quant_type: ``FP4`` or ``NF4``.
        block_size: Weights of the flat transpose that share a scale: 16 to 256.
        nodes_to_exclude: Names or patterns of nodes to leave float.

    Attributes:
        model: The model: as given, and after ``process`` the packed one.
        skips: After ``process``: nodes with a weight that stay as they are, and why.

    Raises:
        OptionError: There is no such code book or block size.
    """

    FP4: ClassVar[int] = 0
    NF4: ClassVar[int] = 1

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model | str | PathLike[str],
        quant_type: int,
        block_size: int,
        nodes_to_exclude: Iterable[Pattern] | None = None,
    ) -> None:
        if quant_type not in _BOOKS:
            raise OptionError(f"quant_type: {quant_type!r} is neither 0 (FP4) nor 1 (NF4).", option="quant_type")
        self.model = ONNXModel(model)
        self.quant_type, self.block_size = quant_type, block_size
        self.nodes_to_exclude = list(nodes_to_exclude or ())
        self.skips: tuple[Skip, ...] = ()
        self._spec = CodebookSpec(book=_BOOKS[quant_type], block_size=block_size)

    def bnb4_block_quant(self, fpweight: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
        """Codes, two a byte, and the largest magnitude of each block, of a weight [K, N].

        Raises:
            ValueError: It is no matrix.
        """
        if fpweight.ndim != 2:
            raise ValueError(f"a weight is a matrix, got shape {list(fpweight.shape)}")
        blocks = round_to_book(fpweight, code_book(self._spec.book), self.block_size)
        return np.asarray(blocks.codes), np.asarray(blocks.absmax)

    def process(self) -> None:
        """Pack the weights; ``model`` is the result.

        Raises:
            OptionError: A name matches nothing.
            ModelError: The model cannot be read, or there is nothing to pack.
            QuantRangeError: A weight holds NaN or infinity; it is named.
        """
        rules = WeightRules(
            form=WeightForm.BNB4,
            spec=self._spec,
            selection=Selection(exclude=tuple(self.nodes_to_exclude), op_types=("MatMul",)),
        )
        packing = Packing.of(load(self.model.source), WeightOnlyJob(rules=rules, level=Level.CHECKED))
        solved = MemoryStore()
        packing.solve(solved, None)
        packing.emit(solved)
        packing.model.ir_version = least_ir_version(packing.model)
        self.model, self.skips = ONNXModel(packing.model), packing.plan.skips


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize a file; returns 2 for bad input, as ``vqonnx`` does."""
    options = _parser().parse_args(arguments)
    try:
        if Path(options.output_model).exists():
            raise OutputError(f"{options.output_model!r} exists; remove it, or name another", path=options.output_model)
        quantizer = MatMulBnb4Quantizer(
            options.input_model, options.quant_type, options.block_size, options.nodes_to_exclude
        )
        quantizer.process()
        quantizer.model.save_model_to_file(options.output_model, use_external_data_format=True)
    except VqonnxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vqonnx.compat.matmul_bnb4_quantizer",
        description="Pack the weights of MatMuls into 4-bit indices of a code book.",
    )
    parser.add_argument("--input_model", required=True, help="the float model")
    parser.add_argument("--output_model", required=True, help="where the packed model goes; must not exist")
    parser.add_argument("--quant_type", type=int, default=1, choices=(0, 1), help="0: FP4, 1: NF4")
    parser.add_argument("--block_size", type=int, default=64, help="weights that share a scale")
    parser.add_argument("--nodes_to_exclude", nargs="+", default=[], help="nodes to leave float")
    return parser


if __name__ == "__main__":
    sys.exit(main())
