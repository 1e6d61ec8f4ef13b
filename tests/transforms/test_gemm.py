"""A Gemm becomes x @ weight + bias where its numbers are constant."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.facts import float_attribute
from vqonnx.graph.walk import constant
from vqonnx.transforms.gemm import normalize_gemms

RNG = np.random.default_rng(0)


def normal(*shape):
    return np.asarray(RNG.normal(size=shape), np.float32)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@pytest.mark.parametrize("beta", [1.0, 0.0, 3.0])
@pytest.mark.parametrize("shape", [(), (1,), (8,), (1, 1), (1, 8), (5, 1), (5, 8)])
@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_becomes_plain(check, alpha, beta, shape, trans):
    text = (
        f"g (float[5, 3] x) => (float[a, b] y) "
        f"{{ y = Gemm <alpha = {alpha}, beta = {beta}, transB = {trans}> (x, w, b) }}"
    )
    proto = build(text, {"w": normal(*((8, 3) if trans else (3, 8))), "b": normal(*shape)})
    changed = check(proto, normalize_gemms, samples=1)
    (gemm,) = changed.model.graph
    assert (float_attribute(gemm, "alpha", 1.0), float_attribute(gemm, "beta", 1.0)) == (1.0, 1.0)
    rows_alike = len(shape) < 2 or shape[0] == 1
    assert constant(gemm.inputs[2]).shape == ((8,) if rows_alike else shape)
    assert normalize_gemms(changed.model) == 0


def test_gemm_without_constants_or_bias(check):
    text = (
        "g (float[5, 3] x, float[3, 8] w, float[8] b) => (float[a, b] y) "
        "{ y = Gemm <alpha = 2.0, beta = 2.0> (x, w, b) }"
    )
    assert check(build(text), normalize_gemms).count == 0
    text = "g (float[5, 3] x, float[3, 8] w) => (float[a, b] y) { y = Gemm <beta = 2.0> (x, w) }"
    changed = check(build(text), normalize_gemms)
    assert (changed.count, "beta" in changed.model.graph[0].attributes) == (1, False)


def test_gemms_that_share_a_weight_get_their_own(check):
    text = (
        "g (float[5, 3] x) => (float[a, b] y, float[a, b] z) "
        "{ y = Gemm <alpha = 2.0> (x, w) z = Gemm <alpha = 3.0> (x, w) }"
    )
    assert check(build(text, {"w": normal(3, 8)}), normalize_gemms).count == 2
