"""onnxruntime.quantization.base_quantizer: quantizer objects for a model with known ranges."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import onnx

from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.compat.options import known_options
from vqonnx.core.target import Target
from vqonnx.graph.io import ModelSource, load
from vqonnx.graph.proto import to_proto
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer as Decider
from vqonnx.quantizers.preparation import prepare_for
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer as QdqDecider
from vqonnx.quantizers.types import QuantType
from vqonnx.targets.onnxruntime import ONNXRUNTIME


class QuantizationParams:
    """Scale, zero point and what belongs to them, by key; ``axis`` may be None.

    Raises:
        TypeError: A value is no number, text or array.
        ValueError: A scale is neither float32 nor float16.
    """

    def __init__(self, **data: Any) -> None:
        for key, value in data.items():
            allowed = (int, type(None)) if key == "axis" else (int, float, str)
            if not (isinstance(value, allowed) or (key != "axis" and hasattr(value, "dtype"))):
                raise TypeError(f"{key} takes a number, text or array, got {type(value).__name__}")
            if key == "scale" and getattr(value, "dtype", None) not in ("float32", "float16"):
                raise ValueError(f"scale must be float32 or float16, got {value!r}")
        self.data = dict(data)

    def get(self, key: str, default_value: Any = None) -> Any:
        """The value of a key, or the default."""
        return self.data.get(key, default_value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.data[key] = value

    def __len__(self) -> int:
        return len(self.data)


class BaseQuantizer:
    """Quantizes a model whose ranges are known; the numbers come from ``decider``.

    To decide numbers differently, subclass ``vqonnx.QDQQuantizer`` or ``vqonnx.ONNXQuantizer``, whose methods are meant
    for it, and pass the class to ``vqonnx.quantize_static``.

    Args:
        model: The model, or its path; it stays as it is.
        per_channel: One scale an output channel for weights.
        reduce_range: One bit less for weights.
        weight_qType: Element type of weights.
        activation_qType: Element type of activations.
        tensors_range: Range of each activation: a ``TensorsData``, or a mapping to ``TensorData`` or (low, high).
        nodes_to_quantize: Nodes to quantize; all where empty.
        nodes_to_exclude: Nodes to leave float.
        op_types_to_quantize: Operators to quantize; the default ones where empty.
        extra_options: See ``quantizers.extra_options``.

    Attributes:
        decider: The object whose methods decide the numbers.
    """

    decides: ClassVar[type[Decider]] = QdqDecider
    target: ClassVar[Target] = ONNXRUNTIME

    def __init__(
        self,
        model: ModelSource,
        per_channel: bool,
        reduce_range: bool,
        weight_qType: QuantType,
        activation_qType: QuantType,
        tensors_range: Any,
        nodes_to_quantize: Sequence[Pattern] | None,
        nodes_to_exclude: Sequence[Pattern] | None,
        op_types_to_quantize: Sequence[str] | None,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        graph = load(model)
        arguments: dict[str, Any] = {
            "per_channel": bool(per_channel),
            "reduce_range": bool(reduce_range),
            "weight_qType": weight_qType,
            "activation_qType": activation_qType,
            "tensors_range": None if tensors_range is None else dict(tensors_range.items()),
            "nodes_to_quantize": nodes_to_quantize or None,
            "nodes_to_exclude": nodes_to_exclude or None,
            "op_types_to_quantize": op_types_to_quantize or None,
            "extra_options": {"Target": self.target, **known_options(extra_options)},
        }
        options = self.decides(graph, **arguments).options
        self.decider = self.decides(prepare_for(graph, options).model, **arguments)
        self._model: ONNXModel | None = None

    @property
    def model(self) -> ONNXModel:
        """The model, quantized by ``quantize_model``."""
        if self._model is None:
            self._model = ONNXModel(to_proto(self.decider.model))
        return self._model

    def quantize_model(self) -> onnx.ModelProto:
        """The quantized model, which ``model`` holds from then on.

        Raises:
            OptionError: A name matches nothing, or an activation has no range.
            QuantRangeError: A weight or range is not finite.
        """
        self._model = ONNXModel(self.decider.quantize_model())
        return self._model.model
