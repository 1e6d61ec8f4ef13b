"""Average poolings over many elements are split in two, and the means stay."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session
from vqonnx.transforms.large_pools import split_large_pools

RNG = np.random.default_rng(1)


def pool(size, op="GlobalAveragePool", attributes="", dtype="float", opset=17):
    dims = ", ".join(map(str, size))
    shape = ", ".join("abcde"[: len(size) + 2])
    text = f"g ({dtype}[N, 2, {dims}] x) => ({dtype}[{shape}] y) {{ y = {op} {attributes} (x) }}"
    return build(text, opset=opset)


def kernels(model: ir.Model, size: tuple[int, ...]) -> list[int]:
    """Elements that each pooling averages, in order."""
    found = []
    for node in nodes(model):
        kernel = node.attributes.get_ints("kernel_shape", size)
        found.append(math.prod(kernel))
        size = tuple(side // done for side, done in zip(size, kernel, strict=True))
    return found


@pytest.mark.parametrize("opset", [7, 11, 17, 22])
@pytest.mark.parametrize(("size", "expected"), [((32, 32), [32, 32]), ((28, 28), [28, 28]), ((24, 25), [25, 24])])
def test_global_pools(check, opset, size, expected):
    changed = check(pool(size, opset=opset), split_large_pools)
    assert (changed.count, changed.ops) == (1, ["AveragePool", "GlobalAveragePool"])
    assert kernels(changed.model, size) == expected
    assert changed.model.graph[0].name == "GlobalAveragePool_0"


def test_one_and_three_axes_and_half_precision(check):
    assert check(pool((600,)), split_large_pools).ops == ["AveragePool", "GlobalAveragePool"]
    assert check(pool((10, 9, 8)), split_large_pools).ops == ["AveragePool", "GlobalAveragePool"]
    assert check(pool((32, 32), dtype="float16"), split_large_pools).count == 1


def test_what_is_still_too_large_is_split_again(check):
    changed = check(pool((30, 30)), lambda model: split_large_pools(model, most=16))
    assert changed.count == len(changed.ops) - 1 == 3
    assert max(kernels(changed.model, (30, 30))) <= 16


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        ((30, 40), "<kernel_shape = [30, 40]>"),  # over all: strides do not matter
        ((30, 40), "<kernel_shape = [30, 40], strides = [30, 40]>"),
        ((30, 37), "<kernel_shape = [30, 6], strides = [1, 3]>"),  # windows that overlap
        ((60, 37), "<kernel_shape = [24, 24], strides = [12, 12]>"),
        ((50, 37), "<kernel_shape = [24, 24], strides = [24, 24]>"),  # a rest that no window covers
        ((50, 37), "<kernel_shape = [24, 24], strides = [24, 6], auto_pad = \"VALID\", count_include_pad = 1>"),
    ],
)  # fmt: skip
def test_average_pools_with_windows(check, size, attributes):
    changed = check(pool(size, "AveragePool", attributes), lambda model: split_large_pools(model, most=100))
    assert changed.count >= 1
    assert set(changed.ops) == {"AveragePool"}


@given(
    outer=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    inner=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    rest=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_any_windows_keep_their_means(outer, inner, steps, rest):
    kernel = [a * b for a, b in zip(outer, inner, strict=True)]
    strides = [a * b for a, b in zip(steps, inner, strict=True)]
    size = [a + b for a, b in zip(kernel, rest, strict=True)]
    proto = pool(size, "AveragePool", f"<kernel_shape = {kernel}, strides = {strides}>")
    model, x = load(proto), {"x": RNG.normal(size=(1, 2, *size)).astype(np.float32)}
    (expected,) = open_session(load(proto)).run(None, x)
    split_large_pools(model, most=3)
    (found,) = open_session(model).run(None, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "proto",
    [
        pool((16, 32)),
        pool((1, 521)),  # a prime
        pool(("H", 32)),
        pool((30, 30), "GlobalMaxPool"),
        pool((30, 30), "AveragePool", "<kernel_shape = [30, 30], pads = [1, 1, 1, 1]>"),
        pool((30, 30), "AveragePool", '<kernel_shape = [30, 30], auto_pad = "SAME_UPPER">'),
        pool((60, 60), "AveragePool", "<kernel_shape = [30, 30], dilations = [2, 2]>", opset=19),
        pool((61, 61), "AveragePool", "<kernel_shape = [30, 30], strides = [30, 30], ceil_mode = 1>"),
        pool((61, 61), "AveragePool", "<kernel_shape = [30, 30], strides = [7, 7]>"),  # no factor in common
    ],
)
def test_other_poolings_stay(proto):
    assert split_large_pools(load(proto)) == 0
