"""Raise a model's opset, so that quantized operators and their newer forms may be used in it."""

import onnx
import onnx.version_converter
import onnx_ir as ir

from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph import walk
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import from_proto, to_proto
from vqonnx.transforms.opset_rules import RULES, Site

OLDEST = 7
"""The first opset with numpy broadcasting, on which our rules start."""
NEWEST = 23
"""The last opset whose changes were read when the rules were written."""

# Rules that look at the type or rank of an input, which a file need not state.
_NEED_TYPES = frozenset({"Clip", "Pad", "Softmax", "LogSoftmax", "Hardmax"})


def upgrade_opset(model: ir.Model, minimum: int) -> bool:
    """Raise the default domain's opset to ``minimum`` where it is lower, in place; outputs stay equal.

    From opset 7 on by the rules in ``opset_rules``, which keep names and weights and work in subgraphs and
    beside custom operators; below it by ONNX's version converter. Functions bring their own opset and stay, but for
    its number where nothing in them has changed: ONNX's checker compares their operators with the model's.

    Args:
        model: Any model; the one that is given is changed.
        minimum: The lowest opset wanted, at most ``NEWEST``.

    Returns:
        Whether the opset was raised.

    Raises:
        UnsupportedModelError: An operator has changed in a way that its use here does not survive.
        OptionError: ``minimum`` is beyond what is known here.
    """
    current = model.opset_imports.get("")
    if current is None or current >= minimum:
        return False
    if minimum > NEWEST:
        raise OptionError(
            f"opset {minimum} is newer than {NEWEST}, the last one known here. Ask for {NEWEST} at most.",
            option="opset",
        )
    if current < OLDEST:
        _convert_ancient(model)
    raised = max(minimum, OLDEST)
    _apply_rules(model, max(current, OLDEST), raised)
    model.opset_imports[""] = raised
    _raise_functions(model, raised)
    return True


def convert_opset(model: ir.Model, version: int) -> bool:
    """Bring the default domain's opset to ``version``, in place; return whether it changed.

    Raises:
        OptionError: The model's opset is newer: what newer operators say, older ones often cannot.
        UnsupportedModelError: See ``upgrade_opset``.
    """
    current = model.opset_imports.get("", version)
    if version < current:
        raise OptionError(
            f"cannot lower the opset from {current} to {version}. Export the model with opset {version}, "
            f"or ask for {current} or more.",
            option="opset",
        )
    return upgrade_opset(model, version)


def _apply_rules(model: ir.Model, current: int, minimum: int) -> None:
    nodes = [node for graph in walk.nested_graphs(model.graph) for node in graph if not node.domain]
    if any(_reads_unknown(node) for node in nodes):
        infer_missing(model)
    names = NameAllocator.of(model)
    for node in nodes:
        for version in range(current + 1, minimum + 1):
            change = RULES.get((node.op_type, version))
            if change is not None:
                change(Site(node, names))
        _refuse_misfit(node, minimum)


def _raise_functions(model: ir.Model, opset: int) -> None:
    for function in model.functions.values():
        current = function.opset_imports.get("", opset)
        if OLDEST <= current < opset and not any(
            (node.op_type, version) in RULES
            for node in function.graph.all_nodes()
            if not node.domain
            for version in range(current + 1, opset + 1)
        ):
            function.opset_imports[""] = opset


def _reads_unknown(node: ir.Node) -> bool:
    if node.op_type not in _NEED_TYPES or not node.inputs or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype is None or node.inputs[0].shape is None


def _refuse_misfit(node: ir.Node, opset: int) -> None:
    """Refuse a node that its operator's schema at ``opset`` does not allow: its change has no rule."""
    if not onnx.defs.has(node.op_type, opset, ""):
        return  # not ONNX's at all: some exporters leave the domain of their own operators empty
    schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if schema.deprecated:
        fact = "was removed"
    elif unknown:
        fact = f"has no attribute {', '.join(unknown)}"
    elif not schema.min_input <= len(node.inputs) <= schema.max_input:
        fact = f"takes {schema.min_input} to {schema.max_input} inputs, not {len(node.inputs)}"
    else:
        return
    raise UnsupportedModelError(
        f"cannot raise node {node.name!r} ({node.op_type}) to opset {opset}: the operator {fact} there, and no rule "
        "says how to replace it. Export the model with a newer opset.",
        node=node.name,
    )


def _convert_ancient(model: ir.Model) -> None:
    proto = to_proto(model)
    # The converter knows operators by their first form only, with IR version 3 or later.
    proto.ir_version = max(proto.ir_version, 3)
    try:
        converted = from_proto(onnx.version_converter.convert_version(proto, OLDEST), owned=True)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise UnsupportedModelError(
            f"cannot raise the model from opset {model.opset_imports['']} to {OLDEST}: ONNX's version converter says: "
            f"{error}. Export the model with a newer opset."
        ) from error
    model.graph = converted.graph
