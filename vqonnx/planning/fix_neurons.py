"""What AMD's FixNeuron can round to: signed codes with zero point 0 and one scale a tensor, a power of two."""

from collections.abc import Iterator

from vqonnx.core.granularity import PerTensor
from vqonnx.core.plan import Plan, Role, TensorPlan
from vqonnx.core.qtype import Kind
from vqonnx.core.spec import ScaleGrid
from vqonnx.errors import OptionError


def check_fix_neurons(plan: Plan) -> None:
    """Compare a plan with what one FixNeuron a tensor can do.

    Raises:
        OptionError: The plan has something else for a tensor.
    """
    for tensor in plan.tensors.values():
        reason = next(_complaints(tensor), None)
        if reason is not None:
            raise OptionError(
                f"quant_format: {tensor.role.value} {tensor.tensor!r} would have {reason}, and FixNeuron takes signed "
                "symmetric integers with one scale a tensor, a power of two. Choose target='vitis-npu-cnn', or signed "
                "symmetric types with calibrate_method=PowerOfTwoMethod.MinMSE, or write the QDQ form "
                "(QuantFormat.QDQ).",
                option="quant_format",
            )


def _complaints(tensor: TensorPlan) -> Iterator[str]:
    spec = tensor.spec
    if spec.qtype.kind is not Kind.INTEGER or not spec.qtype.signed:
        yield f"type {spec.qtype.name}"
    if not spec.symmetric:
        yield "an asymmetric range"
    if not isinstance(spec.granularity, PerTensor):
        yield "several scales"
    on_accumulator = tensor.role is Role.BIAS and not tensor.own_scale  # input_scale * weight_scale
    if spec.grid is not ScaleGrid.POWER_OF_TWO and not on_accumulator:
        yield "a scale that is no power of two"
