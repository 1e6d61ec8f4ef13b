"""Layer inputs of any model, a solver that keeps its weights in a folder, and what a walk must find."""

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from vqonnx.calibration.model import exposing
from vqonnx.calibration.moments import InputMoments, finite_rows
from vqonnx.calibration.samples import Samples
from vqonnx.graph.edit import add_initializer, remove_dead
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator, ensure_unique_names
from vqonnx.graph.segments import constant_nodes
from vqonnx.graph.walk import nodes_by_name
from vqonnx.runtime.session import open_session
from vqonnx.stages.weights import inputs as stage
from vqonnx.stages.weights.inputs import WalkOptions, walk_layer_inputs
from vqonnx.stages.weights.steps import LayerInput, unwalkable
from vqonnx.transforms.shapes import infer_shapes

Array = Any
Feed = Mapping[str, Array]


def loaded(model: onnx.ModelProto, *, inferred: bool = True) -> ir.Model:
    """The model with unique names, and types where they are inferred; nothing is folded."""
    made = load(model)
    ensure_unique_names(made)
    if inferred:
        infer_shapes(made)
    return made


def samples_of(feeds: Sequence[Feed], **arguments: Any) -> Samples:
    return Samples(lambda index: feeds[index], len(feeds), **arguments)


def constant_values(model: ir.Model) -> dict[str, Array]:
    """What each node with a weight of two axes reads as such, whatever computes it, by the value's name."""
    made = constant_nodes(model.graph)
    values = [node.inputs[1] for node in model.graph if node.op_type in ("MatMul", "Gemm", "Conv") and not node.domain]
    fixed = list(dict.fromkeys(one.name or "" for one in values if one is not None and _is_constant(one, made)))
    return dict(zip(fixed, open_session(exposed(model, fixed)).run(None, {}), strict=True)) if fixed else {}


def _is_constant(value: ir.Value, made: Collection[ir.Node]) -> bool:
    return value.producer() in made or (value.is_initializer() and not value.is_graph_input())


def exposed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy that puts these values out, constants too, and reads no input that they do not need."""
    copy = load(model)
    known = {value.name: value for node in copy.graph for value in node.outputs} | dict(copy.graph.initializers)
    known |= {value.name: value for value in copy.graph.inputs}
    copy.graph.outputs[:] = [known[name] for name in names]
    remove_dead(copy)
    for value in list(copy.graph.inputs):
        if not value.uses() and not value.is_graph_output():
            copy.graph.inputs.remove(value)
    return copy


def layer_inputs(model: ir.Model) -> list[LayerInput]:
    """What the products with a constant matrix of the main graph read."""
    weights = constant_values(model)
    readers: dict[tuple[str, int, int], list[str]] = {}
    for node in model.graph:
        found = _axis_and_features(node, weights)
        if found is not None and node.inputs[0] is not None:
            readers.setdefault((node.inputs[0].name or "", *found), []).append(node.name or "")
    refused = unwalkable(model, [value for value, _, _ in readers])
    return [
        LayerInput(value=value, axis=axis, features=features, nodes=tuple(nodes))
        for (value, axis, features), nodes in readers.items()
        if value not in refused
    ]


def _axis_and_features(node: ir.Node, weights: Mapping[str, Array]) -> tuple[int, int] | None:
    weight = weights.get(node.inputs[1].name or "") if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if weight is None:
        return None
    if node.op_type == "MatMul" and weight.ndim == 2:
        return -1, weight.shape[0]
    if node.op_type == "Gemm":
        return (0 if int_attribute(node, "transA", 0) else -1), weight.shape[int_attribute(node, "transB", 0)]
    if node.op_type == "Conv" and weight.shape[2:] == (1,) * (weight.ndim - 2) and int_attribute(node, "group", 1) == 1:
        return 1, weight.shape[1]
    return None


class Solver:
    """Shrinks weights by amounts that depend on the moments, and keeps them in a folder."""

    def __init__(self, model: ir.Model, inputs: Sequence[LayerInput], folder: Path) -> None:
        nodes, weights = nodes_by_name(model), constant_values(model)
        self._weights = {
            name: weights[nodes[name].inputs[1].name or ""]  # type: ignore[union-attr]
            for one in inputs
            for name in one.nodes
        }
        self._folder = folder
        self.before_solve: Callable[[LayerInput], None] = lambda one: None
        self.moments: dict[LayerInput, InputMoments] = {}
        self.asked: list[set[str]] = []
        self._pending = {name for one in inputs for name in one.nodes}

    def finished(self, one: LayerInput) -> bool:
        return all(self._path(name).exists() for name in one.nodes)

    def solve(self, one: LayerInput, moments: InputMoments) -> None:
        self.before_solve(one)
        assert one not in self.moments
        self.moments[one] = moments
        assert moments.held_back is not None
        for name in one.nodes:
            size = np.sqrt(np.trace(moments.calibration) / max(1, moments.rows * one.features))
            draft = self._path(name).with_suffix(".tmp")
            with draft.open("wb") as file:
                np.save(file, (self._weights[name] * (0.7 + 0.2 * np.tanh(size))).astype(self._weights[name].dtype))
            draft.replace(self._path(name))

    def constants(self, nodes: Collection[str]) -> dict[tuple[str, int], Array]:
        self.asked.append(set(nodes))
        return {(name, 1): np.load(self._path(name)) for name in sorted(nodes) if self._path(name).exists()}

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.replace('/', '~')}.npy"

    def digest(self) -> dict[str, bytes]:
        """What was solved, as bytes."""
        return {path.name: path.read_bytes() for path in sorted(self._folder.glob("*.npy"))}


def walk(model: ir.Model, feeds: Sequence[Feed], folder: Path, **options: Any) -> Solver:
    """Walk all layer inputs of ``model``."""
    inputs = layer_inputs(model)
    folder.mkdir(exist_ok=True)
    solver = Solver(model, inputs, folder)
    walk_layer_inputs(model, inputs, samples_of(feeds), solver, WalkOptions(**options))
    return solver


def replaced(model: ir.Model, constants: Mapping[tuple[str, int], Array]) -> ir.Model:
    """A copy of ``model`` in which these inputs of nodes are other constants."""
    copy = load(model)
    nodes, names = nodes_by_name(copy), NameAllocator.of(copy)
    for (name, index), array in constants.items():
        nodes[name].replace_input_with(index, add_initializer(copy.graph, names.unique("other"), array))
    remove_dead(copy)
    return copy


def expected_moments(
    model: ir.Model, inputs: Sequence[LayerInput], feeds: Iterable[Feed]
) -> dict[LayerInput, tuple[Array, int]]:
    """H and the number of rows of each input, in float64, by runs of the whole model."""
    sums = {one: (np.zeros((one.features, one.features)), 0) for one in inputs}
    session = open_session(exposing(model, list(dict.fromkeys(one.value for one in inputs))), threads=1)
    outputs = [value.name for value in session.get_outputs()]
    for feed in feeds:
        found = dict(zip(outputs, session.run(None, dict(feed)), strict=True))
        for one in inputs:
            rows = np.moveaxis(found[one.value].astype(np.float64), one.axis, -1).reshape(-1, one.features)
            sums[one] = sums[one][0] + rows.T @ rows, sums[one][1] + len(rows)
    return sums


def die(model: Path, samples: Path, work: Path, after: int, where: str) -> None:
    """Walk, and be killed when ``after`` inputs are solved: in the solver, or in the middle of the samples' runs."""
    with np.load(samples) as arrays:
        feeds = [{"x": arrays[name]} for name in sorted(arrays)]
    walked = load(model)
    inputs = layer_inputs(walked)
    solver = Solver(walked, inputs, work / "weights")
    measured = 0

    def kill_in_solver(one: LayerInput) -> None:
        if where == "solver" and len(solver.moments) == after:
            os.kill(os.getpid(), signal.SIGKILL)

    def kill_while_running(*arguments: Any, **named: Any) -> Array:
        nonlocal measured
        measured += len(solver.moments) == after
        if where == "run" and measured == len(feeds) // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return finite_rows(*arguments, **named)

    solver.before_solve = kill_in_solver
    stage.finite_rows = kill_while_running  # type: ignore[attr-defined]
    stage.walk_layer_inputs(walked, inputs, samples_of(feeds), solver, WalkOptions(work=work, save_every=0))


if __name__ == "__main__":
    die(*map(Path, sys.argv[1:4]), int(sys.argv[4]), sys.argv[5])  # type: ignore[misc, arg-type]
