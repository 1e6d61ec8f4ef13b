"""Prepare: the float model in the plain form that the later stages read."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.graph.edit import remove_dead
from vqonnx.graph.names import ensure_unique_names
from vqonnx.graph.walk import nodes
from vqonnx.transforms.carried_constants import free_carried_constants
from vqonnx.transforms.constants import drop_constant_inputs, fold_constants, lift_initializers
from vqonnx.transforms.duplicates import merge_duplicate_initializers
from vqonnx.transforms.fold_affine import fold_batch_norms, fold_channel_arithmetic
from vqonnx.transforms.fold_matmul import fold_batch_norms_after_matmul
from vqonnx.transforms.functions import inline_functions
from vqonnx.transforms.gemm import normalize_gemms
from vqonnx.transforms.noops import remove_noops
from vqonnx.transforms.opset import upgrade_opset
from vqonnx.transforms.pooling import average_globally
from vqonnx.transforms.shapes import ShapeNotes, infer_shapes

Pass = Callable[[ir.Model], int]

PASSES: Mapping[str, Pass] = MappingProxyType(
    {
        "constants folded": fold_constants,
        "nodes without effect removed": remove_noops,
        "means over all positions made poolings": average_globally,
        "Gemms normalized": normalize_gemms,
        "BatchNormalizations folded": fold_batch_norms,
        "BatchNormalizations folded into MatMul": fold_batch_norms_after_matmul,
        "scales and biases folded": fold_channel_arithmetic,
    }
)
"""What is repeated until nothing changes, in order, by what a note calls it."""

MAX_ROUNDS = 8
"""A pass can enable an earlier one only by removing a node, and chains of that kind are short."""
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A prepared model.

    Attributes:
        model: The model that was given: unique names, known types, constants as initializers.
        notes: What each pass changed, and what inference left open, one sentence each.
        folded: Names of nodes that were there before and are gone; users may still name them in patterns.
        seconds: Time taken.
    """

    model: ir.Model
    notes: tuple[str, ...]
    folded: frozenset[str]
    seconds: float


def settle(model: ir.Model, opset: int) -> dict[str, int]:
    """Write out functions, and bring constants into the main graph, at ``opset`` or above; how many, by what was done.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
        OptionError: ``opset`` is beyond what is known.
    """
    return {
        "functions written out": inline_functions(model),
        "inputs with a value made constant": drop_constant_inputs(model),
        f"opset raised to {opset}": int(upgrade_opset(model, opset)),
        "constants of bodies moved to the main graph": lift_initializers(model),
    }


def prepare(
    model: ir.Model, *, opset: int = 13, requantize: bool = False, passes: Mapping[str, Pass] = PASSES
) -> Prepared:
    """Bring ``model`` into the form that planning needs, in place; its outputs stay equal up to rounding.

    QuantizeLinear and DequantizeLinear, and what lies between them, are left as they are.

    Args:
        model: A private model (``graph.io.load``).
        opset: Least opset of the default domain; per-channel QuantizeLinear came with 13.
        requantize: Turn weights that are quantized already back into float numbers.
        passes: What to repeat; by default all of ``PASSES``.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
        OptionError: ``opset`` is beyond what is known.
    """
    started = time.perf_counter()
    ensure_unique_names(model)
    before = {node.name for node in nodes(model) if node.name}
    counts = settle(model, opset)
    counts["constants that Loops carried read from outside"] = free_carried_constants(model)
    ensure_unique_names(model)  # bodies of functions are named by the graph that calls them alone
    infer_shapes(model)
    counts |= _repeat(model, _with_option(passes, requantize))
    counts["dead nodes removed"] = remove_dead(model)
    counts["duplicate constants merged"] = merge_duplicate_initializers(model)
    ensure_unique_names(model)
    open_ends = infer_shapes(model)
    return Prepared(
        model=model,
        notes=(*_told(counts), *_told_shapes(open_ends)),
        folded=frozenset(before - {node.name for node in nodes(model)}),
        seconds=time.perf_counter() - started,
    )


def _with_option(passes: Mapping[str, Pass], requantize: bool) -> dict[str, Pass]:
    folding = functools.partial(fold_constants, requantize=requantize)
    return {name: folding if step is fold_constants else step for name, step in passes.items()}


def _repeat(model: ir.Model, passes: Mapping[str, Pass]) -> dict[str, int]:
    """Run all passes until a round changes nothing; return the sums of what each changed."""
    counts = dict.fromkeys(passes, 0)
    for _ in range(MAX_ROUNDS):
        changed = {name: step(model) for name, step in passes.items()}
        counts = {name: counts[name] + changed[name] for name in passes}
        if not any(changed.values()):
            break
    return counts


def _told(counts: Mapping[str, int]) -> list[str]:
    return [name if name.startswith("opset") else f"{name}: {count}" for name, count in counts.items() if count]


def _told_shapes(notes: ShapeNotes) -> list[str]:
    """Failures, and how many values stayed open with the first few names."""
    kinds: tuple[tuple[str, Sequence[str]], ...] = (("type", notes.untyped), ("rank", notes.unshaped))
    gaps = [
        f"{len(names)} values without a known {what}: {', '.join(names[:_NAMED])}{' …' * (len(names) > _NAMED)}"
        for what, names in kinds
        if names
    ]
    return [*notes.failures, *gaps]
