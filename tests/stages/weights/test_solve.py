import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqonnx.algorithms.base import algorithms
from vqonnx.algorithms.gptq import GptqConfig
from vqonnx.algorithms.hqq import hqq
from vqonnx.calibration.moments import InputMoments
from vqonnx.core.blocks import BlockSpec, CodebookBlocks
from vqonnx.core.weight_plan import CodebookSpec, WeightForm, WeightPlan
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels import parallel
from vqonnx.kernels.blocks.codebook import dequantize_from_book
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.stages.weights.solve import scale_outputs, solve_group, solve_weight

NAMES = sorted(algorithms())
SPECS = [BlockSpec(), BlockSpec(bits=2, block_size=16, symmetric=True), BlockSpec(bits=8, block_size=-1)]


def plan_of(weight, algorithm, spec=BlockSpec(), *, key="w", inputs=("x",), looked_up=False):  # noqa: B008 - frozen
    return WeightPlan(
        key=key,
        readers=(f"node_of_{key}",),
        in_features=weight.shape[0],
        out_features=weight.shape[1],
        dtype=weight.dtype.name,
        form=WeightForm.BNB4 if isinstance(spec, CodebookSpec) else WeightForm.MATMUL_NBITS,
        spec=spec,
        algorithm=algorithm,
        inputs=inputs,
        looked_up=looked_up,
    )


def inputs_of(rng, rows, k, rank=8):
    """Correlated inputs, a few of them far larger than the others."""
    sizes = np.where(np.arange(k) % 13 == 0, 10.0, 1.0)
    return (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, k)) + 0.3 * rng.normal(size=(rows, k))) * sizes


def moments_of(x, held_back=None):
    return InputMoments(
        calibration=x.T @ x,
        rows=len(x),
        held_back=None if held_back is None else held_back.T @ held_back,
        held_back_rows=0 if held_back is None else len(held_back),
    )


def values_of(packed, channel_scales=None):
    book = isinstance(packed, CodebookBlocks)
    values = (dequantize_from_book(packed) if book else dequantize_blocks(packed)).astype(np.float64)
    return values if channel_scales is None else values / channel_scales[:, None]


def relative_error(weight, values, hessian):
    weight = weight.astype(np.float64)
    change = weight - values
    return np.einsum("kn,kj,jn->", change, hessian, change) / np.einsum("kn,kj,jn->", weight, hessian, weight)


def equal(one, other):
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spec", [*SPECS, CodebookSpec()], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_the_output_on_held_back_samples(rng, name, spec):
    if algorithms()[name].refusal(spec) is not None:
        with pytest.raises(OptionError, match="weight 'w': "):
            solve_weight(plan_of(np.zeros((64, 4), np.float32), name, spec), np.zeros((64, 4), np.float32))
        return
    weight, x = rng.normal(size=(64, 24)).astype(np.float32), inputs_of(rng, 500, 64)
    solved = solve_weight(plan_of(weight, name, spec), weight, moments_of(x[:400], x[400:]))
    hessians = [part.T @ part for part in (x[400:], x[:400])]
    found = [relative_error(weight, values_of(solved.packed, solved.channel_scales), h) for h in hessians]
    assert [solved.error, solved.calibration_error] == pytest.approx(found, rel=1e-4)
    if isinstance(spec, BlockSpec):
        rounded = values_of(round_blocks(weight, spec))
        assert solved.rtn_error == pytest.approx(relative_error(weight, rounded, hessians[0]), rel=1e-4)
    assert (solved.asked, solved.data, solved.key) == (name, True, "w")
    assert solved.seconds > 0


@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    spec=st.sampled_from(SPECS),
    scalable=st.booleans(),
    held_back=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_result_is_worse_than_round_to_nearest(name, spec, scalable, held_back, seed):
    rng = np.random.default_rng(seed)
    if algorithms()[name].refusal(spec) is not None:
        spec = BlockSpec()
    k = int(rng.integers(2, 60))
    weights = [rng.standard_t(2, size=(k, n)).astype(np.float32) for n in (1, 7)]
    x = inputs_of(rng, int(rng.integers(2, 80)), k, rank=1)
    moments = moments_of(x, x[:1] if held_back else None)
    plans = [plan_of(weight, name, spec, key=str(n)) for n, weight in enumerate(weights)]
    judge = x[:1] if held_back else x
    for weight, solved in zip(weights, solve_group(plans, weights, moments, scalable=scalable), strict=True):
        assert solved.error <= solved.rtn_error
        found, rounded = values_of(solved.packed, solved.channel_scales), values_of(round_blocks(weight, spec))
        errors = [relative_error(weight, values, judge.T @ judge) for values in (found, rounded)]
        # A part in a million: what the judge's own rounding may hide.
        assert errors[0] <= errors[1] * (1 + 1e-3) + 1e-6


@pytest.mark.parametrize("name", ["clip_search", "scale_search", "auto"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_without_data_the_weight_s_own_error_judges(rng, name, spec, dtype):
    weight = rng.standard_t(3, size=(64, 24)).astype(dtype)
    solved = solve_weight(plan_of(weight, name, spec), weight)
    assert solved.error <= solved.rtn_error
    assert solved.error == pytest.approx(relative_error(weight, values_of(solved.packed), np.eye(64)), rel=1e-2)
    assert (solved.data, solved.calibration_error, solved.channel_scales) == (False, None, None)


def test_hqq_is_kept_without_data_though_its_squared_error_is_larger(rng):
    """Of columns on a grid of thirds with one outlier, those in which HQQ gives the outlier up."""
    weight = np.rint(3 * rng.normal(size=(32, 400))).astype(np.float32) / 3
    weight[0] = rng.uniform(4, 9, size=400)
    spoiled, rounded = (
        np.square(weight - dequantize_blocks(blocks)).sum(axis=0)
        for blocks in (hqq(weight, BlockSpec()), round_blocks(weight, BlockSpec()))
    )
    weight = weight[:, spoiled > rounded]
    solved = solve_weight(plan_of(weight, "hqq"), weight)
    assert solved.algorithm == "hqq"
    assert solved.error > solved.rtn_error


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_number_of_threads(rng, monkeypatch, name):
    weights, x = [rng.normal(size=(96, n)).astype(np.float32) for n in (700, 130)], inputs_of(rng, 400, 96)
    plans = [plan_of(weight, name, key=str(n)) for n, weight in enumerate(weights)]

    def solve(threads):
        monkeypatch.setattr(parallel, "processors", lambda: threads)
        solved = solve_group(plans, weights, moments_of(x[:300], x[300:]), scalable=True)
        return [dataclasses.replace(one, seconds=0) for one in solved]

    one, two, three = (solve(threads) for threads in (1, 2, 3))
    for alone, *others in zip(one, two, three, strict=True):
        for other in others:
            assert equal(alone.packed, other.packed)
            assert (alone.error, alone.rtn_error) == (other.error, other.rtn_error)


@pytest.mark.parametrize("name", ["rtn", "clip_search", "scale_search", "hqq"])
def test_the_order_of_output_channels_does_not_matter(rng, name):
    weight, x = rng.normal(size=(64, 40)).astype(np.float32), inputs_of(rng, 300, 64)
    order = rng.permutation(40)
    first = solve_weight(plan_of(weight, name), weight, moments_of(x))
    other = solve_weight(plan_of(weight, name), weight[:, order], moments_of(x))
    np.testing.assert_array_equal(first.packed.codes[order], other.packed.codes)
    np.testing.assert_array_equal(first.packed.scales[order], other.packed.scales)


def test_a_result_that_held_back_samples_refute_gives_way_to_round_to_nearest(rng):
    """Calibrated on one direction, GPTQ gives all others up."""
    weight, direction = rng.normal(size=(64, 8)).astype(np.float32), rng.normal(size=(1, 64))
    others = rng.normal(size=(500, 64))
    solved = solve_weight(plan_of(weight, "gptq"), weight, moments_of(direction, others))
    assert (solved.asked, solved.algorithm, solved.note) == ("gptq", "rtn", "gptq was worse than round to nearest")
    assert equal(solved.packed, round_blocks(weight, BlockSpec()))
    assert solved.error == solved.rtn_error
    kept = solve_weight(plan_of(weight, "gptq"), weight, moments_of(direction))
    assert kept.algorithm == "gptq"


@pytest.mark.parametrize("name", ["awq", "gptq"])
def test_channel_scales_are_shared_and_only_used_where_the_graph_can_undo_them(rng, name):
    weights, x = [rng.normal(size=(128, n)).astype(np.float32) for n in (24, 40)], inputs_of(rng, 1000, 128, 128)
    plans = [plan_of(weight, name, key=str(n)) for n, weight in enumerate(weights)]
    one, two = solve_group(plans, weights, moments_of(x), scalable=True)
    np.testing.assert_array_equal(one.channel_scales, two.channel_scales)
    assert (one.channel_scales != 1).any()
    assert one.error < 0.8 * one.rtn_error
    for fixed in solve_group(plans, weights, moments_of(x)):
        assert fixed.channel_scales is None
        assert fixed.error < fixed.rtn_error


def test_channel_scales_that_spoil_one_weight_are_not_used(rng):
    """Inputs matter in calibration that are still in the held-back samples."""
    weights = [rng.normal(size=(64, n)).astype(np.float32) for n in (24, 40)]
    loud = np.where(np.arange(64) < 8, 100.0, 1.0)
    x, held_back = rng.normal(size=(500, 64)) * loud, rng.normal(size=(500, 64)) / loud
    plans = [plan_of(weight, "awq", key=name) for name, weight in zip("ab", weights, strict=True)]
    for solved in solve_group(plans, weights, moments_of(x, held_back), scalable=True):
        assert solved.channel_scales is None
        assert "make 'a' worse than round to nearest, so none are used" in solved.note
        assert solved.error <= solved.rtn_error


@pytest.mark.parametrize(("name", "spec", "stand_in"), [("gptq", SPECS[0], "scale_search"), ("awq", SPECS[1], "rtn")])
def test_a_table_that_is_only_looked_up_has_no_data(rng, name, spec, stand_in):
    weight, product = rng.normal(size=(64, 24)).astype(np.float32), rng.normal(size=(64, 8)).astype(np.float32)
    table = plan_of(weight, name, spec, inputs=(), looked_up=True)
    solved = solve_weight(table, weight)
    assert (solved.asked, solved.algorithm, solved.data) == (name, stand_in, False)
    assert solved.note == f"its columns are only looked up, so {stand_in} stands in for {name}"
    # Also in a group whose other weights have data.
    x = inputs_of(rng, 300, 64)
    plans = [plan_of(product, name, spec, key="p"), table, plan_of(product, name, spec, key="q")]
    group = list(solve_group(plans, [product, weight, product], moments_of(x)))
    assert [one.algorithm for one in group] == [name, stand_in, name]
    assert equal(group[1].packed, solved.packed)


def test_inputs_that_no_sample_reached_are_no_data(rng):
    weight = rng.normal(size=(64, 24)).astype(np.float32)
    moments = InputMoments(calibration=np.zeros((64, 64)), rows=0)
    solved = solve_weight(plan_of(weight, "gptq"), weight, moments)
    assert solved.note == "no calibration sample reached its inputs, so scale_search stands in for gptq"
    assert solve_weight(plan_of(weight, "auto"), weight, moments).algorithm == "scale_search"


def test_lookups_count_beside_products(rng):
    """A tied embedding: what GPTQ gains in the product, the table's rows lose."""
    weight, x = rng.normal(size=(64, 48)).astype(np.float32), inputs_of(rng, 500, 64)
    alone = solve_weight(plan_of(weight, "gptq"), weight, moments_of(x))
    tied = solve_weight(plan_of(weight, "gptq", looked_up=True), weight, moments_of(x))
    errors = {
        name: [relative_error(weight, values_of(solved.packed), h) for h in (x.T @ x, np.eye(64))]
        for name, solved in (("alone", alone), ("tied", tied))
    }
    assert tied.error == pytest.approx(np.mean(errors["tied"]), rel=1e-4)
    assert errors["alone"][0] < errors["tied"][0]
    assert errors["tied"][1] < errors["alone"][1]
    assert tied.error <= tied.rtn_error


@pytest.mark.parametrize("name", ["rtn", "clip_search", "scale_search", "hqq", "gptq"])
def test_scaled_outputs_are_those_of_the_scaled_weight(rng, name):
    weight, x = rng.normal(size=(64, 24)).astype(np.float32), inputs_of(rng, 300, 64)
    factors = 2.0 ** rng.integers(-3, 4, 24)
    scaled = scale_outputs(solve_weight(plan_of(weight, name), weight, moments_of(x)), factors)
    again = solve_weight(plan_of(weight, name), (weight * factors).astype(np.float32), moments_of(x))
    assert equal(scaled.packed, again.packed)


def test_scales_that_do_not_fit_their_type_are_not_made(rng):
    weight = rng.normal(size=(64, 24)).astype(np.float16)
    solved = solve_weight(plan_of(weight, "rtn"), weight)
    assert scale_outputs(solved, np.full(24, 1e9)) is None
    assert scale_outputs(solved, np.full(24, 1e-9)) is None
    assert scale_outputs(solved, np.full(24, 0.5)).packed.scales.dtype == np.float16
    book = solve_weight(plan_of(weight, "rtn", CodebookSpec()), weight)
    assert scale_outputs(book, np.ones(24)) is None


def test_options_are_taken_by_name_or_finished(rng):
    weight, x = rng.normal(size=(64, 24)).astype(np.float32), inputs_of(rng, 300, 64)
    plan = plan_of(weight, "gptq")
    named, finished, default = (
        solve_weight(plan, weight, moments_of(x), options)
        for options in ({"damping": 0.5}, GptqConfig(damping=0.5), None)
    )
    assert equal(named.packed, finished.packed)
    assert not equal(named.packed, default.packed)
    with pytest.raises(OptionError, match="no option 'dampin'"):
        solve_weight(plan, weight, moments_of(x), {"dampin": 0.5})


def test_what_cannot_be_solved_is_named(rng):
    weight = rng.normal(size=(64, 24)).astype(np.float32)
    with pytest.raises(OptionError, match="'gptq' needs calibration data for weight 'w'") as caught:
        solve_weight(plan_of(weight, "gptq"), weight)
    assert caught.value.option == "calibration"
    with pytest.raises(OptionError, match=r"must share an algorithm, got \['awq', 'gptq'\]"):
        list(solve_group([plan_of(weight, "gptq"), plan_of(weight, "awq")], [weight, weight]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("looked_up", [False, True])
def test_a_broken_weight_is_named_with_its_node(rng, name, looked_up):
    whole, x = rng.normal(size=(64, 24)).astype(np.float32), inputs_of(rng, 300, 64)
    broken = whole.copy()
    broken[3, 20] = np.nan
    plans = [plan_of(whole, name, key="whole"), plan_of(broken, name, key="broken", looked_up=looked_up)]
    with pytest.raises(
        QuantRangeError, match="weight 'broken' of node 'node_of_broken': the weight holds NaN"
    ) as caught:
        list(solve_group(plans, [whole, broken], moments_of(x), scalable=True))
    assert caught.value.tensor == "broken"


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zero(name):
    weight = np.zeros((64, 8), np.float32)
    solved = solve_weight(plan_of(weight, name), weight, moments_of(np.ones((5, 64))))
    assert not values_of(solved.packed).any()
    assert solved.error == solved.rtn_error == 0
