import errno
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from vqonnx.errors import OptionError, OutputError, VerificationError
from vqonnx.graph import atomic, edit, io
from vqonnx.graph import external as data_files
from vqonnx.graph.io import load, save
from vqonnx.runtime.session import open_session

CHAIN = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[64] x) => (float[64] y) '
    "{ a = Add (x, u) b = Mul (a, v) y = Identity (b) }"
)


def chain(seed: int = 0) -> ir.Model:
    model = load(onnx.parser.parse_model(CHAIN.replace("(float[64] x)", "(float[64] x, float[64] u, float[64] v)")))
    random = np.random.default_rng(seed)
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.Tensor(random.normal(size=64).astype(np.float32), name=value.name)
        model.graph.register_initializer(value)
    x = model.graph.inputs[0]
    model.graph.inputs.clear()
    model.graph.inputs.append(x)
    return model


def output(source) -> np.ndarray:
    session = open_session(source)
    return session.run(None, {"x": np.ones(64, np.float32)})[0]


@pytest.fixture(autouse=True)
def _small_tensors_go_outside(monkeypatch):
    monkeypatch.setattr(io, "INLINE_BELOW", 128)


@pytest.mark.parametrize("external", [None, False, True])
def test_saved_models_load_and_run(tmp_path, external):
    saved = save(chain(), tmp_path / "m.onnx", external=external)
    np.testing.assert_array_equal(output(saved.path), output(chain()))
    np.testing.assert_array_equal(output(load(saved.path)), output(chain()))
    assert (saved.data_path is not None) == bool(external)
    assert saved.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 1 + bool(external)
    onnx.checker.check_model(str(saved.path), full_check=True)


@pytest.mark.parametrize("external", [False, True])
def test_equal_models_give_equal_bytes(tmp_path, external):
    for name in "ab":
        (tmp_path / name).mkdir()
        save(chain(), tmp_path / name / "m.onnx", external=external)
    files = [sorted((file.name, file.read_bytes()) for file in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]


def test_the_data_file_is_named_after_its_content(tmp_path):
    saved = save(chain(), tmp_path / "m.int8.onnx", external=True)
    assert saved.data_path.name == f"m.int8.{data_files.digest_of(saved.data_path)}.data"


def test_large_tensors_are_aligned_for_mapping(tmp_path):
    model = chain()
    big = edit.add_initializer(model.graph, "big", np.zeros(1 << 18, np.float32))
    saved = save(model, tmp_path / "m.onnx", external=True)
    tensors = load(saved.path).graph.initializers
    assert tensors[big.name].const_value.offset % (1 << 16) == 0
    assert all(tensor.offset % 64 == 0 for tensor in tensors.tensors())


def test_a_shared_tensor_is_written_once(tmp_path):
    model = chain()
    tensors = model.graph.initializers
    tensors["v"].const_value = tensors["u"].const_value
    saved = save(model, tmp_path / "m.onnx", external=True)
    assert saved.data_path.stat().st_size == 256


def test_small_and_string_tensors_stay_inside(tmp_path):
    model = chain()
    edit.add_initializer(model.graph, "s", ir.StringTensor([b"t"] * 99, shape=ir.Shape([99]), name="s"))
    edit.add_initializer(model.graph, "one", np.ones(1, np.float32))
    loaded = load(save(model, tmp_path / "m.onnx", external=True).path)
    kinds = {
        name: isinstance(value.const_value, ir.ExternalTensor) for name, value in loaded.graph.initializers.items()
    }
    assert kinds == {"u": True, "v": True, "s": False, "one": False}


def test_nothing_large_means_no_data_file(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "INLINE_BELOW", 1 << 20)
    assert save(chain(), tmp_path / "m.onnx", external=True).data_path is None


def test_large_models_go_outside_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "EXTERNAL_ABOVE", 500)
    assert save(chain(), tmp_path / "m.onnx").data_path is not None


def test_a_large_model_does_not_fit_into_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "PROTO_LIMIT", 500)
    with pytest.raises(OptionError, match=r"512 bytes; one .onnx file holds 500. Drop external=False") as caught:
        save(chain(), tmp_path / "m.onnx", external=False)
    assert caught.value.option == "external"


def test_the_model_itself_is_not_changed(tmp_path):
    model = chain()
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    save(model, tmp_path / "m.onnx", external=True)
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == before


def test_input_and_output_may_be_one_path(tmp_path):
    path = tmp_path / "m.onnx"
    for _ in range(2):
        save(chain(), path, external=True)
        model = load(path)
        edit.add_initializer(model.graph, "extra", np.arange(64, dtype=np.float32))
        save(model, path, external=True)
        np.testing.assert_array_equal(output(path), output(chain()))
        assert len(list(tmp_path.iterdir())) == 2  # the data file of the first save is gone


def test_saving_the_same_again_keeps_the_mapped_file(tmp_path):
    saved = save(chain(), tmp_path / "m.onnx", external=True)
    model = load(saved.path)
    before = saved.data_path.stat().st_ino
    assert save(model, saved.path, external=True) == saved
    assert saved.data_path.stat().st_ino == before


def test_a_damaged_data_file_of_the_same_name_is_replaced(tmp_path):
    saved = save(chain(), tmp_path / "m.onnx", external=True)
    saved.data_path.write_bytes(bytes(512))
    save(chain(), saved.path, external=True)
    np.testing.assert_array_equal(output(saved.path), output(chain()))


def test_data_files_of_others_are_never_removed(tmp_path):
    saved = save(chain(), tmp_path / "m.onnx", external=True)
    shutil.copy(saved.path, tmp_path / "backup.onnx")
    unknown = tmp_path / f"m.{'0' * 16}.data"
    unknown.write_bytes(b"not mentioned")
    (tmp_path / "empty.onnx").touch()
    save(chain(1), saved.path, external=True)
    np.testing.assert_array_equal(output(tmp_path / "backup.onnx"), output(chain()))
    assert unknown.exists()


def test_a_data_file_with_another_name_is_never_removed(tmp_path):
    ir.save(chain(), tmp_path / "m.onnx", external_data="weights.bin", size_threshold_bytes=0)
    save(load(tmp_path / "m.onnx"), tmp_path / "m.onnx", external=True)
    assert (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize("external", [False, True])
def test_what_check_raises_leaves_the_old_file_whole(tmp_path, external):
    path = tmp_path / "m.onnx"
    save(chain(), path, external=external)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    seen = []

    def check(draft: Path) -> None:
        seen.append(output(draft))
        raise VerificationError("no")

    with pytest.raises(VerificationError):
        save(chain(1), path, external=external, check=check)
    np.testing.assert_array_equal(seen[0], output(chain(1)))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch, external, call):
    path = tmp_path / "m.onnx"
    save(chain(), path, external=external)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match=r"cannot write .*m.onnx': No space left on device. Make room") as caught:
        save(chain(1), path, external=external)
    assert caught.value.path == str(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        save(chain(), disk / "m.onnx", external=True)
        model = chain(1)
        edit.add_initializer(model.graph, "big", np.ones(1 << 15, np.float32))
        with pytest.raises(OutputError, match="about 131,584 bytes are needed and"):
            save(model, disk / "m.onnx", external=True)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, 1 << 40))
        with pytest.raises(OutputError, match="No space left on device"):
            save(model, disk / "m.onnx", external=True)
        np.testing.assert_array_equal(output(disk / "m.onnx"), output(chain()))
        assert len(list(disk.iterdir())) == 2
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_unwritable_paths_are_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for path, fact in [
        (tmp_path, "it is a folder. Give a file name"),
        (tmp_path / "no" / "m.onnx", "no' does not exist. Create it first"),
        (tmp_path / "file" / "m.onnx", "file' is not a folder"),
    ]:
        with pytest.raises(OutputError, match=fact) as caught:
            atomic.check_writable(path)
        assert caught.value.path == str(path)
    atomic.check_writable(tmp_path / "m.onnx", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(OutputError, match="Permission denied"):
        atomic.check_writable(tmp_path / "m.onnx")


def test_a_full_disk_is_foreseen(tmp_path):
    with pytest.raises(OutputError, match=r"about 1,152,921,504,606,846,976 bytes are needed and .* are free"):
        atomic.check_writable(tmp_path / "m.onnx", 1 << 60)


def test_a_folder_that_cannot_be_synced_does_not_fail_the_save(tmp_path, monkeypatch):
    def refuse(_: Path) -> None:
        raise OSError(errno.EINVAL, "no such thing on this file system")

    monkeypatch.setattr(atomic, "sync_folder", refuse)
    assert save(chain(), tmp_path / "m.onnx").path.exists()


@pytest.mark.parametrize(
    ("opset", "dtype", "expected"), [(17, "float", 10), (21, "float", 10), (23, "float", 11), (23, "float4e2m1", 11)]
)
def test_the_least_ir_version_is_written(tmp_path, opset, dtype, expected):
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}, "my": 1]> g ({dtype}[4] x) => ({dtype}[4] y) {{ y = my.op (x) }}'
    )
    if dtype == "float4e2m1":
        model = load(onnx.parser.parse_model(text.replace(dtype, "float")))
        model.graph.inputs[0].dtype = ir.DataType.FLOAT8E8M0
        expected = 12
    else:
        model = load(onnx.parser.parse_model(text))
    save(model, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx").ir_version == expected
