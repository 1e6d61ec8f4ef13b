"""Weights of a plan, rounded to nearest as Neural Compressor does."""

from collections.abc import Mapping

from vqonnx.compat.neural_compressor.rounding import Rounding, pack_groups
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.core.weight_plan import WeightPlan
from vqonnx.errors import OptionError, QuantRangeError, nearest
from vqonnx.flows.packing import Packing
from vqonnx.kernels.blocks.errors import weight_errors
from vqonnx.planning.weights.layers import Layer
from vqonnx.stages.weights.store import SolvedWeights


def solve_rounded(packing: Packing, solved: SolvedWeights, ratios: Mapping[str, float]) -> None:
    """Solve every weight of a plan.

    Args:
        packing: The model and its plan.
        solved: Where the results go.
        ratios: Factor on the ranges of a weight, by its initializer's name.

    Raises:
        OptionError: No weight of the plan has such a name, or a ratio is out of range.
        QuantRangeError: A weight holds NaN or infinity; it is named.
    """
    known = {str(layer.weight.root.name) for layer in packing.layers.values()}
    for name in ratios:
        if name not in known:
            raise OptionError(f"ratios: no packed weight is called {name!r}{nearest(name, known)}.", option="ratios")
    for plan in packing.plan.weights.values():
        layer = packing.layers[plan.readers[0]]
        solved.put(_solved(plan, layer, ratios.get(str(layer.weight.root.name), 1.0)))
        layer.weight.release()


def _solved(plan: WeightPlan, layer: Layer, ratio: float) -> SolvedWeight:
    spec = plan.spec
    assert isinstance(spec, BlockSpec)
    rounding = Rounding(bits=spec.bits, group_size=spec.block_size, symmetric=spec.symmetric, ratio=ratio)
    weight = layer.read()
    try:
        packed = pack_groups(weight, rounding)
    except QuantRangeError as error:
        raise QuantRangeError(
            f"weight {plan.key!r} of node {layer.name!r}: {error}. Repair it, or exclude the node.", tensor=plan.key
        ) from error
    whole, missed = weight_errors(weight, packed)
    share = missed / whole if whole else missed
    return SolvedWeight(
        key=plan.key, packed=packed, asked="rtn", algorithm="rtn", data=False, error=share, rtn_error=share
    )
