"""Every odd model by name, with random feeds: ``for case in CASES.values(): model = case.build()``."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx

from models.build import Array

Feed: TypeAlias = dict[str, Array]
Builder: TypeAlias = Callable[[], onnx.ModelProto]

_TOPICS = (
    "chains",
    "constants",
    "control",
    "convolutions",
    "domains",
    "gemm",
    "matmuls",
    "naming",
    "networks",
    "opsets",
    "precision",
    "ranges",
    "shapes",
    "sharing",
    "weights",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model with what a test must know to run it.

    Attributes:
        name: ``<topic>/<variant>``.
        build: Makes the model; the same bytes each time.
        what: One sentence: what is odd about it.
        sizes: Sizes of symbolic dimensions, one per name; a tuple is cycled through by sample.
        below: Exclusive upper end of integer inputs, by name.
        spread: Standard deviation of floating-point inputs.
        runnable: False where ONNX Runtime has no kernel for it.
        inferable: False where ONNX's own shape inference gives up with an error.
    """

    name: str
    build: Builder
    what: str
    sizes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    below: Mapping[str, int] = field(default_factory=dict)
    spread: float = 1.0
    runnable: bool = True
    inferable: bool = True

    def feeds(self, count: int = 4, seed: int = 0) -> Iterator[Feed]:
        """Random samples for the model's inputs; equal arguments give equal samples."""
        rng = np.random.default_rng(seed)
        graph = self.build().graph
        stored = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in stored]
        for sample in range(count):
            yield {value.name: self._random(value, sample, rng) for value in inputs}

    def _random(self, value: onnx.ValueInfoProto, sample: int, rng: np.random.Generator) -> Array:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = tuple(self._size(dim, sample) for dim in tensor.shape.dim)
        if dtype == np.bool_:
            return np.asarray(rng.random(shape) < 0.5)
        if np.issubdtype(dtype, np.integer):
            return rng.integers(0, self.below.get(value.name, 4), shape).astype(dtype)
        return rng.normal(0, self.spread, shape).astype(dtype)

    def _size(self, dim: onnx.TensorShapeProto.Dimension, sample: int) -> int:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        size = self.sizes.get(dim.dim_param, 2)
        return size if isinstance(size, int) else size[sample % len(size)]


CASES: dict[str, Case] = {}


def register(case: Case) -> None:
    """Add a case; two of one name are an error."""
    if case.name in CASES:
        raise ValueError(f"two cases are called {case.name!r}")
    CASES[case.name] = case


def load() -> Mapping[str, Case]:
    """All cases; imports the topics, each of which registers its own."""
    for topic in _TOPICS:
        importlib.import_module(f"models.{topic}")
    return CASES
