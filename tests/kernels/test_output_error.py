import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels.affine import affine_params
from vqonnx.kernels.output_error import (
    Candidates,
    Product,
    sample_errors,
    search_positions,
)
from vqonnx.kernels.positions import CANDIDATES, least_error_params
from vqonnx.kernels.scale_grid import position_of

S8 = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)


def layer(rng, groups=1, clip=True, bias=True, output=True):
    weight = rng.standard_t(3, (groups, 5, 7)).astype(np.float32)
    offsets = rng.normal(0, 2, (groups, 5)).astype(np.float32)
    x = rng.normal(size=(groups, 60, 7)).astype(np.float32)
    bounds = (0.0, 6.0) if clip else (-np.inf, np.inf)
    wanted = np.clip(np.einsum("gnk,gok->gno", x, weight) + (offsets[:, None] if bias else 0), *bounds)
    product = Product(
        weight=weight,
        weight_params=affine_params(weight.min(), weight.max(), S8),
        bias=offsets if bias else None,
        bias_params=affine_params(offsets.min(), offsets.max(), S8) if bias else None,
        output_params=affine_params(wanted.min(), wanted.max(), S8) if output else None,
        low=bounds[0],
        high=bounds[1],
    )
    return product, x, wanted


def fake_quantized(value, position):
    return value if position is None else min(max(round(value * 2.0**position), -127), 127) * 2.0**-position


def brute_force(product, x, wanted, positions):
    """One output element after the other, in Python's numbers."""
    at_weight, at_bias, at_output = positions
    total = 0.0
    for g, n, o in np.ndindex(wanted.shape):
        row = product.weight[g, o].tolist()
        result = sum(fake_quantized(w, at_weight) * v for w, v in zip(row, x[g, n].tolist(), strict=True))
        result += 0.0 if product.bias is None else fake_quantized(float(product.bias[g, o]), at_bias)
        result = fake_quantized(min(max(result, product.low), product.high), at_output)
        total += (result - float(wanted[g, n, o])) ** 2
    return total / wanted.size


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**16),
    groups=st.sampled_from([1, 3]),
    clip=st.booleans(),
    bias=st.booleans(),
    output=st.booleans(),
)
def test_errors_equal_brute_force(seed, groups, clip, bias, output):
    product, x, wanted = layer(np.random.default_rng(seed), groups, clip, bias, output)
    candidates = Candidates.around(product, (0, 2))
    found = sample_errors(product, x[:, :9], wanted[:, :9], candidates)
    for place, positions in zip(
        np.ndindex(found.shape),
        itertools.product(candidates.weight, candidates.bias, candidates.output),
        strict=True,
    ):
        expected = brute_force(product, x[:, :9], wanted[:, :9], positions)
        assert found[place] == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_the_choice_is_the_least_of_all(rng):
    product, x, wanted = layer(rng)
    candidates = Candidates.around(product)
    choice = search_positions(product, x, wanted, candidates)
    errors = sample_errors(product, x, wanted, candidates)
    assert errors.shape == (6, 6, 6)
    assert choice.error == errors.min()
    place = (
        candidates.weight.index(choice.weight),
        candidates.bias.index(choice.bias),
        candidates.output.index(choice.output),
    )
    assert errors[place] == choice.error


def test_inputs_decide_where_the_weight_alone_would_err(rng):
    product, x, _ = layer(rng, clip=False, bias=False, output=False)
    weight = product.weight.copy()
    weight[0, :, 0] = 120.0  # large, but its input is always 0
    product = Product(weight=weight, weight_params=affine_params(-120.0, 120.0, S8))
    x = x.copy()
    x[..., 0] = 0
    wanted = np.einsum("gnk,gok->gno", x, weight)
    choice = search_positions(product, x, wanted, Candidates.around(product))
    assert choice.weight == position_of(product.weight_params.scale) + 4
    assert choice.weight > position_of(least_error_params(weight, S8).scale)


def test_of_equal_errors_the_first_candidate_wins():
    zeros = np.zeros((1, 2, 3), np.float32)
    product = Product(weight=zeros, weight_params=affine_params(-1.0, 1.0, S8))
    choice = search_positions(product, np.ones((1, 4, 3)), np.zeros((1, 4, 2)), Candidates.around(product))
    assert (choice.weight, choice.bias, choice.output, choice.error) == (6, None, None, 0)
    assert Candidates.around(product).weight == tuple(6 + step for step in CANDIDATES)


def test_shapes_that_do_not_belong_together_are_refused(rng):
    product, x, wanted = layer(rng)
    with pytest.raises(OptionError, match=r"takes inputs \[1, n, 7\] and gives outputs \[1, n, 5\], got"):
        search_positions(product, x[..., :6], wanted, Candidates.around(product))
