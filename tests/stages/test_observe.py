import json
import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from models.registry import load as load_cases
from tests.sampling import one_in
from vqonnx.calibration.feeds import ModelInput
from vqonnx.calibration.grouping import grouped, tensor_bytes
from vqonnx.calibration.model import exposing, model_digest, model_inputs, observable_values
from vqonnx.calibration.readers import open_samples
from vqonnx.calibration.statistics import empty_statistic
from vqonnx.calibration.statistics.channel_mean import ChannelMean
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.spec import RangeMethod
from vqonnx.errors import CacheError, OptionError, OutputError, SampleError
from vqonnx.graph.io import load
from vqonnx.planning.eligible import has_float_edge
from vqonnx.runtime.blocked import outputs_of
from vqonnx.runtime.session import open_session
from vqonnx.stages import observe as stage
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.stages.prepare import prepare

CASES = load_cases()
TEXT = """
<ir_version: 9, opset_import: ["": 17]>
g (float[N, 3] x, int64[1] ids) => (float[N, 4] y)
<float[3, 4] w = {1, -2, 3, 0, 0.5, 1, -1, 2, 1, 1, 1, -4}, int64[2] flat = {-1, 2}>
{
  h = MatMul (x, w)
  r = Relu (h)
  pairs = Reshape (r, flat)
  spread = Exp (x)
  y = Softmax (r)
  unused = Neg (y)
}
"""
TENSORS = ["x", "h", "r", "pairs", "y", "unused"]


def model_of(text=TEXT):
    return ir.from_proto(onnx.parser.parse_model(text))


def samples_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1 + i % 3, 3)).astype(np.float32), "ids": np.array([i])} for i in range(count)]


def oracle(samples):
    """Every tensor of every sample, by ONNX's reference implementation."""
    proto = onnx.parser.parse_model(TEXT)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in TENSORS[1:])
    run = ReferenceEvaluator(proto).run
    return [{"x": feed["x"], **dict(zip(TENSORS[1:], run(None, feed), strict=True))} for feed in samples]


def assert_same(left, right):
    assert left.samples == right.samples
    assert left.tensors.keys() == right.tensors.keys()
    for name, statistic in left.tensors.items():
        for field, array in statistic.arrays().items():
            np.testing.assert_array_equal(array, right.tensors[name].arrays()[field], err_msg=f"{name}.{field}")


ALL_KINDS = {
    "x": RangeMethod.MIN_MAX,
    "h": RangeMethod.ENTROPY,
    "r": RangeMethod.MOVING_AVERAGE,
    "pairs": "histogram",
    "y": RangeMethod.DISTRIBUTION,
    "unused": ChannelMean(axis=-1),
}


@pytest.mark.parametrize("kind", ["minmax", "histogram", "moments", "moving-average", ChannelMean(axis=-1)])
def test_statistics_are_those_of_every_sample_in_order(kind):
    samples = samples_of(7)
    found = observe(model_of(), dict.fromkeys(TENSORS, kind), samples)
    assert found.samples == 7
    truth = oracle(samples)
    for name, statistic in found.tensors.items():
        expected = empty_statistic(kind)
        for tensors in truth:
            expected = expected.merge(expected.of(tensors[name]))
        for field, array in expected.arrays().items():
            if field != "counts":  # a value within float32's rounding of an edge may be in either bin
                np.testing.assert_allclose(statistic.arrays()[field], array, rtol=1e-5, atol=1e-6, err_msg=field)


def test_channel_means_need_the_same_channels_in_every_sample():
    with pytest.raises(
        SampleError, match="tensor 'h' in calibration sample 1: axis 0 has 1 channels in one sample and 2 in"
    ):
        observe(model_of(), {"h": ChannelMean(axis=0)}, samples_of(2))


def test_histograms_count_every_element():
    samples = samples_of(20)
    found = observe(model_of(), {"r": Histogram(bins=64), "x": "histogram"}, samples)
    rows = sum(len(feed["x"]) for feed in samples)
    assert found.tensors["r"].counts.sum() == 4 * rows
    assert found.tensors["r"].counts.size <= 64
    assert found.tensors["x"].counts.sum() == 3 * rows


def test_graph_inputs_alone_need_no_session(monkeypatch):
    monkeypatch.setattr(stage, "open_session", None)
    found = observe(model_of(), {"x": "minmax"}, samples_of(2))
    assert found.tensors["x"].count == 9


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_bit(workers):
    samples = samples_of(30)
    serial = observe(model_of(), ALL_KINDS, samples, ObserveOptions(workers=1))
    assert_same(observe(model_of(), ALL_KINDS, samples, ObserveOptions(workers=workers)), serial)


def test_a_thread_pool_changes_no_bit():
    samples = samples_of(30)
    with ThreadPoolExecutor(3) as executor:
        found = observe(model_of(), ALL_KINDS, samples, ObserveOptions(executor=executor))
    assert_same(found, observe(model_of(), ALL_KINDS, samples))


@pytest.mark.slow
def test_a_process_pool_changes_no_bit():
    samples = samples_of(10)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        found = observe(model_of(), ALL_KINDS, samples, ObserveOptions(executor=executor))
    assert_same(found, observe(model_of(), ALL_KINDS, samples))


@pytest.mark.parametrize("budget", [1, 40, 1 << 30])
def test_a_memory_budget_changes_no_bit(budget, monkeypatch):
    opened = []
    real = stage.open_session
    monkeypatch.setattr(stage, "open_session", lambda *a, **k: opened.append(1) or real(*a, **k))
    samples = samples_of(5)
    found = observe(model_of(), ALL_KINDS, samples, ObserveOptions(memory_budget=budget, workers=1))
    assert len(opened) == {1: 5, 40: 3, 1 << 30: 1}[budget]
    assert_same(found, observe(model_of(), ALL_KINDS, samples))


def test_groups_keep_the_order_and_fit_the_budget():
    assert grouped({"a": 3, "b": 3, "c": 9, "d": 0, "e": 4}, 6) == [["a", "b"], ["c"], ["d", "e"]]
    assert grouped({}, 6) == []


def test_sizes_follow_from_shapes_or_from_a_run():
    sizes = tensor_bytes(model_of(), TENSORS, {"x": np.zeros((5, 3), np.float32), "ids": np.array([0])})
    assert sizes == {"x": 60, "h": 80, "r": 80, "pairs": 80, "y": 80, "unused": 80}


def cnn(channels):
    """Convolutions whose weights differ; some ``channels`` fill ONNX Runtime's blocks, others do not."""
    proto = onnx.parser.parse_model(f"""
<ir_version: 9, opset_import: ["": 17]>
g (float[1, 3, 8, 8] x, float[{channels}, 3, 3, 3] w, float[{channels}, {channels}, 1, 1] v)
=> (float[1, {channels}, 8, 8] y)
{{
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu (a)
  c = Conv (b, v)
  y = Add (b, c)
}}
""")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (channels, 3, 3, 3)), ("v", (channels, channels, 1, 1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    del proto.graph.input[1:]
    return ir.from_proto(proto)


@pytest.mark.parametrize("channels", [16, 20, 32])
@pytest.mark.parametrize("kind", ["minmax", "histogram", "profile", "moving-average"])
def test_blocked_tensors_change_no_bit(channels, kind, monkeypatch):
    rng = np.random.default_rng(1)
    samples = [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(30)]
    opened = []
    real = stage.open_blocked
    monkeypatch.setattr(stage, "open_blocked", lambda *a, **k: opened.append(real(*a, **k)) or opened[-1])
    wanted = {"x": kind, "a": kind, "b": kind, "c": kind, "y": ChannelMean()}
    found = observe(cnn(channels), wanted, samples)
    assert channels % 16 or opened[0] is not None
    monkeypatch.setattr(stage, "open_blocked", lambda *a, **k: None)
    assert_same(found, observe(cnn(channels), wanted, samples))


def test_zero_size_tensors_add_nothing():
    empty = {"x": np.zeros((0, 3), np.float32), "ids": np.array([0])}
    samples = samples_of(3)
    with_empty = observe(model_of(), {"h": "histogram", "x": "moving-average"}, [*samples[:1], empty, *samples[1:]])
    without = observe(model_of(), {"h": "histogram", "x": "moving-average"}, samples)
    for name, statistic in with_empty.tensors.items():
        for field, array in statistic.arrays().items():
            np.testing.assert_array_equal(array, without.tensors[name].arrays()[field])


def test_float16_tensors_are_observed():
    model = model_of('<ir_version: 9, opset_import: ["": 17]> g (float16[N] x) => (float16[N] y) { y = Neg (x) }')
    found = observe(model, {"x": "minmax", "y": "histogram"}, [{"x": np.array([1, -2.5], np.float16)}])
    assert (found.tensors["y"].low, found.tensors["y"].high) == (-1.0, 2.5)


OVERFLOW = {"x": np.full((1, 3), 100, np.float32), "ids": np.array([0])}


def test_nan_or_infinity_names_tensor_and_sample():
    message = "tensor 'spread' has 3 NaN or infinite elements in calibration sample 2; repair or drop the sample, or"
    with pytest.raises(SampleError, match=message) as caught:
        observe(model_of(), {"spread": "minmax"}, [*samples_of(2), OVERFLOW])
    assert (caught.value.sample, caught.value.tensor) == (2, "spread")


@pytest.mark.parametrize("kind", ["minmax", "histogram", "moments", "moving-average"])
def test_nan_and_infinity_can_be_left_out(kind):
    samples = samples_of(3)
    found = observe(model_of(), {"spread": kind}, [*samples, OVERFLOW], ObserveOptions(nonfinite="ignore"))
    expected = observe(model_of(), {"spread": kind}, samples)
    arrays, without = (one.tensors["spread"].arrays() for one in (found, expected))
    assert arrays.pop("dropped") == 3
    without.pop("dropped")
    for field, array in arrays.items():
        np.testing.assert_array_equal(array, without[field])


def test_a_sample_that_the_model_cannot_run_is_named():
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N] x, float[M] z) => (float[N] y) { y = Add (x, z) }'
    bad = {"x": np.zeros(2, np.float32), "z": np.zeros(3, np.float32)}
    with pytest.raises(
        SampleError, match=r"(?s)cannot run calibration sample 1, .*'x': \(2,\).*Repair the sample"
    ) as caught:
        observe(model_of(text), {"y": "minmax"}, [{"x": bad["x"], "z": bad["x"]}, bad])
    assert caught.value.sample == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w", "'w': it is a constant"),
        ("hh", r"'hh': it is not in the model \(did you mean 'h'"),
        ("ids", "'ids': it has elements of type INT64; only FLOAT, FLOAT16, DOUBLE are"),
    ],
)
def test_what_cannot_be_observed_is_refused(name, text):
    with pytest.raises(OptionError, match=text) as caught:
        observe(model_of(), {name: "minmax"}, samples_of(1))
    assert caught.value.option == "wanted"


def test_the_first_bad_sample_is_told_even_when_a_later_one_cannot_run():
    broken = {"x": np.zeros((1, 2), np.float32), "ids": np.array([0])}
    samples = [*samples_of(40), OVERFLOW, broken]
    with pytest.raises(SampleError, match="'spread' has 3 NaN or infinite elements in calibration sample 40"):
        observe(model_of(), {"spread": "minmax", "h": ChannelMean(axis=-1)}, samples)


def test_a_sample_is_called_by_its_number_in_the_reader():
    samples = open_samples([*samples_of(8), OVERFLOW], model_inputs(model_of()))
    with pytest.raises(SampleError, match="in calibration sample 8;") as caught:
        observe(model_of(), {"spread": "minmax"}, samples.calibration)
    assert caught.value.sample == 8


def test_a_cache_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "measure", None)
    with pytest.raises(OutputError, match="does not exist"):
        observe(model_of(), {"h": "minmax"}, samples_of(2), ObserveOptions(cache=tmp_path / "no" / "cache.npz"))


def test_no_samples_are_refused():
    with pytest.raises(SampleError, match="there is no calibration sample to observe; pass at least one"):
        observe(model_of(), {"h": "minmax"}, [])


def test_progress_counts_the_samples():
    calls = []
    observe(model_of(), {"h": "minmax"}, samples_of(3), ObserveOptions(progress=lambda *call: calls.append(call)))
    assert calls == [("observe", 1, 3), ("observe", 2, 3), ("observe", 3, 3)]


def test_the_model_is_not_changed():
    model = model_of()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    observe(model, ALL_KINDS, samples_of(2), ObserveOptions(memory_budget=1))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_inputs_of_a_model_are_told():
    assert model_inputs(model_of()) == [
        ModelInput("x", np.dtype(np.float32), (None, 3)),
        ModelInput("ids", np.dtype(np.int64), (1,)),
    ]


class Killed(BaseException):
    """Stands for a kill."""


def kill_after(count):
    def progress(stage, done, total):
        if done == count:
            raise Killed

    return progress


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch, budget):
    monkeypatch.setattr(stage, "_SAVE_SECONDS", 0.0)
    samples = samples_of(20)
    options = {"cache": tmp_path / "cache.npz", "memory_budget": budget}
    for count in (5, 11):
        with pytest.raises(Killed):
            observe(model_of(), ALL_KINDS, samples, ObserveOptions(progress=kill_after(count), **options))
    seen = []
    resumed = observe(
        model_of(), ALL_KINDS, samples, ObserveOptions(progress=lambda _, done, __: seen.append(done), **options)
    )
    assert 12 in seen
    assert len(seen) < 20 * (6 if budget == 1 else 1)
    assert_same(resumed, observe(model_of(), ALL_KINDS, samples))


def test_a_finished_cache_runs_nothing(tmp_path, monkeypatch):
    options = ObserveOptions(cache=tmp_path / "cache.npz")
    first = observe(model_of(), ALL_KINDS, samples_of(4), options)
    monkeypatch.setattr(stage, "measure", None)
    assert_same(observe(model_of(), ALL_KINDS, samples_of(4), options), first)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": TEXT.replace("0.5", "0.6")}, "the model or its weights"),
        ({"wanted": ALL_KINDS | {"h": Histogram(bins=512)}}, "what is observed"),
        ({"samples": samples_of(4, seed=1)}, "the calibration samples"),
        ({"nonfinite": "ignore"}, "what is observed"),
    ],
    ids=["model", "wanted", "samples", "nonfinite"],
)
def test_the_cache_of_another_run_is_refused(tmp_path, change, text):
    cache = tmp_path / "cache.npz"
    observe(model_of(), ALL_KINDS, samples_of(4), ObserveOptions(cache=cache))
    with pytest.raises(CacheError, match=f"{text}.* changed; delete it"):
        observe(
            model_of(change.get("model", TEXT)),
            change.get("wanted", ALL_KINDS),
            change.get("samples", samples_of(4)),
            ObserveOptions(cache=cache, nonfinite=change.get("nonfinite", "error")),
        )


def test_the_model_digest_sees_nodes_weights_and_names_but_not_where_weights_lie(tmp_path):
    digest = model_digest(model_of())
    assert digest == model_digest(model_of())
    ir.save(model_of(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    assert digest == model_digest(ir.load(tmp_path / "m.onnx"))
    others = [("Relu", "Abs"), ("0.5", "0.25"), ("spread", "wide"), ("17", "18")]
    assert len({digest, *(model_digest(model_of(TEXT.replace(*change))) for change in others)}) == 5
    assert json.dumps(digest)


@pytest.mark.parametrize("name", one_in(3, (name for name, case in sorted(CASES.items()) if case.runnable)))
def test_odd_models_give_the_same_bits_blocked(name, monkeypatch):
    case = CASES[name]
    model = prepare(load(case.build())).model
    values = observable_values(model).items()
    wanted = {key: "profile" for key, value in values if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)}
    samples = list(case.feeds(4))
    monkeypatch.setattr(stage, "_BLOCKED_FROM", 1)
    options = ObserveOptions(nonfinite="ignore")
    found = observe(model, wanted, samples, options)
    monkeypatch.setattr(stage, "open_blocked", lambda *a, **k: None)
    assert_same(found, observe(model, wanted, samples, options))


def loop_values(case, sample):
    """The carried value before and after each trip of ``control/loop``, in float64."""
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor).astype(float) for tensor in case.build().graph.initializer
    }
    hidden = [sample["x"].astype(float)]
    for _ in range(3):
        hidden.append(np.tanh(hidden[-1] @ arrays["fc_w"] + arrays["fc_b"]))
    return hidden


class AtOnce(Executor):
    """Runs a task where it is submitted, with what a process would be given."""

    def submit(self, work, /, *arguments):
        done = Future()
        done.set_result(work(*arguments))
        return done


@pytest.mark.parametrize("executor", [None, AtOnce()], ids=["session", "file"])
def test_a_loop_whose_trips_differ_is_observed_like_any(executor):
    growing = CASES["control/growing"]
    model, samples = prepare(load(growing.build())).model, list(growing.feeds(4))
    body = next(node for node in model.graph if node.op_type == "Loop").attributes["body"].as_graph()
    inside = [node.outputs[0].name for node in body if has_float_edge(node)]
    wanted = dict.fromkeys(inside, RangeMethod.MIN_MAX)
    found = observe(model, wanted, samples, ObserveOptions(executor=executor)).tensors
    session = outputs_of(open_session(exposing(model, inside)))
    for name in inside:
        elements = np.concatenate([session.run(sample)[name] for sample in samples])
        assert (found[name].count, found[name].low, found[name].high) == (elements.size, elements.min(), elements.max())


@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_a_body_is_observed_in_all_its_runs(memory):
    """Counted and not: its shape does not tell how much comes out."""
    case = CASES["control/loop"]
    samples = list(case.feeds(3))
    options = ObserveOptions(memory_budget=memory)
    wanted = {"h": RangeMethod.MIN_MAX, "h_out": RangeMethod.MSE}
    found = observe(prepare(load(case.build())).model, wanted, samples, options).tensors
    given = np.concatenate([np.ravel(loop_values(case, one)[:-1]) for one in samples])
    made = np.concatenate([np.ravel(loop_values(case, one)[1:]) for one in samples])
    assert found["h"].count == given.size
    np.testing.assert_allclose([found["h"].low, found["h"].high], [given.min(), given.max()], rtol=1e-5)
    assert found["h_out"].counts.sum() == made.size
    np.testing.assert_allclose([found["h_out"].low, found["h_out"].high], [made.min(), made.max()], rtol=1e-5)


def test_a_statistic_that_needs_a_shape_is_refused_in_a_body():
    case = CASES["control/loop"]
    with pytest.raises(OptionError, match="'channel-mean' of 'h_out': it is inside a body"):
        observe(prepare(load(case.build())).model, {"h_out": ChannelMean(axis=1)}, list(case.feeds(1)))
