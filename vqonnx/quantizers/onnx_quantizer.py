"""The QOperator form: the class behind ``quantize_static`` with ``QuantFormat.QOperator``."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import onnx
import onnx_ir as ir

from vqonnx.core.target import Form
from vqonnx.errors import OptionError
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.types import QuantizationMode, QuantType


class ONNXQuantizer(BaseQuantizer):
    """Writes integer operators that hand codes to each other (QLinearConv, QLinearMatMul, QGemm …).

    Subclass it as ``QDQQuantizer``: the methods that decide numbers are the same. The parameters are those of
    onnxruntime.quantization; None lets the target choose.

    Raises:
        OptionError: A mode of dynamic quantization is asked for.
    """

    form: ClassVar[Form] = Form.QOPERATOR

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
        *,
        calibrate_method: object = None,
        quantized_tensor_type: Mapping[str, object] | None = None,
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
            calibrate_method=calibrate_method,
            quantized_tensor_type=quantized_tensor_type,
        )
        self.mode, self.static = check_static(type(self).__name__, mode, static)


def check_static(name: str, mode: QuantizationMode, static: bool) -> tuple[QuantizationMode, bool]:
    """The mode and the flag of a class that writes static models only.

    Raises:
        OptionError: A mode of dynamic quantization is asked for.
    """
    found = QuantizationMode.of(mode)
    if found is not QuantizationMode.QLinearOps or not static:
        raise OptionError(
            f"mode: {name} writes static models only: QuantizationMode.QLinearOps with static=True.", option="mode"
        )
    return found, static
