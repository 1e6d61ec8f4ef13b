"""The classes behind AMD's NPU: ``VitisQDQQuantizer``, ``VitisFixNeuronQuantizer``, ``VitisONNXQuantizer``."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import onnx
import onnx_ir as ir

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.spec import RangeMethod
from vqonnx.core.target import Form, Target
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.base import BaseQuantizer, Names
from vqonnx.quantizers.onnx_quantizer import ONNXQuantizer, check_static
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.quantizers.types import QuantizationMode, QuantType
from vqonnx.quantizers.vitis_options import range_method

_NO_TYPES: Mapping[str, object] = MappingProxyType({})
_WEIGHT_TYPES = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})


class _VitisMethods(BaseQuantizer):
    """What both classes share: a range method for each constant, and stricter biases.

    Attributes:
        use_unsigned_relu: Whether what is never negative (behind Relu, or Clip from 0 on) gets the unsigned type, so
            that all codes cover [0, max]; ``extra_options["UseUnsignedReLU"]``.
        quantized_value_map: Where the quantized form of each float tensor is found, by its name.
        used_scale_zp_map: (scale name, zero point name) of each.
    """

    target: ClassVar[Target | str] = "vitis"

    @property
    def use_unsigned_relu(self) -> bool:
        """Whether what is never negative gets the unsigned type; set it before the plan is made."""
        return self.options.rules.unsigned_relu

    def quantize_weight(
        self,
        node: onnx.NodeProto,
        indices: Sequence[int],
        reduce_range: bool = False,
        op_level_per_channel: bool = False,
        axis: int = -1,
        from_subgraph: bool = False,
    ) -> tuple[list[str], list[str], list[str], list[onnx.NodeProto]]:
        """Quantize the constant inputs of a node, by ``quantize_initializer`` or ``quantize_weight_per_channel``.

        Args:
            node: The node, by its name in the plan.
            indices: Inputs to quantize.
            reduce_range: Use one bit less.
            op_level_per_channel: One scale an index of ``axis``.
            axis: Channel axis; -1 is the last.
            from_subgraph: Whether the node stands in the body of an If or Loop.

        Returns:
            Names of the codes, of the zero points and of the scales, one each an index, and nodes to be added
            before the node (none).

        Raises:
            OptionError: The node is not planned, or an input is no constant.
            QuantRangeError: A constant holds NaN or infinite values.
        """
        return super().quantize_weight(node, indices, reduce_range, op_level_per_channel, axis, from_subgraph)

    def quantize_initializer(  # type: ignore[override]  # the method comes third, as in Vitis AI's class
        self,
        weight: onnx.TensorProto,
        qType: QuantType,
        method: object = None,
        reduce_range: bool = False,
        keep_float_weight: bool = False,
    ) -> Names:
        """Quantize a constant with one scale.

        Args:
            weight: The constant, float, any shape, by its name in the model.
            qType: Element type.
            method: How its range is chosen: a member of ``CalibrationMethod`` or ``PowerOfTwoMethod``; None leaves it
                to ``extra_options["WeightCalibrateMethod"]``.
            reduce_range: Use one bit less.
            keep_float_weight: Keep the float values as the "codes".

        Returns:
            Names of codes (the constant's shape), zero point and scale (shape []).

        Raises:
            OptionError: The model has no such constant, or the method does not choose from a histogram.
            QuantRangeError: It holds NaN or infinite values.
        """
        spec = self._spec(weight.name, qType, PerTensor(), reduce_range)
        return self._quantize_constant(weight.name, spec, keep_float_weight, _asked(method))

    def quantize_weight_per_channel(  # type: ignore[override]  # the method comes fourth, as in Vitis AI's class
        self,
        weight_name: str,
        weight_qType: QuantType,
        channel_axis: int,
        method: object = None,
        reduce_range: bool = True,
        keep_float_weight: bool = False,
    ) -> Names:
        """Quantize a constant with one scale an index of ``channel_axis``.

        Args:
            weight_name: The constant, float, of rank 1 or more.
            weight_qType: Element type.
            channel_axis: The axis.
            method: As in ``quantize_initializer``.
            reduce_range: Use one bit less.
            keep_float_weight: Keep the float values as the "codes".

        Returns:
            Names of codes (the constant's shape), zero points and scales (shape [channels]).

        Raises:
            OptionError: The model has no such constant, or the method does not choose from a histogram.
            QuantRangeError: It holds NaN or infinite values.
        """
        spec = self._spec(weight_name, weight_qType, PerAxis(channel_axis), reduce_range)
        return self._quantize_constant(weight_name, spec, keep_float_weight, _asked(method))

    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        """Quantize a bias to int32 with zero point 0 and scale input_scale x weight_scale x beta.

        Biases with scales of their own (int8 of the NPU's CNN form) are not asked for here but from
        ``quantize_initializer``.

        Args:
            bias_name: The bias, float [channels].
            input_name: The node's quantized input.
            weight_name: Its quantized weight, of an integer type of at most 16 bits.
            beta: Factor of the bias (Gemm).

        Returns:
            Name of the codes, int32 [channels].

        Raises:
            ValueError: The weight has another type, or the input was not quantized (an ``OptionError``, which is one).
            QuantRangeError: The bias holds NaN or infinite values.
        """
        weight = self._tensor_plan(weight_name)
        qtype = (weight.spec if weight is not None else self.options.rules.weight).qtype
        if qtype.name not in _WEIGHT_TYPES:
            raise OptionError(
                f"bias {bias_name!r}: weight {weight_name!r} is {qtype.name}, which gives no int32 bias a scale"
                f"{nearest(qtype.name, _WEIGHT_TYPES)}. Keep such biases float (QuantizeBias: False).",
                option="weight_type",
            )
        return super().quantize_bias_static(bias_name, input_name, weight_name, beta)


def _asked(method: object) -> RangeMethod | None:
    return None if method is None else range_method(method)


class VitisQDQQuantizer(_VitisMethods, QDQQuantizer):
    """Writes QDQ models for AMD's NPU: any types, and in the CNN form positions that its registers hold.

    Subclass it as ``QDQQuantizer``: ``quantize_static`` itself runs through these methods. The parameters are those of
    Vitis AI's class; None lets the target (``extra_options["Target"]``, or the class's ``target``) choose.

    Args:
        model: The float model.
        per_channel: One scale an output channel for weights.
        reduce_range: One bit less for weights.
        mode: QLinearOps; there is no other here.
        static: True; there is no other here.
        weight_qType: Element type of weights.
        activation_qType: Element type of activations.
        tensors_range: Range or statistic of each activation, by tensor name.
        nodes_to_quantize: Patterns of nodes; all by default.
        nodes_to_exclude: Patterns of nodes to leave float.
        op_types_to_quantize: Operators; all that the target has by default.
        calibrate_method: A member of ``CalibrationMethod``, or of ``PowerOfTwoMethod``, which makes scales powers of
            two.
        quantized_tensor_type: Element types of single tensors, by name.
        extra_options: See ``quantizers.extra_options`` and ``quantizers.vitis_options``.

    Raises:
        OptionError: An option is unknown, or a value makes no sense.
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
        calibrate_method: object = None,
        quantized_tensor_type: Mapping[str, object] = _NO_TYPES,
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
            calibrate_method=calibrate_method,
            quantized_tensor_type=quantized_tensor_type,
        )
        self.mode, self.static = check_static(type(self).__name__, mode, static)


class VitisFixNeuronQuantizer(VitisQDQQuantizer):
    """Writes what ``VitisQDQQuantizer`` does, with one FixNeuron for each pair: ``VitisQuantFormat.FixNeuron``.

    Vitis AI's compiler reads it with int8; types are signed integers with one scale a tensor, a power of two.
    """

    form: ClassVar[Form] = Form.FIX_NEURON
    target: ClassVar[Target | str] = "vitis-npu-cnn"


class VitisONNXQuantizer(_VitisMethods, ONNXQuantizer):
    """Writes integer operators (QLinearConv …) with the scales of AMD's NPU; for other runtimes, since it reads QDQ.

    The parameters are those of ``VitisQDQQuantizer``; biases are int32 on the accumulator's scale, as the operators
    take no other.
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
        calibrate_method: object = None,
        quantized_tensor_type: Mapping[str, object] = _NO_TYPES,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            model,
            per_channel,
            reduce_range,
            mode,
            static,
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
