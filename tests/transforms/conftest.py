"""A pass must leave what the model computes: run before and after, on random inputs, in ORT without optimization."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vqonnx.graph.io import load
from vqonnx.graph.names import ensure_unique_names
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session

# By type: what one rounding of a weight, seen through a sum of some dozens of products, may move.
TOLERANCE = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}
DYNAMIC = 3

Run = Callable[[ir.Model, Mapping[str, Any]], dict[str, Any]]
Check = Callable[..., "Changed"]


class Changed:
    """A model after a pass, and how many places the pass says it changed."""

    def __init__(self, model: ir.Model, count: int) -> None:
        self.model, self.count = model, count

    @property
    def ops(self) -> list[str]:
        """Operators in graph order, bodies and functions after the main graph."""
        return [node.op_type for node in nodes(self.model)]


def random_feeds(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, Any]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return {value.name: _random(value, rng) for value in model.graph.input if value.name not in stored}


def _random(value: onnx.ValueInfoProto, rng: np.random.Generator) -> Any:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else DYNAMIC for dim in tensor.shape.dim)
    if dtype == np.bool_:
        return np.asarray(rng.random(shape) < 0.5)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 3, shape).astype(dtype)
    return np.asarray(rng.normal(size=shape)).astype(dtype)


def run(model: ir.Model, feeds: Mapping[str, Any]) -> dict[str, Any]:
    session = open_session(model, threads=1, optimize=False)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def _close(name: str, before: Any, after: Any) -> None:
    assert before.shape == after.shape, name
    assert before.dtype == after.dtype, name
    if before.dtype == object:
        np.testing.assert_array_equal(after, before, err_msg=name)
        return
    tolerance = TOLERANCE.get(before.dtype.name, 0.0)
    spread = float(np.abs(before.astype(np.float64)).max(initial=0)) or 1.0
    np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance * spread, err_msg=name)


@pytest.fixture
def check(rng: np.random.Generator) -> Check:
    """``check(proto, a_pass)``: apply it, compare outputs and signature, and return a ``Changed``."""

    def checked(proto: onnx.ModelProto, step: Callable[[ir.Model], int], *, samples: int = 2) -> Changed:
        original, model = load(proto), load(proto)
        ensure_unique_names(model)
        count = step(model)
        assert [value.name for value in model.graph.outputs] == [value.name for value in original.graph.outputs]
        for _ in range(samples):
            feeds = random_feeds(proto, rng)
            before, after = run(original, feeds), run(model, feeds)
            for name, expected in before.items():
                _close(name, expected, after[name])
        return Changed(model, count)

    return checked
