"""What all quantizer classes share: where every number of a quantized model is decided, and can be overridden."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.positions import Refinement
from vqonnx.core.qtype import FLOAT32, Kind
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.core.target import Form, Target
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.kernels.affine import quantize
from vqonnx.kernels.bias import bias_scale, quantize_bias
from vqonnx.kernels.scale_grid import on_grid
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.planned import PlannedModel
from vqonnx.quantizers.ranges import activation_params, measured_params, not_finite
from vqonnx.quantizers.refinement import refined_plan
from vqonnx.quantizers.types import QuantType
from vqonnx.stages.emit import emit
from vqonnx.stages.solve import solve

Array = npt.NDArray[np.generic]
Names = tuple[str, str, str]


class BaseQuantizer(PlannedModel):
    """Decides every number of a quantized model; subclass it to decide some of them differently.

    ``quantize_static`` itself runs through these methods, so an override changes the model that is written.
    Names that go in and out are those of float tensors; the arrays behind returned names are in ``initializers`` (see
    ``QuantizedTensors``).

    Attributes:
        tensors_range: Range or statistic of each activation, by tensor name.
        solutions: The numbers; solved where None.
        refinement: What was done about the device's rules on positions; None before ``refine``.
    """

    form: ClassVar[Form] = Form.QDQ
    """How the graph is written; ``stages/emit.py`` has the emitter of each form."""

    target: ClassVar[Target | str] = "cpu"
    """The device: a target, the name of one, or ``"cpu"`` for this machine's; ``extra_options["Target"]`` wins."""

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
        *,
        calibrate_method: object = None,
        quantized_tensor_type: Mapping[str, object] | None = None,
    ) -> None:
        options = QuantizerOptions.of(
            form=self.form,
            target=self.target,
            per_channel=per_channel,
            reduce_range=reduce_range,
            weight_type=weight_qType,
            activation_type=activation_qType,
            nodes_to_quantize=nodes_to_quantize,
            nodes_to_exclude=nodes_to_exclude,
            op_types_to_quantize=op_types_to_quantize,
            calibrate_method=calibrate_method,
            tensor_types=quantized_tensor_type,
            extra_options=extra_options,
        )
        super().__init__(model, options)
        self.tensors_range = dict(tensors_range or {})
        self.solutions: Solutions | None = None
        self.refinement: Refinement | None = None

    def quantize_model(self) -> onnx.ModelProto:
        """The quantized model.

        Raises:
            OptionError: A name or pattern matches nothing, or an activation has no range.
            QuantRangeError: A weight or range is not finite.
        """
        return to_proto(self._emitted())

    def result(self) -> ir.Model:
        """What ``quantize_model`` gives, of any size: without protobuf's limit unless an override goes through it."""
        if type(self).quantize_model is BaseQuantizer.quantize_model:
            return self._emitted()
        return load(self.quantize_model())

    def refine(self, better: Mapping[str, QuantParams] | None = None) -> None:
        """Move scales that are powers of two to where the device's rules hold, in ``plan``; no code exists yet.

        Args:
            better: Scales to begin with instead of those of ``calculate_quantization_params`` and ``constant_params``,
                by key.

        Raises:
            OptionError: An activation has no range.
            QuantRangeError: A range or a constant is not finite.
        """
        if self.options.rules.activation.grid is ScaleGrid.POWER_OF_TWO and self.refinement is None:
            self.plan, self.refinement = refined_plan(self, self.options.positions, better)

    def solve(self) -> Solutions:
        """Every number of the plan, each from the method of this class that answers for it."""
        return solve(self.model, self.current_plan(), self)

    def calculate_quantization_params(self) -> dict[str, QuantParams]:
        """Scale and zero point of every planned activation, by key, from ``tensors_range``.

        Raises:
            OptionError: An activation has no range.
            QuantRangeError: Its range is not finite.
        """
        params = activation_params(self.current_plan(), self.tensors_range, self.options.ranges, self.scale_dtype)
        for key, param in params.items():
            self.store_params(key, param)
        return params

    def quantize_weight(
        self,
        node: onnx.NodeProto,
        indices: Sequence[int],
        reduce_range: bool = False,
        op_level_per_channel: bool = False,
        axis: int = -1,
        from_subgraph: bool = False,
    ) -> tuple[list[str], list[str], list[str], list[onnx.NodeProto]]:
        """Quantize the constant inputs of a node; what ``find_quantized_value`` finds is used as it is.

        Args:
            node: The node, by its name in the plan.
            indices: Inputs to quantize.
            reduce_range: Use 7 bits.
            op_level_per_channel: One scale an index of ``axis``.
            axis: Channel axis.
            from_subgraph: Whether the node stands in the body of an If or Loop.

        Returns:
            Names of the codes, of the zero points and of the scales, one each an index, and nodes to be added
            before the node (none here; the form of the class decides).
        """
        del from_subgraph  # names are unique in the whole model, bodies included
        keys = self.current_plan().nodes[node.name].inputs
        found: list[Names] = []
        for index in indices:
            name = keys[index] or node.input[index]
            known = self.find_quantized_value(name)
            if known is not None:
                found.append((known.q_name, known.zp_name, known.scale_name))
                continue
            tensor = self._tensor_plan(name)
            spec = tensor.spec if tensor else self.options.rules.weight
            if spec.qtype == FLOAT32:
                found.append(self._quantize_constant(name, spec, keep_float=True))
                continue
            qtype = QuantType.from_qtype(spec.qtype)
            if op_level_per_channel:
                found.append(self.quantize_weight_per_channel(name, qtype, axis, reduce_range=reduce_range))
            else:
                weight = onnx.numpy_helper.from_array(self.float_array(name), name)
                found.append(self.quantize_initializer(weight, qtype, reduce_range=reduce_range))
        q_names, zp_names, scale_names = (list(names) for names in zip(*found, strict=True))
        return q_names, zp_names, scale_names, []

    def quantize_initializer(
        self,
        weight: onnx.TensorProto,
        qType: QuantType,
        reduce_range: bool = False,
        keep_float_weight: bool = False,
    ) -> Names:
        """Quantize a constant with one scale.

        Args:
            weight: The constant, float, any shape.
            qType: Element type.
            reduce_range: Use one bit less.
            keep_float_weight: Keep the float values as the "codes", for an emitter that quantizes in the graph.

        Returns:
            Names of codes (the constant's shape), zero point and scale (shape []).

        Raises:
            QuantRangeError: It holds NaN or infinite values.
        """
        spec = self._spec(weight.name, qType, PerTensor(), reduce_range)
        return self._quantize_constant(weight.name, spec, keep_float_weight)

    def quantize_weight_per_channel(
        self,
        weight_name: str,
        weight_qType: QuantType,
        channel_axis: int,
        reduce_range: bool = True,
        keep_float_weight: bool = False,
    ) -> Names:
        """Quantize a constant with one scale an index of ``channel_axis``.

        Returns:
            Names of codes (the constant's shape), zero points and scales (shape [channels]).

        Raises:
            QuantRangeError: It holds NaN or infinite values.
        """
        spec = self._spec(weight_name, weight_qType, PerAxis(channel_axis), reduce_range)
        return self._quantize_constant(weight_name, spec, keep_float_weight)

    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        """Quantize a bias to int32 with zero point 0 and scale input_scale x weight_scale x beta.

        Args:
            bias_name: The bias, float [channels].
            input_name: The node's quantized input.
            weight_name: Its quantized weight.
            beta: Factor of the bias (Gemm).

        Returns:
            Name of the codes, int32 [channels].

        Raises:
            OptionError: Input or weight was not quantized.
            QuantRangeError: It holds NaN or infinite values.
        """
        scales = []
        for name in (input_name, weight_name):
            scale_name, _ = self.find_quant_scale_zp(name)
            if scale_name is None:
                raise OptionError(f"bias {bias_name!r}: {name!r} is not quantized, so the bias has no scale.")
            scales.append(self.initializers[scale_name])
        tensor = self._tensor_plan(bias_name)
        scale = bias_scale(scales[0], scales[1], beta, tensor.repeats if tensor else 1)
        codes = quantize_bias(self._finite_bias(bias_name), scale, self.scale_dtype(bias_name))
        return self.store(bias_name, codes).q_name

    def constant_params(self, name: str, spec: QuantSpec, method: RangeMethod | None = None) -> QuantParams:
        """Scale and zero point of a constant: what the user gave, else those of its range.

        Args:
            name: The constant.
            spec: What its codes are to be.
            method: How the range is chosen; by default as ``options.weight_method`` says.

        Raises:
            QuantRangeError: It holds NaN or infinite values.
        """
        if not spec.has_scale:
            return QuantParams(np.ones((), np.float32), np.zeros((), spec.qtype.dtype), spec)
        method = method or self.options.weight_method
        try:
            measured = measured_params(
                self.float_array(name), spec, method, self.options.ranges, self.scale_dtype(name)
            )
        except QuantRangeError as error:
            raise not_finite(name, str(error)) from error
        return self._given_or(name, measured)

    def _emitted(self) -> ir.Model:
        if self.solutions is None:
            self.refine()
            self.solutions = self.solve()
        return emit(self.model, self.current_plan(), self.solutions)

    def _quantize_constant(
        self, name: str, spec: QuantSpec, keep_float: bool, method: RangeMethod | None = None
    ) -> Names:
        array = self.float_array(name)
        params = self.constant_params(name, spec) if method is None else self.constant_params(name, spec, method)
        if not spec.has_scale:
            rounded = array if keep_float or spec.qtype.kind is not Kind.FLOAT else quantize(array, params)
            value = self.store(name, QuantizedTensor(rounded, params))
            return value.q_name, value.zp_name, value.scale_name
        grown = on_grid(np.maximum(params.scale, self._least_scale(name, params)), spec.grid)
        params = replace(params, scale=grown.astype(params.scale.dtype))
        value = self.store(name, QuantizedTensor(array if keep_float else quantize(array, params), params))
        return value.q_name, value.zp_name, value.scale_name
