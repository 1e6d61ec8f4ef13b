"""onnxruntime.quantization.onnx_quantizer: the quantizer object of the QOperator form and of dynamic quantization."""

import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import onnx

from vqonnx.compat.base_quantizer import BaseQuantizer
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.compat.quantize import quantize_dynamic
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer as Decider
from vqonnx.quantizers.onnx_quantizer import ONNXQuantizer as IntegerDecider
from vqonnx.quantizers.types import QuantizationMode, QuantType


class ONNXQuantizer(BaseQuantizer):
    """Writes integer operators: QLinearConv … with ranges, or ConvInteger, MatMulInteger … without.

    Args:
        mode: ``IntegerOps`` quantizes activations at run time.
        static: Whether ranges are given; as ``mode`` says.

    The others are those of ``BaseQuantizer``.
    """

    decides: ClassVar[type[Decider]] = IntegerDecider

    def __init__(
        self,
        model: onnx.ModelProto | str | PathLike[str],
        per_channel: bool,
        reduce_range: bool,
        mode: QuantizationMode,
        static: bool,
        weight_qType: QuantType,
        activation_qType: QuantType,
        tensors_range: Any,
        nodes_to_quantize: Sequence[Pattern] | None,
        nodes_to_exclude: Sequence[Pattern] | None,
        op_types_to_quantize: Sequence[str] | None,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        self.mode, self.static = QuantizationMode.of(mode), static
        chosen = (nodes_to_quantize, nodes_to_exclude, op_types_to_quantize)
        if self.mode is QuantizationMode.QLinearOps:
            super().__init__(
                model,
                per_channel,
                reduce_range,
                weight_qType,
                activation_qType,
                tensors_range,
                *chosen,
                extra_options,
            )
            return
        self._model = ONNXModel(model if isinstance(model, onnx.ModelProto) else onnx.load(model))
        self._dynamic: dict[str, Any] = {
            "per_channel": per_channel,
            "reduce_range": reduce_range,
            "weight_type": weight_qType,
            "nodes_to_quantize": nodes_to_quantize,
            "nodes_to_exclude": nodes_to_exclude,
            "op_types_to_quantize": op_types_to_quantize,
            "extra_options": extra_options,
        }

    def quantize_model(self) -> onnx.ModelProto:
        """The quantized model, which ``model`` holds from then on; see ``BaseQuantizer.quantize_model``."""
        if self.mode is QuantizationMode.QLinearOps:
            return super().quantize_model()
        with tempfile.TemporaryDirectory(prefix="vqonnx-") as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(self.model.model, path, **self._dynamic)
            self._model = ONNXModel(onnx.load(path))
        return self._model.model
