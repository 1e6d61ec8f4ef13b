"""Weight-only quantization of models that are large, in processes that are killed: slow."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.memory import anonymous_mib
from models.large import GIB, large
from tests.flows.packing import pack_in_process
from vqonnx.flows.weight_only import work_folder
from vqonnx.graph.io import load

pytestmark = pytest.mark.slow


def data_of(path: Path) -> bytes:
    """The model's bytes and its data file's."""
    (data,) = path.parent.glob(f"{path.stem}.*.data")
    return path.read_bytes() + data.read_bytes()


@pytest.mark.skipif(anonymous_mib() is None, reason="the system does not tell anonymous memory")
@pytest.mark.parametrize("algorithm", ["rtn", "scale_search"])
def test_memory_does_not_grow_with_the_model(algorithm: str, tmp_path: Path) -> None:
    model = large(tmp_path, 2 * GIB + 1)
    assert (tmp_path / "model.data").stat().st_size > 2 * GIB
    largest = max(tensor.nbytes for tensor in (value.const_value for value in load(model).graph.initializers.values()))
    result = pack_in_process(model, tmp_path / "packed.onnx", algorithm=algorithm)
    assert result is not None
    assert result["level"] == "LAYERS"
    assert result["mib"] < 400 + largest * 9 / 8 / 2**20
    onnx.checker.check_model(tmp_path / "packed.onnx")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large(tmp_path_factory.mktemp("float"), 48 << 20, width=512, hidden=1024, vocabulary=4000)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("samples"), np.random.default_rng(0)
    for number in range(16):
        np.savez(folder / f"{number:02}.npz", ids=rng.integers(0, 4000, 64))
    return folder


@pytest.mark.parametrize("algorithm", ["rtn", "gptq"])
@pytest.mark.parametrize("kill_after", [3, 12])
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    algorithm: str, kill_after: int, model: Path, samples: Path, tmp_path: Path
) -> None:
    arguments = {"algorithm": algorithm} | ({"calibration": str(samples)} if algorithm == "gptq" else {})
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, killed = tmp_path / "whole" / "packed.onnx", tmp_path / "killed" / "packed.onnx"
    result = pack_in_process(model, whole, **arguments)
    assert result is not None
    assert result["weights"] > kill_after
    assert pack_in_process(model, killed, kill_after=kill_after, **arguments) is None
    assert [path.name for path in killed.parent.iterdir()] == [work_folder(killed).name]
    # The second run stores no more than what was left, and perhaps the weight before that has the same input.
    rest = result["weights"] - kill_after + 1
    assert pack_in_process(model, killed, kill_after=rest, **arguments) is not None
    assert data_of(killed) == data_of(whole)
    assert len(list(killed.parent.iterdir())) == 2
