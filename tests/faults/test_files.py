"""Faults that lose or damage what belongs to the caller: models in memory, files beside them; see the index."""

import copy
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.faults.flow import dynamic, packed, static, worst_db
from tests.faults.test_wrong_numbers import ROWS, two_layers
from vqonnx.errors import OutputError

QUANTIZERS = {
    "static": lambda *a, **more: static(*a, ROWS, **more),
    "dynamic": dynamic,
    "packed": lambda *a, **more: packed(*a, bits=8, **more),
}


@pytest.fixture(params=QUANTIZERS)
def quantize(request: pytest.FixtureRequest) -> Any:
    return QUANTIZERS[request.param]


def with_constant_nodes() -> onnx.ModelProto:
    """Weights in Constant nodes, whose tensors have no name or another than the value."""
    model = two_layers()
    for tensor in reversed(model.graph.initializer):
        node = model.graph.node.add(op_type="Constant", output=[tensor.name], name=f"make_{tensor.name}")
        node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor).t.name = "value"
        model.graph.node.insert(0, node)
        del model.graph.node[-1]
    del model.graph.initializer[:]
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("build", [two_layers, with_constant_nodes])
def test_the_callers_model_is_not_destroyed(build: Any, quantize: Any, tmp_path: Path) -> None:
    model = build()
    before = copy.deepcopy(model)
    for external in (True, False):
        quantize(model, tmp_path / "m.onnx", use_external_data_format=external)
    assert model == before


def test_a_users_files_are_neither_overwritten_nor_deleted(quantize: Any, tmp_path: Path) -> None:
    onnx.save(two_layers(), tmp_path / "model.onnx")
    theirs = ("model-inferred.onnx", "model_augmented.onnx", "augmented_model.onnx", "sym_shape_infer_temp.onnx")
    for name in theirs:
        (tmp_path / name).write_bytes(b"mine")
    quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", use_external_data_format=False)
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, "model.onnx", "out.onnx"}
    assert {(tmp_path / name).read_bytes() for name in theirs} == {b"mine"}


@pytest.mark.skipif(os.name == "nt", reason="folders have no such mode there")
def test_a_model_in_a_folder_that_cannot_be_written_to(quantize: Any, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    onnx.save(two_layers(), folder / "model.onnx")
    folder.chmod(0o500)
    try:
        quantize(folder / "model.onnx", tmp_path / "out.onnx")
    finally:
        folder.chmod(0o700)
    assert worst_db(two_layers(), tmp_path / "out.onnx", ROWS) > 25
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def test_input_and_output_may_be_one_path(quantize: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path)
    quantize(path, path)
    assert worst_db(two_layers(), path, ROWS) > 25


def test_external_data_do_not_grow_from_run_to_run(quantize: Any, tmp_path: Path) -> None:
    onnx.save(
        two_layers(), tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0
    )
    listed = []
    for _ in range(3):
        quantize(tmp_path / "model.onnx", tmp_path / "out.onnx", use_external_data_format=True)
        listed.append({path.name: path.stat().st_size for path in tmp_path.iterdir()})
    assert listed[0] == listed[1] == listed[2]


def test_a_missing_output_folder_is_told_before_any_sample_is_read(tmp_path: Path) -> None:
    def feeds() -> Any:
        raise AssertionError("a sample was read")
        yield

    with pytest.raises(OutputError, match="does not exist"):
        static(two_layers(), tmp_path / "absent" / "m.onnx", feeds())


def test_what_fails_leaves_the_old_file(quantize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vqonnx.graph.io.write_inline", full)
    with pytest.raises(OutputError, match="No space left"):
        quantize(two_layers(), tmp_path / "m.onnx", use_external_data_format=False)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
