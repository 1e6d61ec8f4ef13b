"""onnxruntime.quantization's ``matmul_4bits_quantizer``, as it was called up to onnxruntime 1.21."""

from collections.abc import Iterable
from os import PathLike

import onnx
import onnx_ir as ir

from vqonnx.compat.matmul_nbits_quantizer.configs import (
    Axes,
    DefaultWeightOnlyQuantConfig,
    GPTQWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    NVAWQWeightOnlyQuantConfig,
    RTNWeightOnlyQuantConfig,
    WeightOnlyQuantConfig,
)
from vqonnx.compat.matmul_nbits_quantizer.quantizer import MatMulNBitsQuantizer
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.types import QuantFormat

__all__ = [
    "DefaultWeightOnlyQuantConfig",
    "GPTQWeightOnlyQuantConfig",
    "HQQWeightOnlyQuantConfig",
    "MatMul4BitsQuantizer",
    "NVAWQWeightOnlyQuantConfig",
    "QuantFormat",
    "RTNWeightOnlyQuantConfig",
    "WeightOnlyQuantConfig",
]


class MatMul4BitsQuantizer(MatMulNBitsQuantizer):
    """``MatMulNBitsQuantizer`` without ``bits`` and ``channel_wised_quantize``."""

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model | str | PathLike[str],
        block_size: int = 128,
        is_symmetric: bool = False,
        accuracy_level: int | None = None,
        nodes_to_exclude: Iterable[Pattern] | None = None,
        nodes_to_include: Iterable[Pattern] | None = None,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        quant_axes: Axes | None = None,
        algo_config: WeightOnlyQuantConfig | None = None,
    ) -> None:
        super().__init__(
            model,
            block_size=block_size,
            is_symmetric=is_symmetric,
            accuracy_level=accuracy_level,
            nodes_to_exclude=nodes_to_exclude,
            nodes_to_include=nodes_to_include,
            quant_format=quant_format,
            op_types_to_quantize=op_types_to_quantize,
            quant_axes=quant_axes,
            algo_config=algo_config,
        )
