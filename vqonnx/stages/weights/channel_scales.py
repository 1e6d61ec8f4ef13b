"""AWQ's channel scales in the graph: what weights were multiplied by, the activation before them is divided by."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.core.weight_plan import WeightForm, WeightOnlyPlan, WeightPlan
from vqonnx.graph.edit import add_initializer, insert_before, make_node
from vqonnx.graph.names import NameAllocator
from vqonnx.planning.weights.layers import Layer
from vqonnx.stages.weights.solve import scale_outputs
from vqonnx.stages.weights.store import SolvedWeights
from vqonnx.transforms.fold_scales import Fold, foldable


def fold_before(weights: Sequence[WeightPlan], plan: WeightOnlyPlan, layers: Mapping[str, Layer]) -> Fold | None:
    """Where factors for the one activation that these weights read can go; None if nowhere."""
    readers = [layers[name] for weight in weights for name in weight.readers]
    value = readers[0].input
    if value is None:
        return None
    alone = [one for one in plan.weights.values() if len(one.readers) == 1 and one.form is not WeightForm.BNB4]
    return foldable(
        value,
        [layer.node for layer in readers],
        weights[0].in_features,
        planned=plan.layers,
        scalable=[one.readers[0] for one in alone],
    )


def fold_channel_scales(
    model: ir.Model, plan: WeightOnlyPlan, layers: Mapping[str, Layer], solved: SolvedWeights
) -> tuple[dict[str, SolvedWeight], list[str]]:
    """Divide each activation whose readers have channel scales by them, in place, while the layers are still float.

    Returns:
        The solved weights that are to be written instead of those in ``solved``, whose output channels took factors;
        and a remark for each activation that took a node of its own, since no constant could hold its factors.
    """
    names = NameAllocator.of(model)
    changed: dict[str, SolvedWeight] = {}
    notes = []
    for weights in _scaled_together(plan.weights.values(), solved):
        scales = solved[weights[0].key].channel_scales
        assert scales is not None
        factors = 1 / scales.astype(np.float64)
        fold = fold_before(weights, plan, layers)
        packed = None if fold is None else _scaled_producers(fold, plan, changed, solved, factors)
        if fold is not None and packed is not None and fold.apply(factors, names):
            changed |= packed
        else:
            readers = [layers[name] for weight in weights for name in weight.readers]
            notes.append(_divide(readers, factors, names))
    return changed, notes


def _scaled_together(weights: Iterable[WeightPlan], solved: SolvedWeights) -> list[list[WeightPlan]]:
    """Weights with channel scales, by the one activation that they read."""
    together: dict[str, list[WeightPlan]] = {}
    for weight in weights:
        if solved[weight.key].channel_scales is not None:
            together.setdefault(weight.inputs[0], []).append(weight)
    return list(together.values())


def _scaled_producers(
    fold: Fold,
    plan: WeightOnlyPlan,
    changed: Mapping[str, SolvedWeight],
    solved: SolvedWeights,
    factors: np.ndarray,
) -> dict[str, SolvedWeight] | None:
    """The packed weights before the activation, with factors on their output channels; None if one cannot take them."""
    found: dict[str, SolvedWeight] = {}
    for node in fold.packed:
        key = plan.layers[node].weight
        scaled = scale_outputs(changed.get(key) or solved[key], factors)
        if scaled is None:
            return None
        found[key] = scaled
    return found


def _divide(readers: Sequence[Layer], factors: np.ndarray, names: NameAllocator) -> str:
    """Put a Mul before the layers; how the report tells it."""
    value, first = readers[0].input, readers[0].node
    assert value is not None
    graph = first.graph
    assert isinstance(graph, ir.Graph)
    constant = factors.astype(readers[0].dtype.numpy())
    scales = add_initializer(graph, names.unique(f"{value.name}_channel_scales"), constant)
    node = make_node(names, "Mul", [value, scales], name=f"{first.name}_scaled")
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    insert_before(first, node)
    for layer in readers:
        layer.node.replace_input_with(0, node.outputs[0])
    return f"{value.name!r} is divided by channel scales in a node of its own: no constant before it can hold them"
