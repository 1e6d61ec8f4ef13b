"""What runs of ``quantize_weight_only`` do to files: the caller's, the output, and those that let a run resume."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import weights as cases
from models.large import large
from tests.flows.packing import decoder_samples, pack
from vqonnx import Report
from vqonnx.errors import ModelError, OutputError
from vqonnx.flows.weight_only import work_folder
from vqonnx.graph.io import load
from vqonnx.stages.weights import files as weight_files
from vqonnx.stages.weights.store import WeightStore

ALGORITHMS: dict[str, dict[str, Any]] = {
    "rtn": {"op_types_to_quantize": ["MatMul", "Gather"]},
    "gptq": {"algorithm": "gptq", "op_types_to_quantize": ["MatMul", "Gather"]},
}
WEIGHTS = 6


def content(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A language model with its weights in a second file."""
    folder = tmp_path / "float"
    folder.mkdir()
    return large(folder, 1 << 18, width=32, hidden=64, vocabulary=500)


def test_the_input_and_its_folder_are_not_touched(model: Path, tmp_path: Path) -> None:
    before = content(model.parent)
    pack(model, tmp_path / "packed.onnx", op_types_to_quantize=["MatMul", "Gather"])
    assert content(model.parent) == before


@pytest.mark.parametrize(("wanted", "files"), [(None, 2), (True, 2), (False, 1)])
def test_data_lie_where_the_float_model_has_them_or_where_asked(
    wanted: bool | None, files: int, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    report = pack(model, folder / "packed.onnx", use_external_data_format=wanted)
    assert len(names(folder)) == files
    sizes = report.verification.sizes
    assert sizes is not None
    for nbytes, place in ((sizes.quantized_bytes, folder), (sizes.float_bytes, model.parent)):
        assert nbytes == pytest.approx(sum(path.stat().st_size for path in place.iterdir()), rel=0.1)


def test_the_output_may_be_the_input(model: Path, tmp_path: Path) -> None:
    pack(model, tmp_path / "apart.onnx", use_external_data_format=False)
    pack(model, model, use_external_data_format=False)
    assert model.read_bytes() == (tmp_path / "apart.onnx").read_bytes()
    assert names(model.parent) == ["model.data", "model.onnx"]


def test_the_output_may_be_the_input_also_where_both_have_data_files(model: Path, tmp_path: Path) -> None:
    before = (model.parent / "model.data").read_bytes()
    pack(model, model)
    (data,) = (name for name in names(model.parent) if name not in ("model.data", "model.onnx"))
    assert (model.parent / "model.data").read_bytes() == before
    pack(load(model), model.parent / "again.onnx", requantize=True, op_types_to_quantize=["Gather"])
    assert data in names(model.parent)


def test_a_data_file_that_is_cut_off_is_named(model: Path, tmp_path: Path) -> None:
    os.truncate(model.parent / "model.data", 1000)
    with pytest.raises(ModelError, match=r"model\.data' has 1,000 bytes, but tensor .* is cut off"):
        pack(model, tmp_path / "packed.onnx")
    assert names(tmp_path) == ["float"]


def test_a_data_file_that_is_missing_is_named(model: Path, tmp_path: Path) -> None:
    (model.parent / "model.data").unlink()
    with pytest.raises(ModelError, match=r"model\.data"):
        pack(model, tmp_path / "packed.onnx")
    assert names(tmp_path) == ["float"]


def test_an_output_that_cannot_be_written_is_told_at_once(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        pack(model, tmp_path / "absent" / "packed.onnx")
    with pytest.raises(OutputError, match="it is a folder"):
        pack(model, tmp_path)


Run = Callable[..., Report]


@pytest.fixture(params=list(ALGORITHMS))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Packs a decoder by the one algorithm or the other, into ``packed.onnx`` where no name is given."""
    samples = decoder_samples() if request.param == "gptq" else None

    def packed(name: str = "packed.onnx", **more: Any) -> Report:
        arguments = {"calibration": samples, **ALGORITHMS[request.param], **more}
        return pack(cases.decoder_with_cache(), tmp_path / name, **arguments)

    return packed


class Interruption:
    """Raises an error instead of storing one more than so many weights, and keeps the keys of those that were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit, self.error, self.stored = 1000, KeyboardInterrupt(), list[str]()
        inner = WeightStore.put

        def put(store: WeightStore, solved: Any) -> Any:
            if len(self.stored) == self.limit:
                raise self.error
            self.stored.append(solved.key)
            return inner(store, solved)

        monkeypatch.setattr(WeightStore, "put", put)

    def after(self, count: int) -> None:
        self.limit, self.stored = count, []


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    return Interruption(monkeypatch)


def test_a_run_goes_on_where_it_was_interrupted(run: Run, interruption: Interruption, tmp_path: Path) -> None:
    run("whole.onnx")
    assert len(interruption.stored) == WEIGHTS
    interruption.after(3)
    with pytest.raises(KeyboardInterrupt):
        run()
    first = interruption.stored
    assert names(tmp_path) == [".packed.onnx.work", "whole.onnx"]
    assert work_folder(tmp_path / "packed.onnx").name == ".packed.onnx.work"
    interruption.after(1000)
    report = run()
    # Of weights with the same input, all are solved again where one is missing.
    assert {*first, *interruption.stored} == {one.weight for one in report.weights}
    assert len(interruption.stored) < WEIGHTS
    assert (tmp_path / "packed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert names(tmp_path) == ["packed.onnx", "whole.onnx"]


def test_a_run_that_was_interrupted_before_its_first_weight_leaves_nothing(
    run: Run, interruption: Interruption, tmp_path: Path
) -> None:
    interruption.after(0)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert names(tmp_path) == []


@pytest.mark.parametrize("more", [{"symmetric": True}, {"layers": {"MatMul_1": {"bits": 8}}}, {"last_matmul": False}])
def test_what_another_job_left_is_replaced(
    run: Run, interruption: Interruption, more: dict[str, Any], tmp_path: Path
) -> None:
    interruption.after(2)
    with pytest.raises(KeyboardInterrupt):
        run()
    interruption.after(1000)
    report = run(**more)
    assert len(interruption.stored) == len(report.weights)
    assert "2 weights of another job were removed" in report.notes
    run("whole.onnx", **more)
    assert (tmp_path / "packed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert names(tmp_path) == ["packed.onnx", "whole.onnx"]


def test_a_model_that_changed_in_between_is_another_job(interruption: Interruption, tmp_path: Path) -> None:
    proto = cases.decoder_with_cache()
    interruption.after(2)
    with pytest.raises(KeyboardInterrupt):
        pack(proto, tmp_path / "packed.onnx")
    interruption.after(1000)
    proto.graph.initializer[3].raw_data = np.zeros(256, np.float32).tobytes()
    report = pack(proto, tmp_path / "packed.onnx")
    assert len(interruption.stored) == len(report.weights)


def test_other_samples_are_another_job(interruption: Interruption, tmp_path: Path) -> None:
    samples, stored = decoder_samples(), []
    for feeds in (samples, samples[::-1]):
        interruption.after(2)
        with pytest.raises(KeyboardInterrupt):
            pack(cases.decoder_with_cache(), tmp_path / "m.onnx", algorithm="gptq", calibration=feeds)
        stored.append(interruption.stored)
    assert stored[0] == stored[1]


def test_two_runs_for_one_output_do_not_meet(run: Run, tmp_path: Path) -> None:
    with (
        WeightStore(work_folder(tmp_path / "packed.onnx"), "another run"),
        pytest.raises(OutputError, match=r"\.packed\.onnx\.work"),
    ):
        run()
    run()
    assert names(tmp_path) == ["packed.onnx"]


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_weights_are_stored(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(weight_files, "_bytes_of", no_space)
        with pytest.raises(OutputError, match=r"cannot write '.*packed\.onnx\.work.*': No space left on device"):
            run()
    assert names(tmp_path) == []
    run()


def test_a_full_disk_while_the_model_is_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packed.onnx").write_bytes(b"old")
    with monkeypatch.context() as full:
        full.setattr("vqonnx.graph.io.write_inline", no_space)
        with pytest.raises(OutputError, match=r"cannot write '.*packed\.onnx': No space left on device"):
            run()
    assert (tmp_path / "packed.onnx").read_bytes() == b"old"
    assert names(tmp_path) == [".packed.onnx.work", "packed.onnx"]
    stored: list[str] = []
    inner = WeightStore.put
    monkeypatch.setattr(WeightStore, "put", lambda store, solved: stored.append(solved.key) or inner(store, solved))
    run()
    assert stored == []
    assert names(tmp_path) == ["packed.onnx"]
