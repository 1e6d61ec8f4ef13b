"""The calibrators of onnxruntime.quantization, and the faults that they had there."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vqonnx.compat.calibrate import (
    CalibraterBase,
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)
from vqonnx.errors import DependencyError, ModelError, OptionError, SampleError

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def save_model(folder, shape=("N", 3), element=FLOAT, opset=17):
    """x -> Relu -> y -> Neg -> z."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu"), helper.make_node("Neg", ["y"], ["z"], "neg")]
    ends = [helper.make_tensor_value_info(name, element, shape) for name in "xz"]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(model, tmp_path):
    def make(method=CalibrationMethod.MinMax, path=model, **options):
        augmented = tmp_path / "augmented.onnx"
        return create_calibrator(path, None, augmented, method, extra_options=options)

    return make


class Reader(CalibrationDataReader):
    def __init__(self, arrays):
        self.feeds = iter([{"x": array} for array in arrays])

    def get_next(self):
        return next(self.feeds, None)


def ranges(calibrator, arrays):
    calibrator.collect_data(Reader(arrays))
    return {name: data.range_value for name, data in calibrator.compute_data().items()}


def test_a_class_with_get_next_is_a_reader():
    class Duck:
        def get_next(self):
            return None

    assert isinstance(Duck(), CalibrationDataReader)
    assert not isinstance(object(), CalibrationDataReader)


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])
def test_no_chunk_of_samples_is_lost(make, rng, chunk):
    arrays = [rng.normal(size=(2, 3)).astype(np.float32) for _ in range(6)]
    arrays[1][0, 0] = 9  # in a chunk that is not the last
    found = ranges(make(max_intermediate_outputs=chunk), arrays)
    everything = np.stack(arrays)
    assert found["x"] == (everything.min(), everything.max())
    assert found["y"] == (0, 9)
    assert found["z"] == (-9, 0)


def test_ranges_of_channels(make, rng):
    arrays = [rng.normal(size=(rows, 3)).astype(np.float32) for rows in (1, 4)]
    low, high = ranges(make(per_channel=True), arrays)["x"]
    np.testing.assert_array_equal(low, np.concatenate(arrays).min(axis=0))
    np.testing.assert_array_equal(high, np.concatenate(arrays).max(axis=0))


def test_a_moving_average_moves_from_chunk_to_chunk(make):
    arrays = [np.full((1, 3), value, np.float32) for value in (1, 3, 10, 20, 100)]
    moved = ranges(make(moving_average=True, averaging_constant=0.5, max_intermediate_outputs=2), arrays)
    assert moved["y"][1] == ((1 + 3) / 2 + (10 + 20) / 2) / 2 / 2 + 100 / 2
    assert ranges(make(moving_average=True), arrays)["y"][1] == np.float32(134 / 5)


def test_calls_add_up_and_ranges_are_centred(make):
    calibrator = make(symmetric=True)
    assert ranges(calibrator, [np.array([[-1, 0, 3]], np.float32)])["x"] == (-3, 3)
    assert ranges(calibrator, [np.array([[-5, 0, 1]], np.float32)])["x"] == (-5, 5)


def test_half_precision_stays(tmp_path, make):
    low, high = ranges(make(path=save_model(tmp_path, element=HALF)), [np.array([[-1, 0.1, 2]], np.float16)])["x"]
    assert low.dtype == high.dtype == np.float16
    assert (low, high) == (-1, 2)


@pytest.mark.parametrize("method", list(CalibrationMethod)[:4])
def test_batches_of_any_size_and_empty_ones(make, method, rng):
    arrays = [rng.normal(size=(rows, 3)).astype(np.float32) for rows in (5, 0, 1, 200)]
    found = ranges(make(method, symmetric=False), arrays)
    assert set(found) == {"x", "y", "z"}
    assert all(low <= 0 <= high for low, high in found.values())
    assert found["x"][1] > 1
    nothing = ranges(make(method), [np.zeros((0, 3), np.float32)])
    assert all(low == high == 0 for low, high in nothing.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", list(CalibrationMethod)[:3])
def test_what_is_not_finite_is_left_out_aloud(make, method, bad):
    array = np.array([[-1, bad, 2]], np.float32)
    with pytest.warns(RuntimeWarning, match=r"tensors held NaN or infinite elements.*x \(1\)"):
        low, high = ranges(make(method, symmetric=False), [array])["x"]
    assert -1 <= low <= -0.99
    assert 1.99 <= high <= 2


def heavy_tailed(rng, count=20_000):
    array = rng.normal(size=(count, 3)).astype(np.float32)
    array[0, 0] = 100
    return array


@pytest.mark.parametrize("options", [{}, {"num_bins": 128, "num_quantized_bins": 128}, {"symmetric": True}])
def test_entropy_is_not_the_observed_range(make, rng, options):
    low, high = ranges(make(CalibrationMethod.Entropy, **options), [heavy_tailed(rng)])["x"]
    assert 2 < high < 20
    assert -20 < low < -2


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_percentiles_are_those_of_all_samples(make, rng, percentile):
    array = heavy_tailed(rng)
    halves = np.array_split(array, 3)
    step = 256 / 2048  # of a histogram that reaches 100
    options = {"percentile": percentile}
    low, high = ranges(make(CalibrationMethod.Percentile, symmetric=False, **options), halves)["x"]
    cut = (100 - percentile) / 2
    assert np.percentile(array, [cut, 100 - cut]) == pytest.approx([float(low), float(high)], abs=step)
    low, high = ranges(make(CalibrationMethod.Percentile, **options), halves)["x"]
    assert high == -low
    assert float(high) == pytest.approx(np.percentile(np.abs(array), percentile), abs=step)
    assert ranges(make(CalibrationMethod.Percentile, **options), halves)["y"][0] == 0  # no further than was seen


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30))
def test_a_histogram_does_not_grow_with_samples(values):
    collector = HistogramCollector("percentile", False, 64, 128, 100, "same")
    for value in values:
        collector.collect({"x": [np.float32([value]), np.zeros((0, 2), np.float32)]})
    counts, edges, low, high = collector.get_histogram_dict()["x"]
    assert counts.size <= 64
    assert counts.sum() == len(values)
    assert edges.size == counts.size + 1
    data = collector.compute_collection_result()["x"]
    assert data.range_value == (low, high) == (min(values), max(values))


@pytest.mark.parametrize(("scenario", "power"), [("same", 1), ("p3", 1 / 3)])
def test_distributions_have_the_moments_of_the_elements(make, rng, scenario, power):
    array = rng.normal(1, 2, size=(5000, 3)).astype(np.float32)
    calibrator = make(CalibrationMethod.Distribution, scenario=scenario)
    calibrator.collect_data([{"x": array}])
    average, deviation = calibrator.compute_data()["x"].avg_std
    powers = np.sign(array) * np.abs(array) ** power
    assert average == pytest.approx(powers.mean(), abs=0.01)
    assert deviation == pytest.approx(powers.std(), rel=0.01)


def test_only_the_augmented_model_is_written(tmp_path, rng):
    path = save_model(tmp_path)
    (tmp_path / "model-inferred.onnx").write_text("the user's")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    out = tmp_path / "out"
    out.mkdir()
    calibrator = create_calibrator(path, ["Neg"], out / "augmented.onnx")
    calibrator.collect_data([{"x": np.ones((1, 3), np.float32)}])
    assert [file.name for file in out.iterdir()] == ["augmented.onnx"]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    assert set(calibrator.compute_data()) == {"y", "z"}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("opset", [13, 18])
def test_the_augmented_model_puts_out_the_ranges(tmp_path, per_channel, opset):
    path = save_model(tmp_path, opset=opset)
    calibrator = create_calibrator(
        path, augmented_model_path=tmp_path / "a.onnx", extra_options={"per_channel": per_channel}
    )
    names = [output.name for output in calibrator.infer_session.get_outputs()]
    assert names == ["z", *(f"{tensor}_Reduce{end}" for tensor in "xyz" for end in ("Min", "Max"))]
    found = dict(
        zip(names, calibrator.infer_session.run(None, {"x": np.float32([[1, 2, 3], [-1, 5, 6]])}), strict=True)
    )
    np.testing.assert_array_equal(found["x_ReduceMin"], [-1, 2, 3] if per_channel else [-1])
    np.testing.assert_array_equal(found["y_ReduceMax"], [1, 5, 6] if per_channel else [6])
    onnx.checker.check_model(calibrator.get_augment_model(), full_check=True)


def test_what_is_asked_wrongly_is_refused(make, model, tmp_path):
    with pytest.raises(ValueError, match="gave no sample"):
        make().collect_data([])
    with pytest.raises(SampleError, match="call collect_data"):
        make().compute_data()
    with pytest.raises(SampleError, match="call collect_data"):
        make(CalibrationMethod.Entropy).compute_data()
    with pytest.raises(OptionError, match="did you mean 'symmetric'"):
        make(symetric=True)
    with pytest.raises(OptionError, match="no calibrator for MSE"):
        make(CalibrationMethod.MSE)
    with pytest.raises(ValueError, match="path of a model"):
        CalibraterBase(onnx.load(model))
    with pytest.raises(ValueError, match="averaging_constant"):
        make(moving_average=True, averaging_constant=1.5)
    with pytest.raises(OptionError, match="num_bins"):
        ranges(make(CalibrationMethod.Distribution, num_bins=100), [np.ones((1, 3), np.float32)])
    with pytest.raises(DependencyError, match="NoProvider"):
        create_calibrator(model, augmented_model_path=tmp_path / "a.onnx", providers=["NoProvider"])
    with pytest.raises(ModelError):
        make(path=tmp_path / "none.onnx")
