"""Every weight of a plan is solved once, from its inputs where they can be observed, and says where they cannot."""

from dataclasses import replace

import numpy as np
import pytest

from models import weights as cases
from models.build import Weights, build
from models.registry import load as load_cases
from tests.stages.weights.packing import FORMS, emitted, outputs_of, packing_of, solved
from vqonnx.calibration.moments import InputMoments
from vqonnx.calibration.samples import Samples
from vqonnx.core.weight_plan import WeightForm
from vqonnx.errors import OptionError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes_by_name
from vqonnx.kernels.metrics import sqnr_db
from vqonnx.planning.weights.rules import LayerOverride
from vqonnx.stages.weights import layers as stage
from vqonnx.stages.weights.store import MemoryStore

CASES = load_cases()


def feeds_of(name, count=16, **sizes):
    return list(replace(CASES[name], sizes=sizes).feeds(count))


def moments_used(monkeypatch, packing, feeds):
    """The moments with which each weight was solved, by key."""
    found = {}
    inner = stage.solve_group

    def watched(plans, weights, moments=None, options=None, *, scalable=False):
        found.update(dict.fromkeys((plan.key for plan in plans), moments))
        return inner(plans, weights, moments, options, scalable=scalable)

    monkeypatch.setattr(stage, "solve_group", watched)
    solved(packing, feeds)
    return found


def test_without_samples_every_weight_is_solved_by_itself():
    packing = packing_of(cases.gemm_forms(), algorithm="scale_search")
    store = solved(packing)
    assert list(store) == list(packing.plan.weights)
    assert all(not one.data and one.asked == "scale_search" for one in store.values())


def test_what_an_earlier_run_solved_is_not_solved_again(monkeypatch):
    packing = packing_of(cases.gemm_forms())
    store = solved(packing)
    lost = next(iter(packing.plan.weights))
    rest = MemoryStore()
    for key in list(packing.plan.weights)[1:]:
        rest.put(store[key])
    asked = []
    inner = stage.solve_weight
    monkeypatch.setattr(stage, "solve_weight", lambda plan, *rest: asked.append(plan.key) or inner(plan, *rest))
    packing.solve(rest, None)
    assert asked == [lost]
    assert rest[lost].packed.codes.tobytes() == store[lost].packed.codes.tobytes()


def test_progress_counts_weights():
    told = []
    packing = packing_of(cases.gemm_forms())
    job = replace(packing.job, progress=lambda *step: told.append(step))
    solved(replace(packing, job=job))
    assert len(told) == len(packing.plan.weights)
    assert {what for what, _, _ in told} == {"solve, million weights"}


@pytest.mark.parametrize("algorithm", ["gptq", "awq", "auto"])
def test_products_learn_from_their_inputs(algorithm):
    packing = packing_of(cases.decoder_with_cache(), op_types=["MatMul"], algorithm=algorithm)
    store = solved(packing, feeds_of("weights/cache", N=8))
    assert all(one.data for one in store.values())
    assert all(one.error <= one.rtn_error or one.channel_scales is not None for one in store.values())


def rows_seen(packing, feeds, value, axis):
    """sum of x x^T over the rows of a value, by runs of the float model."""
    from vqonnx.calibration.model import exposing

    model = exposing(packing.model, [value])
    total = 0.0
    for feed in feeds:
        names = {given.name for given in model.graph.inputs}
        x = outputs_of(model, {name: array for name, array in feed.items() if name in names})[value]
        rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        total = total + rows.T @ rows
    return total


@pytest.mark.parametrize(
    ("case", "node", "axis"),
    [("gemm", "Gemm_0", 0), ("gemm", "Gemm_1", -1), ("pointwise", "Conv_0", 1), ("pointwise", "Conv_7", 1)],
)
def test_features_lie_where_the_operator_has_them(case, node, axis, monkeypatch):
    feeds = feeds_of(f"weights/{case}", 5)
    packing = packing_of(CASES[f"weights/{case}"].build(), algorithm="gptq")
    packing = replace(packing, job=replace(packing.job, inputs="float"))
    found = moments_used(monkeypatch, packing, feeds)[packing.plan.layers[node].weight]
    value = packing.layers[node].input.name
    np.testing.assert_allclose(found.calibration, rows_seen(packing, feeds, value, axis), rtol=1e-4, atol=1e-4)


def test_a_weight_that_multiplies_two_inputs_learns_from_both(monkeypatch):
    packing = packing_of(cases.tied_copies(), algorithm="gptq", op_types=["MatMul", "Gemm"])
    packing = replace(packing, job=replace(packing.job, inputs="float"))
    feeds = feeds_of("weights/tied", 16, N=6)
    shared = next(plan for plan in packing.plan.weights.values() if len(plan.inputs) == 2)
    found = moments_used(monkeypatch, packing, feeds)[shared.key]
    samples = Samples(lambda index: feeds[index], len(feeds))
    calibrating = [feeds[index] for index in samples.calibration.indices]
    expected = sum(rows_seen(packing, calibrating, value, -1) for value in shared.inputs)
    np.testing.assert_allclose(found.calibration, expected, rtol=1e-4, atol=1e-4)
    assert found.rows == 2 * 6 * len(calibrating)
    assert found.held_back is not None
    assert found.held_back_rows == 2 * 6 * 2


def moments(size, held_back):
    return InputMoments(
        calibration=np.eye(2) * size, rows=size, held_back=np.eye(2) if held_back else None, held_back_rows=held_back
    )


def test_moments_add_up_and_are_held_back_only_where_both_are():
    total = stage._added(stage._added(None, moments(1, 1)), moments(3, 1))
    assert (total.rows, total.held_back_rows) == (4, 2)
    np.testing.assert_array_equal(total.calibration, np.eye(2) * 4)
    np.testing.assert_array_equal(total.held_back, np.eye(2) * 2)
    assert stage._added(moments(1, 1), moments(3, 0)).held_back is None


def test_a_table_that_is_only_looked_up_learns_nothing():
    packing = packing_of(cases.decoder_with_cache(), algorithm="gptq", op_types=["MatMul", "Gather"])
    store = solved(packing, feeds_of("weights/cache", N=8))
    table = store[packing.plan.layers["Gather_0"].weight]
    assert not table.data
    assert table.asked == "gptq"
    assert table.note == "its columns are only looked up, so scale_search stands in for gptq"


@pytest.mark.parametrize(("algorithm", "kept"), [("gptq", "scale_search"), ("awq", "scale_search"), ("auto", None)])
def test_weights_whose_inputs_are_out_of_sight_are_solved_without_samples(algorithm, kept):
    packing = packing_of(cases.merged_decoder(), algorithm=algorithm, op_types=["MatMul"])
    store = solved(packing, feeds_of("weights/merged", N=8))
    inside = store[packing.plan.layers["If_1/then_branch/MatMul_2"].weight]
    assert not inside.data
    assert inside.asked == algorithm
    assert kept in (None, inside.algorithm)
    assert "cannot be observed (it is inside a control-flow body or a function)" in inside.note
    (note,) = (note for note in packing.notes if "without samples" in note)
    assert note.startswith("weight 'head' was packed without samples, since its input ")
    outside = store[packing.plan.layers["If_1/then_branch/MatMul_0"].weight]
    assert outside.data
    assert outside.note == ""


def test_a_weight_with_one_input_in_sight_learns_from_that_one(monkeypatch):
    weights = Weights(41)
    weights.normal("w", 16, 16)
    text = """half_seen (float[N, 16] x, bool flag) => (float[N, 16] y) {
        m = MatMul (x, w)
        y = If (flag) <
            then_branch = yes () => (float[N, 16] a) { t = Tanh (m) a = MatMul (t, w) },
            else_branch = no () => (float[N, 16] b) { b = Identity (m) }
        >
    }"""
    packing = packing_of(build(text, weights.arrays), algorithm="gptq")
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(4, 16)).astype(np.float32), "flag": np.array(True)} for _ in range(16)]
    found = moments_used(monkeypatch, packing, feeds)
    assert found["w"].rows == 14 * 4
    assert [note for note in packing.notes if "without samples" in note] == []


def test_layers_learn_from_what_packed_layers_before_them_give(monkeypatch):
    feeds = feeds_of("weights/cache", 16, N=8)
    found = {}
    for inputs in ("quantized", "float"):
        packing = packing_of(cases.decoder_with_cache(), algorithm="gptq", op_types=["MatMul"], accuracy_level=1)
        packing = replace(packing, job=replace(packing.job, inputs=inputs))
        found[inputs] = moments_used(monkeypatch, packing, feeds)
        monkeypatch.undo()
    first, later = (packing.plan.layers[name].weight for name in ("MatMul_1", "MatMul_8"))
    one, other = (found[inputs][first].calibration for inputs in found)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    one, other = (found[inputs][later].calibration for inputs in found)
    assert not np.allclose(one, other, rtol=1e-3)


def effective(packing, store):
    """The float model in which each layer has the float weight that its packed one stands for."""
    model = load(packing.model)
    nodes, names = nodes_by_name(model), NameAllocator.of(model)
    for name, layer in packing.layers.items():
        constant = layer.in_layout(stage.effective_weight(store[packing.plan.layers[name].weight]))
        value = add_initializer(model.graph, names.unique("effective"), constant)
        nodes[name].replace_input_with(layer.weight_index, value)
    return model


@pytest.mark.parametrize("form", [WeightForm.MATMUL_NBITS, WeightForm.QDQ])
def test_channel_scales_change_nothing_in_the_whole_model(form):
    weights = Weights(42)
    for name, shape in {"a": (48, 48), "b": (48, 64), "c": (48, 64), "d": (64, 48)}.items():
        weights.normal(name, *shape)
    sizes = np.where(np.arange(48) % 7 == 0, 8.0, 0.5).astype(np.float32)
    text = """scaled (float[N, 48] x) => (float[N, 48] y) {
        n = LayerNormalization (x, gamma)
        q = MatMul (n, a)
        r = Mul (q, gamma)
        up = MatMul (r, b)
        gate = MatMul (r, c)
        act = Sigmoid (gate)
        both = Mul (up, act)
        y = MatMul (both, d)
    }"""
    proto = build(text, weights.arrays | {"gamma": sizes}, opset=21)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(12, 48)).astype(np.float32)} for _ in range(16)]
    packing = packing_of(proto, algorithm="awq", form=form, accuracy_level=1)
    store = solved(packing, feeds)
    assert sum(one.channel_scales is not None for one in store.values()) >= 3
    expected = outputs_of(effective(packing, store), feeds[0])["y"]
    float_output = outputs_of(load(proto), feeds[0])["y"]
    packing.emit(store)
    written = outputs_of(packing.model, feeds[0])["y"]
    # QDQ has no accuracy level: ONNX Runtime computes on inputs of 8 bits.
    assert sqnr_db(expected, written) > (80 if form is WeightForm.MATMUL_NBITS else 30)
    assert 10 < sqnr_db(float_output, written) < 40


@pytest.mark.parametrize("form", ["matmul_nbits", "bnb4"])
def test_the_effective_weight_is_what_the_written_model_computes_with(form):
    packing = packing_of(cases.decoder_with_cache(), op_types=["MatMul"], accuracy_level=1, **FORMS[form])
    store = solved(packing)
    feed = feeds_of("weights/cache", 1, N=8)[0]
    expected = outputs_of(effective(packing, store), feed)["logits"]
    packing.emit(store)
    assert sqnr_db(expected, outputs_of(packing.model, feed)["logits"]) > 90


def test_layers_may_have_algorithms_of_their_own_with_their_defaults():
    overrides = {"MatMul_1": LayerOverride(algorithm="rtn"), "MatMul_2": LayerOverride(algorithm="clip_search")}
    packing = packing_of(cases.decoder_with_cache(), op_types=["MatMul"], algorithm="gptq", layers=overrides)
    packing = replace(packing, job=replace(packing.job, options={"damping": 0.02}))
    store = solved(packing, feeds_of("weights/cache", N=8))
    asked = {name: store[layer.weight].asked for name, layer in packing.plan.layers.items()}
    assert asked["MatMul_1"] == "rtn"
    assert asked["MatMul_2"] == "clip_search"
    assert asked["MatMul_6"] == "gptq"


def test_an_algorithm_that_learns_is_refused_without_samples():
    packing = packing_of(cases.decoder_with_cache(), algorithm="gptq")
    with pytest.raises(OptionError, match=r"'gptq' learns from samples, and there are none. Pass calibration="):
        solved(packing)


def test_only_lookups_need_no_samples_for_any_algorithm():
    packing, _ = emitted(cases.decoder_with_cache(), op_types=["Gather"], algorithm="gptq")
    assert [plan.inputs for plan in packing.plan.weights.values()] == [()]
