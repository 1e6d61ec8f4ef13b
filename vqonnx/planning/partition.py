"""Which of the candidates become integer nodes: the largest set in which every node has a reason to be there."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from vqonnx.core.plan import Skip
from vqonnx.core.target import Kernel
from vqonnx.graph.walk import constant_tensor, is_float
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.fused import is_fused
from vqonnx.planning.quantized import is_dequantized


class Partition:
    """The integer nodes, and where their values meet the float part.

    Starts from all candidates and removes, until nothing changes, light operators, data movers and clips that
    do not stand between integer nodes: a conversion to integers and back costs more than they save. What is left
    is the greatest fixed point, so the order of removal does not matter.

    Args:
        candidates: What the device could run in integers.
        everything: Whether light operators stay wherever they stand.
        edges: Whether data movers stay on one side of an integer node too. With one scale on both sides that changes
            no number, and a device for whole graphs need not hand them over.
    """

    def __init__(self, candidates: Iterable[Candidate], *, everything: bool = False, edges: bool = False) -> None:
        self._kept = {candidate.node: candidate for candidate in candidates}
        self._by_tail = {candidate.tail: candidate for candidate in self._kept.values()}
        self._everything, self._edges = everything, edges
        self.skips: list[Skip] = []
        self._reduce()

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._kept.values())

    def maker(self, value: ir.Value | None) -> Candidate | None:
        """The integer node that computes the value, if one does."""
        producer = value.producer() if value is not None else None
        found = self._by_tail.get(producer) if producer is not None else None
        return found if found is not None and found.node in self._kept else None

    def integer_readers(self, value: ir.Value) -> list[Candidate]:
        """The integer nodes that read the value as an activation."""
        readers = []
        for node, index in value.uses():
            candidate = self._kept.get(node)
            if candidate is not None and index in candidate.activations():
                readers.append(candidate)
        return readers

    def clip_after(self, candidate: Candidate) -> Candidate | None:
        """The clip that alone reads the node's output, and which the output's range, or the kernel, may absorb."""
        output = candidate.tail.outputs[0]
        if output.is_graph_output() or len(output.uses()) != 1 or not self._may_clip(candidate):
            return None
        reader, index = next(iter(output.uses()))
        clip = self._kept.get(reader) if reader.graph is output.graph else None
        return clip if clip is not None and index == 0 and is_fused(reader, clip.support, candidate.tail) else None

    def _may_clip(self, candidate: Candidate) -> bool:
        """Whether the range of what the node gives is its own."""
        return candidate.support.kernel is Kernel.COMPUTE

    def follows(self, candidate: Candidate) -> bool:
        """Whether the node is an activation that belongs to the node before it."""
        maker = self.maker(candidate.input(0)) if candidate.support.kernel.is_activation else None
        return maker is not None and self.clip_after(maker) is candidate

    def _reduce(self) -> None:
        pending = list(self._kept.values())
        while pending:
            reasons = {c.node: reason for c in pending if c.node in self._kept and (reason := self._out_of_place(c))}
            affected: dict[ir.Node, Candidate] = {}
            for node, reason in reasons.items():
                gone = self._kept.pop(node)
                self.skips += _skips(gone, reason)
                affected.update((near.node, near) for near in self._neighbours(node))
            pending = list(affected.values())

    def _neighbours(self, node: ir.Node) -> Iterator[Candidate]:
        """Nodes whose place may depend on this one: a clip or mover hands the question on to what is before it."""
        for near in (*node.predecessors(), *node.successors()):
            candidate = self._kept.get(near) or self._by_tail.get(near)
            if candidate is not None and candidate.node in self._kept:
                yield candidate
        pending, before = [node], set[ir.Node]()
        while pending:
            for near in pending.pop().predecessors():
                found = self._kept.get(near)
                if found is None or near in before:
                    continue
                before.add(near)
                if found.support.kernel is Kernel.COMPUTE:
                    yield found
                else:
                    pending.append(near)

    def _out_of_place(self, candidate: Candidate) -> str:
        """Why the node gains nothing from integers here; empty if it does."""
        kernel = candidate.support.kernel
        if kernel is Kernel.CLIPS:
            return self._clip_out_of_place(candidate)
        if self._edges and kernel is Kernel.MOVES:
            return "" if self._touches_integers(candidate) else "no integer node is before or behind it"
        if (
            candidate.is_heavy()
            or (self._everything and kernel in (Kernel.COMPUTE, Kernel.FUSED))
            or self._saves_a_conversion(candidate)
        ):
            return ""
        sources = [
            v for i in candidate.activations() if (v := candidate.input(i)) is not None and constant_tensor(v) is None
        ]
        if not all(self._comes_as_integers(value) for value in sources):
            return "not worth a conversion to integers: an input comes from a float node"
        floats = [output for output in candidate.node.outputs if is_float(output)]
        if floats and not any(map(self.integer_readers, floats)):  # without one (ArgMax) nothing is converted back
            return "not worth a conversion to integers: only float nodes read its output"
        return ""

    def _touches_integers(self, mover: Candidate) -> bool:
        """Whether a node that computes in integers is before or behind a data mover, through others."""
        pending, seen = [mover], {mover.node}
        while pending:
            one = pending.pop()
            near = [self.maker(one.input(index)) for index in one.activations()]
            near += [reader for output in one.node.outputs for reader in self.integer_readers(output)]
            for found in near:
                if found is not None and found.support.kernel is not Kernel.MOVES:
                    return True
                if found is not None and found.node not in seen:
                    seen.add(found.node)
                    pending.append(found)
        return False

    def _saves_a_conversion(self, candidate: Candidate) -> bool:
        """Whether a light product with fewer channels in than out feeds heavy nodes only.

        Then the conversion of its smaller input takes the place of that of its output: the first Conv of a network
        whose second is a dense one.
        """
        return candidate.widens() and self._feeds_heavy_only(candidate.tail.outputs[0])

    def _feeds_heavy_only(self, value: ir.Value) -> bool:
        readers = [self._kept.get(node) for node, _ in value.uses()]
        return bool(readers) and not value.is_graph_output() and all(map(self._leads_to_heavy, readers))

    def _leads_to_heavy(self, reader: Candidate | None) -> bool:
        if reader is None or reader.is_heavy():
            return reader is not None
        return reader.support.kernel is not Kernel.COMPUTE and self._feeds_heavy_only(reader.node.outputs[0])

    def _comes_as_integers(self, value: ir.Value | None) -> bool:
        """Whether an integer node computes the value and cannot give it in float for free."""
        if value is not None and is_dequantized(value):
            return True
        maker = self.maker(value)
        if maker is not None and self.follows(maker):
            maker = self.maker(maker.input(0))
        return maker is not None and not maker.support.float_output

    def _clip_out_of_place(self, clip: Candidate) -> str:
        if self._everything and not clip.support.types:  # no integer operator clips alone
            return ""
        maker = self.maker(clip.input(0))
        if maker is None or self.clip_after(maker) is not clip:
            return "no integer node gives it its only input"
        if maker.support.float_output and not clip.node.outputs[0].uses():
            return "the node before it gives a float output for free"
        return ""

    def has_free_float_output(self, candidate: Candidate, output: ir.Value) -> bool:
        """Whether the node's integer kernel can give this output in float, and no integer node reads it.

        ONNX Runtime makes a float Gemm of a rank-2 MatMul and an Add behind it, so that such a product must be
        quantized to stay integer.
        """
        if not candidate.support.float_output or self.integer_readers(output):
            return False
        merged = candidate.add is None and candidate.node.op_type == "MatMul" and len(output.shape or ()) == 2
        return not (merged and any(node.op_type == "Add" for node, _ in output.uses()))


def _skips(candidate: Candidate, reason: str) -> Iterator[Skip]:
    """The candidate's nodes: with a MatMul its bias stays float too."""
    yield Skip(candidate.name, candidate.node.op_type, reason)
    if candidate.add is not None:
        yield Skip(candidate.tail.name or "", candidate.tail.op_type, f"the product before it stays float: {reason}")
