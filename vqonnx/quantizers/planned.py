"""The float model behind a quantizer and its plan, looked up by the names that the quantizer's methods take."""

from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from vqonnx.core.granularity import Granularity, PerBlock
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, Role, TensorPlan
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, nearest
from vqonnx.graph.io import load
from vqonnx.graph.walk import constant, values_by_name
from vqonnx.kernels.bias import grown_weight_scale
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.preparation import prepare_for
from vqonnx.quantizers.ranges import not_finite, planned_params
from vqonnx.quantizers.tensors import QuantizedTensors
from vqonnx.quantizers.types import QuantType
from vqonnx.stages.plan import make_plan

Array = npt.NDArray[np.generic]


class PlannedModel(QuantizedTensors):
    """A float model with a plan; names are those of its tensors, or keys of the plan where a tensor has several.

    Attributes:
        model: The float model, private to this object.
        options: What was asked for, parsed.
        plan: What is quantized and how; made from model and options where None.
    """

    def __init__(self, model: onnx.ModelProto | ir.Model, options: QuantizerOptions) -> None:
        super().__init__()
        self.model = load(model)
        self.options = options
        self.plan: Plan | None = None

    def current_plan(self) -> Plan:
        """The plan in use; made on first need from the model, which is prepared for it, and the options."""
        if self.plan is None:
            prepared = prepare_for(self.model, self.options)
            self.model = prepared.model
            self.plan = make_plan(self.model, self.options.target, self.options.rules, prepared.folded)
        return self.plan

    def float_array(self, name: str) -> Array:
        """The float constant of that name (or of that key of the plan).

        Raises:
            OptionError: The model has no such constant.
        """
        value = self._values.get(self._tensor_name(name))
        array = constant(value) if value is not None else None
        if array is None:
            raise OptionError(f"the model has no constant {name!r}{nearest(name, self._values)}.")
        return array

    def scale_dtype(self, name: str) -> np.dtype[np.generic]:
        """float16 for a float16 tensor, else float32; float32 for a bias that is to have the accumulator's scale."""
        tensor = self._tensor_plan(name)
        value = self._values.get(self._tensor_name(name))
        is_bias = tensor is not None and tensor.role is Role.BIAS
        is_half = value is not None and value.dtype == ir.DataType.FLOAT16
        return np.dtype(np.float16 if is_half and (not is_bias or self.options.rules.half_biases) else np.float32)

    def _finite_bias(self, name: str) -> Array:
        bias = self.float_array(name)
        if not np.isfinite(bias).all():
            raise not_finite(self._tensor_name(name), "the bias holds NaN or infinite values")
        return bias

    def _tensor_plan(self, name: str) -> TensorPlan | None:
        return self.plan.tensors.get(name) if self.plan is not None else None

    def _tensor_name(self, name: str) -> str:
        tensor = self._tensor_plan(name)
        return name if tensor is None else tensor.tensor

    def _given_or(self, name: str, measured: QuantParams) -> QuantParams:
        """The scale and zero point, or the range, that the user gave for a constant; else the measured ones."""
        tensor = self._tensor_plan(name)
        if tensor is None or (tensor.fixed is None and tensor.bounds is None):
            return measured
        return planned_params(tensor, tensor.bounds or (0.0, 0.0), measured.scale.dtype)

    def _least_scale(self, name: str, params: QuantParams) -> Array:
        """The smallest scale of a weight with which the biases of its nodes fit int32."""
        least: Array = params.scale
        for bias in self._biases.get(name, ()) if self.options.grow_weight_scale else ():
            assert bias.scale_of is not None
            scale_name, _ = self.find_quant_scale_zp(bias.scale_of[0])
            if scale_name is not None and params.spec.symmetric:
                least = grown_weight_scale(
                    least, self.initializers[scale_name], self._finite_bias(bias.key), bias.repeats
                )
        return least

    def _spec(self, name: str, qtype: QuantType, granularity: Granularity, reduce_range: bool) -> QuantSpec:
        """The planned spec with what the caller asks for; the options' weight spec for an unplanned constant."""
        tensor = self._tensor_plan(name)
        spec = tensor.spec if tensor is not None else self.options.rules.weight
        if qtype.qtype == spec.qtype and not spec.has_scale:
            return spec
        if isinstance(spec.granularity, PerBlock):
            granularity = spec.granularity
        return replace(spec, qtype=qtype.qtype, granularity=granularity, reduce_range=reduce_range)

    @cached_property
    def _values(self) -> dict[str, ir.Value]:
        return values_by_name(self.model)

    @cached_property
    def _biases(self) -> dict[str, list[TensorPlan]]:
        """The planned biases of the nodes that read a weight and have its scale, by the weight's key."""
        found: dict[str, list[TensorPlan]] = {}
        for tensor in self.current_plan().tensors.values():
            if tensor.scale_of is not None and not tensor.own_scale:
                found.setdefault(tensor.scale_of[1], []).append(tensor)
        return found
