import numpy as np
import onnx
import pytest

from vqonnx.calibration.feeds import ModelInput
from vqonnx.calibration.readers import open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.errors import OptionError, SampleError

X = ModelInput("x", np.dtype(np.float32), (None, 3))
IDS = ModelInput("ids", np.dtype(np.int64), (None,))
MASK = ModelInput("mask", np.dtype(np.float32), None, required=False)


class Reader:
    """What users of onnxruntime.quantization have."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def feeds_of(count):
    return [{"x": np.full((1 + i % 2, 3), i, np.float32)} for i in range(count)]


def values(feeds):
    return [float(feed["x"].flat[0]) for feed in feeds]


MAKERS = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "data reader": Reader,
    "range of one pass": lambda feeds: (feed for feed in feeds),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("count", [1, 7, 8, 20])
def test_every_kind_of_reader_can_be_read_again_and_again(make, count, tmp_path):
    with open_samples(make(feeds_of(count)), [X], spool_dir=tmp_path) as samples:
        assert len(samples) == count
        for _ in range(2):
            assert values(samples) == list(range(count))
        np.testing.assert_array_equal(samples.all[count - 1]["x"], feeds_of(count)[-1]["x"])
    assert not list(tmp_path.iterdir())


def test_every_eighth_sample_is_held_back():
    samples = open_samples(feeds_of(20), [X])
    assert values(samples.held_back) == [7, 15]
    assert values(samples.calibration) == [i for i in range(20) if i not in (7, 15)]
    assert values(samples.calibration[17:]) == [19]


@pytest.mark.parametrize(("count", "every"), [(7, 8), (20, 0)])
def test_with_few_samples_or_none_to_hold_back_all_calibrate_and_verify(count, every):
    samples = open_samples(feeds_of(count), [X], hold_back_every=every)
    assert values(samples.held_back) == values(samples.calibration) == list(range(count))


@pytest.mark.parametrize("every", [1, -3])
def test_holding_back_all_samples_is_refused(every):
    with pytest.raises(OptionError, match=f"must be 0 .* or at least 2, got {every}") as caught:
        open_samples(feeds_of(3), [X], hold_back_every=every)
    assert caught.value.option == "hold_back_every"


def test_samples_pass_through():
    samples = open_samples(feeds_of(2), [X])
    assert open_samples(samples, [X]) is samples


def test_a_list_is_not_copied():
    feeds = feeds_of(2)
    assert open_samples(feeds, [X]).all[1]["x"] is feeds[1]["x"]


def test_a_reader_that_fails_leaves_no_copies(tmp_path):
    with pytest.raises(SampleError):
        open_samples(iter([*feeds_of(2), {}]), [X], spool_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.float64([0.1, 1e-50]), np.float32),
        (np.float32([0.1, 2.0]), np.float16),
        (np.int32([-1, 5]), np.int64),
        (np.int64([-1, 5]), np.int32),
        (np.uint8([0, 255]), np.float32),
        (np.array([True, False]), np.int64),
        (np.float32([1.0, -2.0]), np.int64),
    ],
)
def test_values_that_fit_are_converted(given, wanted):
    (feed,) = open_samples([{"v": given}], [ModelInput("v", np.dtype(wanted), (2,))])
    assert feed["v"].dtype == wanted
    np.testing.assert_array_equal(feed["v"], given.astype(wanted))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (np.float64([1e300]), np.float32),
        (np.float32([70000.0]), np.float16),
        (np.int64([2**40]), np.int32),
        (np.int64([-1]), np.uint64),
        (np.int64([2**53 + 1]), np.float64),
        (np.float32([0.5]), np.int64),
        (np.array(["a"]), np.float32),
        (np.array([1j]), np.float32),
    ],
)
def test_values_that_do_not_fit_are_refused(given, wanted):
    message = rf"input 'v' of calibration sample 0 has dtype .*do not fit the model's {np.dtype(wanted)}; convert it"
    with pytest.raises(SampleError, match=message) as caught:
        open_samples([{"v": given}], [ModelInput("v", np.dtype(wanted), (1,))])
    assert (caught.value.sample, caught.value.tensor) == (0, "v")


BAD = {
    "wrong name": ({"y": np.zeros((1, 3)), "ids": np.zeros(1)}, r"sample 1 has a value for 'y', which is not an input"),
    "near name": ({"idz": np.zeros(1)}, r"'idz', which is not an input of the model \(did you mean 'ids'"),
    "missing": ({"x": np.zeros((1, 3))}, r"sample 1 has no value for input 'ids'; it has \['x'\], and the model needs"),
    "rank": (
        {"x": np.zeros(3), "ids": np.zeros(1)},
        r"input 'x' of calibration sample 1 has shape \(3,\), but .*any, 3",
    ),
    "size": ({"x": np.zeros((1, 4)), "ids": np.zeros(1)}, r"shape \(1, 4\), but the model wants \(any, 3\); reshape"),
    "nan": ({"x": np.full((1, 3), np.nan), "ids": np.zeros(1)}, r"input 'x' of calibration sample 1 holds NaN or inf"),
    "inf": ({"x": np.full((1, 3), np.inf), "ids": np.zeros(1)}, r"holds NaN or infinity; drop this sample or repair"),
    "no mapping": ([np.zeros(3)], r"sample 1 is a list, not a mapping from input names to arrays; yield a dict with"),
}


@pytest.mark.parametrize(("feed", "message"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_a_feed_that_does_not_fit_is_refused(feed, message, make):
    good = {"x": np.zeros((2, 3), np.float32), "ids": np.zeros(2, np.int64)}
    with pytest.raises(SampleError, match=message) as caught:
        open_samples(make([good, feed]), [X, IDS, MASK])
    assert caught.value.sample == 1


def test_optional_inputs_may_be_given_and_zero_size_and_string_feeds_come_back():
    words = ModelInput("words", np.dtype(object), (None,))
    feed = {"x": np.zeros((0, 3), np.float32), "mask": np.ones(4), "words": np.array(["a", "bcd"], object)}
    with open_samples(iter([feed]), [X, MASK, words]) as samples:
        (back,) = samples
        assert back["x"].shape == (0, 3)
        assert back["mask"].dtype == np.float32
        assert back["words"].dtype == object
        assert back["words"].tolist() == ["a", "bcd"]
        assert samples.digest() == open_samples([feed], [X, MASK, words]).digest()


@pytest.mark.parametrize("reader", [[], iter([]), Reader([])], ids=["list", "generator", "data reader"])
def test_an_empty_reader_is_refused(reader):
    with pytest.raises(SampleError, match="gave no sample; a reader that was used before must be rewound"):
        open_samples(reader, [X])


@pytest.mark.parametrize("reader", [{"x": np.zeros((1, 3))}, np.zeros((1, 3)), 5], ids=["dict", "array", "number"])
def test_what_is_no_reader_is_refused(reader):
    with pytest.raises(SampleError, match=r"reader is a (dict|ndarray|int), which gives no feeds; pass a list"):
        open_samples(reader, [X])


def test_the_digest_sees_every_byte_dtype_shape_name_and_the_order():
    def digest(*arrays, name="v", dtype=np.float32):
        inputs = [ModelInput(name, np.dtype(dtype), None)]
        return open_samples([{name: np.asarray(array, dtype)} for array in arrays], inputs).digest()

    digests = [
        digest([1, 2], [3, 4]), digest([3, 4], [1, 2]), digest([1, 2], [3, 5]), digest([[1, 2]], [3, 4]),
        digest([1, 2]), digest([1, 2], [3, 4], name="w"), digest([1, 2], [3, 4], dtype=np.int32),
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)
    assert digest([1, 2], [3, 4]) == digests[0]


def test_a_folder_of_npz_and_npy_files_is_read_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        np.savez(tmp_path / f"sample{i}.npz", x=np.full((1, 3), i, np.float32))
    np.save(tmp_path / "a.npy", np.zeros((1, 3), np.float32))
    (tmp_path / "notes.txt").write_text("not a sample")
    assert values(open_samples(tmp_path, [X])) == [0, 1, 2, 10]
    assert values(open_samples(str(tmp_path), [X])) == [0, 1, 2, 10]


def save_tensor(path, array, name=""):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())


def test_onnx_test_data_sets_are_read_by_position_and_by_name(tmp_path):
    save_tensor(tmp_path / "test_data_set_0" / "input_0.pb", np.zeros((1, 3), np.float32))
    save_tensor(tmp_path / "test_data_set_0" / "input_1.pb", np.array([7]))
    save_tensor(tmp_path / "test_data_set_1" / "input_0.pb", np.array([8]), "ids")
    save_tensor(tmp_path / "test_data_set_1" / "input_1.pb", np.ones((1, 3), np.float32), "x")
    for folder, ids in ((tmp_path, [7, 8]), (tmp_path / "test_data_set_1", [8])):
        assert [int(feed["ids"][0]) for feed in open_samples(folder, [X, IDS])] == ids


def test_loose_tensor_files_feed_a_model_with_one_input(tmp_path):
    save_tensor(tmp_path / "s0.pb", np.full((1, 3), 5, np.float32))
    assert values(open_samples(tmp_path, [X])) == [5]


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(SampleError, match="does not exist or is not a folder"):
        open_samples(tmp_path / "nowhere", [X])
    with pytest.raises(SampleError, match=r"holds no sample: no \.npz"):
        open_samples(tmp_path, [X])


@pytest.mark.parametrize("name", ["s.npz", "s.npy", "s.pb"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY broken")
    with pytest.raises(SampleError, match=f"calibration sample 0, .*{name}', cannot be read: .*; write it again"):
        open_samples(tmp_path, [X])


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "s.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(SampleError, match="cannot be read"):
        open_samples(tmp_path, [X])


def test_one_unnamed_array_does_not_feed_two_inputs(tmp_path):
    np.save(tmp_path / "s.npy", np.zeros((1, 3), np.float32))
    with pytest.raises(SampleError, match=r"is one array, but the model has 2 inputs; save an \.npz file with"):
        open_samples(tmp_path, [X, IDS])


def test_closing_samples_of_a_list_removes_nothing():
    samples = open_samples(feeds_of(1), [X])
    samples.close()
    assert isinstance(samples, Samples)
    assert values(samples) == [0]
