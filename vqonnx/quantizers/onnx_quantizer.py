"""The QOperator form's class; its numbers are here, its emitter is not written yet."""

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from vqonnx.errors import OptionError
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.types import QuantizationMode, QuantType


class ONNXQuantizer(BaseQuantizer):
    """Decides the numbers of the QOperator form (QLinearConv, QLinearMatMul …).

    The parameters are those of onnxruntime.quantization; None lets the target choose.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model,
        per_channel: bool | None = None,
        reduce_range: bool | None = None,
        mode: QuantizationMode = QuantizationMode.QLinearOps,
        static: bool = True,
        weight_qType: QuantType | None = None,
        activation_qType: QuantType | None = None,
        tensors_range: Mapping[str, object] | None = None,
        nodes_to_quantize: Sequence[Pattern] | None = None,
        nodes_to_exclude: Sequence[Pattern] | None = None,
        op_types_to_quantize: Sequence[str] | None = None,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            model,
            per_channel,
            reduce_range,
            weight_qType,
            activation_qType,
            tensors_range,
            nodes_to_quantize,
            nodes_to_exclude,
            op_types_to_quantize,
            extra_options,
        )
        self.mode = QuantizationMode.of(mode)
        self.static = static

    def quantize_model(self) -> onnx.ModelProto:
        """Not written yet.

        Raises:
            OptionError: Always.
        """
        raise OptionError(
            "the QOperator form is not written yet. Use QDQQuantizer, or quantize_static with QuantFormat.QDQ: ONNX "
            "Runtime makes the same kernels of it.",
            option="quant_format",
        )
