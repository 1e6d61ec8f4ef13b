import dataclasses
import mmap
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqonnx.core.blocks import BlockSpec
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.errors import OutputError
from vqonnx.kernels.blocks.codebook import NF4, round_to_book
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.stages.weights import store as weight_store
from vqonnx.stages.weights.store import MemoryStore, WeightStore


def solved_weight(key, seed=0, shape=(40, 6), *, dtype=np.float32, book=False, symmetric=False, scaled=False):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=shape).astype(dtype)
    packed = round_to_book(weight, NF4, 16) if book else round_blocks(weight, BlockSpec(symmetric=symmetric))
    return SolvedWeight(
        key=key,
        packed=packed,
        asked="awq",
        algorithm="rtn",
        data=scaled,
        error=1 / (seed + 3),
        rtn_error=0.25,
        calibration_error=0.1 if scaled else None,
        seconds=0.5,
        channel_scales=rng.uniform(1, 2, shape[0]).astype(np.float32) if scaled else None,
        note="ä note",
    )


def parts(solved):
    """All of a weight, arrays as their type and bytes."""

    def flat(value):
        if dataclasses.is_dataclass(value):
            return (type(value).__name__, *(flat(getattr(value, field.name)) for field in dataclasses.fields(value)))
        return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    return flat(solved)


WEIGHTS = [
    solved_weight("a"),
    solved_weight("b", 1, dtype=np.float16, scaled=True),
    solved_weight("c/ü \n", 2, dtype=ml_dtypes.bfloat16, symmetric=True),
    solved_weight("d", 3, book=True),
    solved_weight("e", 4, shape=(300, 70)),
    solved_weight("f", 5, shape=(0, 3)),
]


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_is_put_is_found(tmp_path, kind):
    with WeightStore(tmp_path / "work", "job") as on_disk:
        store = MemoryStore() if kind == "memory" else on_disk
        kept = [store.put(solved) for solved in WEIGHTS]
        assert list(map(parts, kept)) == list(map(parts, WEIGHTS))
        assert list(store) == [solved.key for solved in WEIGHTS]
        assert parts(store["d"]) == parts(WEIGHTS[3])
        assert "a" in store
        assert "z" not in store
        assert len(store) == 6
        with pytest.raises(KeyError):
            store["z"]
        store.put(solved_weight("a", 9))
        assert parts(store["a"]) == parts(solved_weight("a", 9))
        assert len(store) == 6


def test_what_is_put_is_a_read_only_map(tmp_path):
    with WeightStore(tmp_path, "job") as store:
        kept = store.put(solved_weight("a", scaled=True))
        for array in (kept.packed.codes, kept.packed.scales, kept.packed.zero_points, kept.channel_scales):
            assert not array.flags.writeable
            assert not array.flags.owndata
    # Arrays in use outlive the store.
    assert parts(kept) == parts(solved_weight("a", scaled=True))


def test_the_same_job_finds_its_weights_again(tmp_path):
    with WeightStore(tmp_path, "job") as store:
        for solved in WEIGHTS:
            store.put(solved)
        store.put(solved_weight("a", 7))
    with WeightStore(tmp_path, "job") as store:
        assert store.note == ""
        assert parts(store["a"]) == parts(solved_weight("a", 7))
        assert [parts(store[solved.key]) for solved in WEIGHTS[1:]] == list(map(parts, WEIGHTS[1:]))
        store.put(solved_weight("g", 8))
    with WeightStore(tmp_path, "job") as store:
        assert len(store) == 7
        assert parts(store["g"]) == parts(solved_weight("g", 8))


def test_another_job_s_weights_are_removed_and_others_files_are_not(tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with WeightStore(tmp_path, "job") as store:
        store.put(WEIGHTS[0])
        store.put(WEIGHTS[1])
    with WeightStore(tmp_path, "other") as store:
        assert store.note == "2 weights of another job were removed"
        assert not store
        store.put(WEIGHTS[2])
    with WeightStore(tmp_path, "job") as store:
        assert not store
        assert store.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_held_nothing_else_is_removed(tmp_path):
    with WeightStore(tmp_path / "deep" / "work", "job") as store:
        store.put(WEIGHTS[0])
        assert store.remove()
    assert not (tmp_path / "deep" / "work").exists()


def test_maps_are_closed_once_their_arrays_are_gone(tmp_path):
    """Not before, since reading them would end the process; and then at once, since Windows removes no mapped file."""
    store = WeightStore(tmp_path, "job")
    kept = store.put(WEIGHTS[0])
    codes = kept.packed.codes[1:]
    mapped = weakref.ref(kept.packed.codes.base)
    assert isinstance(mapped(), mmap.mmap)
    store.close()
    del kept
    assert codes.tobytes() == WEIGHTS[0].packed.codes[1:].tobytes()
    del codes
    assert mapped() is None


def test_files_that_cannot_be_removed_are_told(tmp_path, monkeypatch):
    store = WeightStore(tmp_path, "job")
    store.put(WEIGHTS[0])

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "in use", str(path))

    monkeypatch.setattr(type(tmp_path), "unlink", refuse)
    assert not store.remove()
    monkeypatch.undo()
    with WeightStore(tmp_path, "job") as again:  # not locked any more
        assert list(again) == ["a"]


def test_several_weights_share_a_file_and_large_ones_have_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_store, "_FILE_BYTES", 4 * 4096)
    weights = [solved_weight(str(n), n, shape=(64, 500) if n == 3 else (64, 20)) for n in range(8)]
    for start, stop in ((0, 5), (5, 8)):
        with WeightStore(tmp_path, "job") as store:
            for solved in weights[start:stop]:
                store.put(solved)
    with WeightStore(tmp_path, "job") as store:
        assert [parts(store[solved.key]) for solved in weights] == list(map(parts, weights))
        sizes = sorted(path.stat().st_size for path in tmp_path.glob("weights-*.bin"))
    assert sizes == [16384, 16384, 16384, 24576]


def copied(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def small_store(tmp_path, monkeypatch):
    """Three weights in one small file, the length of the index after each, and the arrays' last bytes."""
    monkeypatch.setattr(weight_store, "_FILE_BYTES", 3 * 4096)
    folder, lengths = tmp_path / "store", []
    weights = [solved_weight(name, seed) for seed, name in enumerate("abc")]
    with WeightStore(folder, "job") as store:
        lengths.append((folder / "weights.index").stat().st_size)
        for solved in weights:
            store.put(solved)
            lengths.append((folder / "weights.index").stat().st_size)
        used = [sum(array.nbytes for array in weight_store.arrays_of(solved).values()) for solved in weights]
    return folder, weights, lengths, used


def test_an_index_cut_off_anywhere_keeps_all_whole_lines(tmp_path, small_store):
    folder, weights, lengths, _ = small_store
    index, work = (folder / "weights.index").read_bytes(), tmp_path / "copy"
    ends = [end + shift for end in lengths for shift in (-1, 0, 1)]
    for length in (*range(lengths[1]), *ends):
        work.mkdir()
        (work / "weights-0.bin").write_bytes((folder / "weights-0.bin").read_bytes())
        (work / "weights.index").write_bytes(index[:length])
        whole = sum(length >= end for end in lengths[1:])
        with WeightStore(work, "job") as store:
            assert list(store) == list("abc")[:whole]
            assert store.note == ""
            store.put(weights[2])
        if length % 10 == 0 or length in ends:
            with WeightStore(work, "job") as store:
                assert list(store) == [*"ab"[:whole], "c"]
                assert parts(store["c"]) == parts(weights[2])
        shutil.rmtree(work)


@pytest.mark.slow
def test_data_cut_off_anywhere_lose_what_is_cut(tmp_path, small_store):
    folder, weights, _, used = small_store
    data = (folder / "weights-0.bin").read_bytes()
    ends = [number * 4096 + size for number, size in enumerate(used)]
    for length in (*range(0, len(data), 61), *(end + shift for end in ends for shift in (-1, 0, 1)), len(data)):
        work = copied(folder, tmp_path / "copy")
        (work / "weights-0.bin").write_bytes(data[:length])
        with WeightStore(work, "job") as store:
            # Arrays begin at multiples of 64 bytes, so a little more than the sum of their sizes must be there.
            assert {key for key, end in zip("abc", ends, strict=True) if length >= end + 192} <= set(store)
            assert all(length >= end for key, end in zip("abc", ends, strict=True) if key in store)
            assert store.note == (
                f"{3 - len(store)} weights of an interrupted run were damaged and are solved again"
                if len(store) < 3
                else ""
            )
            for solved in weights:
                if solved.key not in store:
                    store.put(solved)
        with WeightStore(work, "job") as store:
            assert [parts(store[solved.key]) for solved in weights] == list(map(parts, weights))
            assert store.remove()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from(["weights.index", "data"]))
def test_a_flipped_bit_is_never_read(tmp_path_factory, small_store, where, bit, name):
    folder, weights, _, _ = small_store
    work = copied(folder, tmp_path_factory.mktemp("flipped") / "copy")
    path = work / ("weights-0.bin" if name == "data" else name)
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    known = {solved.key: parts(solved) for solved in weights}
    with WeightStore(work, "job") as store:
        assert all(parts(solved) == known[key] for key, solved in store.items())


def test_data_without_a_line_are_overwritten(tmp_path):
    """The process died between the arrays and their line."""
    with WeightStore(tmp_path, "job") as store:
        store.put(WEIGHTS[0])
    (tmp_path / "weights-1.bin").write_bytes(b"half")
    with WeightStore(tmp_path, "job") as store:
        store.put(WEIGHTS[1])
        assert parts(store["b"]) == parts(WEIGHTS[1])


def test_missing_data_are_solved_again(tmp_path):
    with WeightStore(tmp_path, "job") as store:
        store.put(WEIGHTS[0])
    (tmp_path / "weights-0.bin").unlink()
    with WeightStore(tmp_path, "job") as store:
        assert not store
        assert store.note == "1 weights of an interrupted run were damaged and are solved again"


@pytest.mark.slow
def test_a_killed_process_leaves_what_it_had_put(tmp_path):
    code = f"""
        import sys
        sys.path[:0] = {[str(os.fspath(path)) for path in sys.path]!r}
        from pathlib import Path
        from tests.stages.weights import test_store as t
        store = t.WeightStore(Path({str(tmp_path)!r}), "job")
        for seed in range(10**6):
            store.put(t.solved_weight(f"w{{seed}}", seed))
            print(seed, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        told = process.stdout.readline()
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.communicate()
    with WeightStore(tmp_path, "job") as store:
        assert len(store) > int(told)
        assert all(parts(solved) == parts(solved_weight(key, int(key[1:]))) for key, solved in store.items())


def test_a_folder_serves_one_run_at_a_time(tmp_path):
    with (
        WeightStore(tmp_path, "job"),
        pytest.raises(OutputError, match="another run does"),
    ):
        WeightStore(tmp_path, "job")
    with WeightStore(tmp_path, "job"):
        pass


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
    class Full:
        closed = False

        def seek(self, offset):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

    with WeightStore(tmp_path, "job") as store:
        store.put(WEIGHTS[0])
        (file,) = store._files.values()
        with monkeypatch.context() as patched:
            patched.setattr(file, "_file", Full())
            with pytest.raises(OutputError, match=r"No space left on device.*Make room"):
                store.put(WEIGHTS[1])
        store.put(WEIGHTS[2])
    with WeightStore(tmp_path, "job") as store:
        assert [parts(solved) for solved in store.values()] == [parts(WEIGHTS[0]), parts(WEIGHTS[2])]


def test_several_threads_may_put(tmp_path):
    weights = [solved_weight(str(n), n) for n in range(40)]
    with WeightStore(tmp_path, "job") as store:
        threads = [
            threading.Thread(target=lambda some: [store.put(one) for one in some], args=(weights[n::4],))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(parts, store.values()), key=str) == sorted(map(parts, weights), key=str)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        WeightStore(tmp_path / "file", "job")


def test_many_small_weights_take_few_files_and_calls(tmp_path, count_calls):
    """A file or a map each would end at the limit of open files."""
    solved = solved_weight("a")
    with WeightStore(tmp_path, "job") as store:
        kept = [store.put(dataclasses.replace(solved, key=str(n))) for n in range(3000)]
        assert len(list(tmp_path.iterdir())) == 3
        first = count_calls(store.put, solved)
        assert first < 1000
        assert parts(dataclasses.replace(kept[2999], key="a")) == parts(solved)
