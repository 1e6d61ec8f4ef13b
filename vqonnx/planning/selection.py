"""Names, globs, regular expressions, operators and predicates that choose nodes."""

import fnmatch
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence

import onnx_ir as ir

from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Pattern, Selection

_GLOB = frozenset("*?[")


def rejections(
    nodes: Sequence[ir.Node], selection: Selection, known: Iterable[str] = (), operators: Collection[str] = ()
) -> dict[str, str]:
    """Why each node that the user's selection leaves out is left out, by node name.

    Args:
        nodes: All nodes, with unique names.
        selection: What the user asked for.
        known: Further names that a pattern may name without effect: nodes that preparation folded away.
        operators: Operators that the selection may name though neither ONNX nor the model has them.

    Raises:
        OptionError: A pattern matches no node, or an operator is in neither the model nor any ONNX domain, and the
            selection is strict.
    """
    folded = set(known)
    complain = _refuse if selection.strict else _warn
    _check_op_types(nodes, [name for name in selection.op_types if name not in operators], complain)
    wanted = matching(nodes, selection.nodes, "nodes_to_quantize", folded, complain)
    excluded = matching(nodes, selection.exclude, "nodes_to_exclude", folded, complain)
    reasons: dict[str, str] = {}
    for node in nodes:
        name = node.name or ""
        if name in excluded:
            reasons[name] = "excluded by nodes_to_exclude"
        elif selection.nodes and name not in wanted:
            reasons[name] = "not in nodes_to_quantize"
        elif selection.op_types and node.op_type not in selection.op_types:
            reasons[name] = f"{node.op_type} is not in op_types_to_quantize"
    return reasons


Complaint = Callable[[str, str], None]
"""Does with a text what is to be done about a name that matches nothing; the second argument is the option."""


def _refuse(text: str, option: str) -> None:
    raise OptionError(f"{option}: {text}", option=option)


def _warn(text: str, option: str) -> None:
    logging.getLogger("vqonnx").warning("%s: %s", option, text)


def matching(
    nodes: Sequence[ir.Node],
    patterns: Iterable[Pattern],
    option: str,
    known: Collection[str] = (),
    complain: Complaint = _refuse,
) -> set[str]:
    """Names of the nodes that any of the patterns chooses.

    Args:
        nodes: Nodes with unique names.
        patterns: See ``Pattern``.
        option: What the user calls the option that they come from.
        known: Further names that a pattern may name without effect.
        complain: What to do about a pattern that chooses no node and names none of ``known``; by default raise.

    Raises:
        OptionError: A pattern chooses nothing, or is no regular expression.
    """
    names = [node.name or "" for node in nodes]
    present = set(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = _hits(nodes, names, present, pattern)
        if not hits and isinstance(pattern, str) and not _any_name(known, pattern):
            complain(
                f"{pattern!r} matches no node of the model{nearest(pattern, names)}. "
                "Give a node's name, a glob such as '*conv*', 're:' and a regular expression, 'op:' and an operator, "
                "or a predicate; 'vqonnx plan MODEL' lists the names.",
                option,
            )
        found |= hits
    return found


def _hits(nodes: Sequence[ir.Node], names: Sequence[str], present: set[str], pattern: Pattern) -> set[str]:
    if callable(pattern):
        return {node.name or "" for node in nodes if pattern(ir.serde.serialize_node(node))}
    if pattern in present:  # names may hold brackets, so an exact name is tried before a glob
        return {pattern}
    if pattern.startswith("op:"):
        return {node.name or "" for node in nodes if node.op_type == pattern[3:]}
    return {name for name in names if _name_matches(name, pattern)}


def _any_name(names: Iterable[str], pattern: str) -> bool:
    return any(name == pattern or _name_matches(name, pattern) for name in names)


def _name_matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.fullmatch(pattern[3:], name) is not None
        except re.error as error:
            raise OptionError(f"{pattern!r} is not a regular expression: {error}", option="nodes") from error
    return bool(_GLOB & set(pattern)) and fnmatch.fnmatchcase(name, pattern)


def _check_op_types(nodes: Sequence[ir.Node], op_types: Sequence[str], complain: Complaint) -> None:
    present = {node.op_type for node in nodes}
    unknown = [op_type for op_type in op_types if op_type not in present and not _is_onnx_operator(op_type)]
    for op_type in unknown:
        offered = nearest(op_type, present | _onnx_operators())
        complain(f"{op_type!r} is neither an ONNX operator nor in the model{offered}.", "op_types_to_quantize")


def _is_onnx_operator(op_type: str) -> bool:
    from onnx import defs

    return any(defs.has(op_type, domain) for domain in ("", "ai.onnx.ml"))


def _onnx_operators() -> set[str]:
    from onnx import defs

    return {schema.name for schema in defs.get_all_schemas() if schema.domain in ("", "ai.onnx.ml")}
