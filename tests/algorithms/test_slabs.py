import dataclasses

import numpy as np
import pytest

from vqonnx.algorithms import slabs
from vqonnx.algorithms.base import LayerProblem, algorithms
from vqonnx.algorithms.clip_search import ClipSearchConfig, clip_search
from vqonnx.algorithms.options import options_for
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.kernels.blocks.errors import SecondMoment


@pytest.fixture
def small_slabs(monkeypatch):
    monkeypatch.setattr(slabs, "_ELEMENTS", 1)
    monkeypatch.setattr(slabs, "_COLUMNS", 128)


def test_slabs_cover_all_columns_once():
    edges = list(slabs.slabs(4096, 10_000, multiple=3))
    assert [left for left, _ in edges[1:]] == [right for _, right in edges[:-1]]
    assert (edges[0][0], edges[-1][1]) == (0, 10_000)
    assert all(left % 3072 == 0 for left, _ in edges)


def equal(one, other):
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


SPECS = [BlockSpec(), BlockSpec(bits=2, symmetric=True), CodebookSpec(block_size=64)]
CASES = [(name, spec) for name, known in algorithms().items() for spec in SPECS if known.refusal(spec) is None]


@pytest.mark.parametrize(("name", "spec"), CASES, ids=str)
def test_a_weight_solved_in_slabs_is_the_same(rng, request, name, spec):
    """400 columns in slabs of 128; a code book's of 33 rows end within bytes and blocks elsewhere."""
    algorithm = algorithms()[name]
    k = 33
    weight, x = rng.normal(size=(k, 400)).astype(np.float32), rng.normal(size=(200, k))
    problem = LayerProblem(weight=weight, spec=spec, hessian=SecondMoment(x.T @ x), scalable=True)
    (whole,) = algorithm.solve([problem], options_for(algorithm))
    request.getfixturevalue("small_slabs")
    (parts,) = algorithm.solve([problem], options_for(algorithm))
    assert equal(whole.packed, parts.packed)


def test_one_ratio_for_the_weight_is_that_of_all_slabs(rng, request):
    weight = rng.standard_t(3, size=(64, 300)).astype(np.float32)
    whole = clip_search(weight, BlockSpec(), config=ClipSearchConfig(per_layer=True))
    request.getfixturevalue("small_slabs")
    assert equal(whole, clip_search(weight, BlockSpec(), config=ClipSearchConfig(per_layer=True)))
