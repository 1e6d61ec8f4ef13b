import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.chains import conv_chain
from models.external import external, huge
from models.large import large
from models.registry import Case, load, register

CASES = load()


def _run(model: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_case_is_valid_and_runs(case: Case) -> None:
    model = case.build()
    onnx.checker.check_model(model, full_check=case.inferable)
    if case.runnable:
        for feed in case.feeds(3):
            assert all(np.isfinite(output).all() for output in _run(model.SerializeToString(), feed))


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_case_is_the_same_each_time(case: Case) -> None:
    assert case.build().SerializeToString(deterministic=True) == case.build().SerializeToString(deterministic=True)
    for first, second in zip(case.feeds(2), case.feeds(2), strict=True):
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_each_case_says_what_is_odd_about_it() -> None:
    assert all(case.what and "/" in case.name for case in CASES.values())


def test_two_cases_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two cases are called 'chains/conv'"):
        register(CASES["chains/conv"])


def test_sizes_are_cycled_through_by_sample() -> None:
    rows = [feed["x"].shape[0] for feed in CASES["shapes/zero_rows"].feeds(4)]
    assert rows == [3, 0, 5, 3]


def test_conv_chain_has_as_many_convs_as_asked() -> None:
    model = conv_chain(800)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 800


def test_external_model_keeps_its_weights_in_the_second_file(tmp_path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer)
    assert (tmp_path / "weights.bin").stat().st_size > 10_000
    _run(str(path), next(load()["networks/residual_cnn"].feeds(1)))


@pytest.mark.slow
def test_huge_model_is_past_two_gib_and_mostly_holes(tmp_path) -> None:
    path = huge(tmp_path)
    stat = (tmp_path / "model.data").stat()
    assert stat.st_size > 2**31
    assert stat.st_blocks * 512 < 2**20
    (output,) = _run(str(path), {"ids": np.array([0, 7, 100_000])})
    assert np.abs(output[:2]).max() > 0.1


def test_large_model_is_as_large_as_asked_dense_and_the_same_each_time(tmp_path) -> None:
    sizes = {"width": 32, "hidden": 64, "vocabulary": 50}
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = large(tmp_path / name, 100_000, **sizes)
        contents.append((tmp_path / name / "model.data").read_bytes())
    assert 100_000 <= len(contents[0]) < 100_000 + 3 * 4 * 32 * 64
    assert contents[0] == contents[1]
    assert np.count_nonzero(np.frombuffer(contents[0], np.float32)) > 24_900
    (logits,) = _run(str(path), {"ids": np.array([0, 7, 49])})
    assert logits.shape == (3, 50)
    assert 0.1 < logits.std() < 10
