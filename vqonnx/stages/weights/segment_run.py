"""Run one segment of a model over samples, several at a time; what comes out is told in the samples' order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.activation_store import ActivationStore
from vqonnx.calibration.feeds import Array, Feed
from vqonnx.calibration.probe import running
from vqonnx.calibration.samples import Samples
from vqonnx.errors import OptionError, UnsupportedModelError, VerificationError
from vqonnx.graph.edit import add_initializer, remove_dead
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.segments import Segment
from vqonnx.graph.walk import nested_graphs
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = ("CPUExecutionProvider",)

Outputs = Mapping[str, Array]
Constants = Mapping[tuple[str, int], Array]
"""What replaces an input of a node, by the node's name and the input's index."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRunner:
    """What running a segment takes.

    Attributes:
        model: The model that was cut.
        samples: Where graph inputs come from.
        numbers: The samples that run.
        store: Where the outputs of earlier segments lie.
        pool: Runs samples; one thread each, so that sums come out the same on any machine.
        runs: Samples that run at a time.
        providers: ONNX Runtime's execution providers, best first.
    """

    model: ir.Model
    samples: Samples
    numbers: Sequence[int]
    store: ActivationStore
    pool: Executor
    runs: int
    providers: tuple[str, ...] = CPU

    def run(
        self, segment: Segment, constants: Constants, look: Callable[[int, Outputs], _Seen]
    ) -> Generator[tuple[int, _Seen], None, None]:
        """What ``look`` sees in the outputs of each sample.

        Args:
            segment: A segment whose inputs are graph inputs or stored.
            constants: Replaced inputs of its nodes.
            look: Takes a sample's number and the outputs by name; called by several threads.

        Raises:
            SampleError: The segment cannot run a sample.
            UnsupportedModelError: ONNX Runtime has no kernels for it, or an output is no tensor of plain numbers.
            OptionError: A constant does not fit its node.
        """
        session = self._session(segment, constants)
        names = [value.name or "" for value in segment.outputs]

        def task(item: tuple[int, Feed]) -> tuple[int, _Seen]:
            sample, given = item
            fed = {value.name or "": self._value(value, sample, given) for value in segment.inputs}
            with running(sample, given or fed), runtime_errors("run the model"):
                found = run_session(session, None, fed)
            return sample, look(sample, {name: _plain(name, one) for name, one in zip(names, found, strict=True)})

        yield from _in_order(self.pool, task, self._feeds(segment), ahead=self.runs + 1)

    def _feeds(self, segment: Segment) -> Iterator[tuple[int, Feed]]:
        """The number and the graph inputs of each sample; nothing is read where the segment needs no graph input."""
        needed = any(value.is_graph_input() for value in segment.inputs)
        for sample in self.numbers:
            yield sample, self.samples.all[sample] if needed else {}

    def _value(self, value: ir.Value, sample: int, given: Feed) -> Array:
        name = value.name or ""
        if not value.is_graph_input():
            return self.store.read(name, sample)
        if name not in given and value.const_value is not None:
            return value.const_value.numpy()  # an input with a default
        return given[name]

    def _session(self, segment: Segment, constants: Constants) -> "InferenceSession":
        part = segment.model(self.model)
        for value in part.graph.inputs:
            self._settle(value)
        _put(part, constants)
        try:
            return open_session(part, providers=self.providers, threads=1 if self.providers == CPU else None)
        except VerificationError as error:
            raise UnsupportedModelError(
                f"the part of the model that makes {segment.results[0].name!r} does not run: "
                f"{error.__cause__ or error}. Choose an algorithm that needs no samples, or a provider that runs it"
            ) from error

    def _settle(self, value: ir.Value) -> None:
        """Let an input of a segment have the type and shape that its values have, whatever the model declares.

        ONNX Runtime only warns of a wrong shape inside a graph, but refuses it at an input.
        """
        places = self.store.places(value.name or "").values()
        if value.shape is not None and not all(_fits(place.shape, value.shape) for place in places):
            value.shape = None
        if value.type is None:
            value.type = next((ir.TensorType(ir.DataType.from_numpy(np.dtype(place.dtype))) for place in places), None)


def _plain(name: str, found: object) -> Array:
    array = found if isinstance(found, np.ndarray | np.generic) else None
    if array is None or array.dtype.isbuiltin != 1 or array.dtype.kind not in "biufc":
        kind = type(found).__name__ if array is None else array.dtype.name
        raise UnsupportedModelError(
            f"value {name!r}, which the model does not declare a type of, is a {kind}, and cannot be kept between two "
            "pieces of the model. Choose an algorithm that needs no samples"
        )
    return np.asarray(array)


def _fits(shape: tuple[int, ...], declared: ir.Shape) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(size, int) or size == length for length, size in zip(shape, declared, strict=True)
    )


def _put(part: ir.Model, constants: Constants) -> None:
    """Let nodes of ``part`` read other constants."""
    if not constants:
        return
    nodes = {node.name: node for graph in nested_graphs(part.graph) for node in graph}
    names = NameAllocator.of(part)
    for (name, index), array in constants.items():
        node, tensor = nodes[name], ir.Tensor(array)
        old = node.inputs[index]
        if old is None or not (old.dtype in (None, tensor.dtype) and _has_shape(old, array.shape)):
            raise OptionError(
                f"the constant for input {index} of node {name!r} is {tensor.dtype.name} {array.shape}, but the node "
                f"reads {old}. Give it in the node's own layout",
                option="constants",
            )
        node.replace_input_with(index, add_initializer(part.graph, names.unique(f"{name}_replaced"), tensor))
    remove_dead(part)


def _has_shape(value: ir.Value, shape: tuple[int, ...]) -> bool:
    return value.shape is None or _fits(shape, value.shape)


def _in_order(
    pool: Executor, task: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int
) -> Generator[_Result, None, None]:
    """``map(task, items)`` by the threads of ``pool``; at most ``ahead`` results are waiting or under way."""
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(task, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
