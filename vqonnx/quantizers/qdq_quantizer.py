"""The QDQ form: the class behind ``quantize_static``."""

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.types import QuantType


class QDQQuantizer(BaseQuantizer):
    """Writes QuantizeLinear -> DequantizeLinear pairs, which runtimes fuse with the operators between them.

    Subclass it for an execution provider of your own: set ``target``, and override the methods that decide a
    number differently. The parameters are those of onnxruntime.quantization; None lets the target choose.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model,
        per_channel: bool | None = None,
        reduce_range: bool | None = None,
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
