"""Tensors come back as they were stored, what nobody needs is gone, and a store opens again where it was."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqonnx.calibration.activation_store import ActivationStore
from vqonnx.errors import OutputError

ARRAYS = {
    "float": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    "half, a/b\n": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
    "scalar": np.array(7, np.int64),
    "flags": np.array([[True], [False]]),
    "empty": np.zeros((0, 4)),
    "turned": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
}


def put(store: ActivationStore, **tensors: Any) -> None:
    """Store tensors of sample 0."""
    with store.writing(list(tensors)) as append:
        append(0, list(tensors.values()))


def files(folder: Path) -> int:
    return len(list(folder.glob("*.bin")))


def test_tensors_come_back(tmp_path: Path) -> None:
    with ActivationStore(tmp_path) as store:
        with store.writing(list(ARRAYS)) as append:
            for sample in (4, 1):
                append(sample, list(ARRAYS.values()))
        for name, array in ARRAYS.items():
            for sample in (1, 4):
                found = store.read(name, sample)
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, array)
            assert [(one.dtype, one.shape) for one in store.places(name).values()] == [(array.dtype, array.shape)] * 2


def test_several_threads_may_write_samples_of_any_size(tmp_path: Path) -> None:
    arrays = [np.full((1 + 700 * (n % 7),), n, np.int32) for n in range(64)]
    with ActivationStore(tmp_path) as store, ThreadPoolExecutor(4) as pool:
        with store.writing(["a", "b"]) as append:
            list(pool.map(lambda n: append(n, [arrays[n], -arrays[n]]), range(64)))
        for n, (a, b) in enumerate(pool.map(lambda n: (store.read("a", n), store.read("b", n)), range(64))):
            np.testing.assert_array_equal(a, arrays[n])
            np.testing.assert_array_equal(b, -arrays[n])


def test_what_is_no_longer_needed_is_removed(tmp_path: Path) -> None:
    with ActivationStore(tmp_path) as store:
        put(store, a=np.ones(3), b=np.ones(3))
        store.commit(1, {"b"})
        assert files(tmp_path) == 1
        assert not store.places("a")
        assert (store.holds({"b"}), store.holds({"a", "b"})) == (True, False)
        put(store, c=np.zeros(3))
        store.commit(2, {"b", "c"})
        assert files(tmp_path) == 2
        store.remove()
    assert not tmp_path.exists()


def test_a_store_opens_again_where_it_was(tmp_path: Path) -> None:
    first = ActivationStore(tmp_path, save_every=0, key="k")
    put(first, a=np.ones(3), b=np.arange(4))
    first.commit(1, {"a", "b"})
    put(first, c=np.zeros(2))  # and its process is killed
    (tmp_path / ".index.json.123.tmp.json").write_bytes(b"{")
    second = ActivationStore(tmp_path, save_every=0, key="k")
    assert second.done == 1
    np.testing.assert_array_equal(second.read("b", 0), np.arange(4))
    assert not second.places("c")
    assert len(list(tmp_path.iterdir())) == 3  # what was being written is gone


def test_what_the_index_names_stays_until_there_is_a_newer_one(tmp_path: Path) -> None:
    first = ActivationStore(tmp_path, save_every=0)
    put(first, a=np.ones(3))
    first.commit(1, {"a"})
    second = ActivationStore(tmp_path, save_every=1e9)
    put(second, b=np.zeros(3))
    second.commit(2, {"b"})
    assert (second.done, files(tmp_path)) == (2, 2)
    killed = ActivationStore(tmp_path, save_every=1e9)
    assert killed.done == 1
    np.testing.assert_array_equal(killed.read("a", 0), np.ones(3))
    assert not killed.places("b")


def test_a_store_that_is_closed_notes_where_it_is(tmp_path: Path) -> None:
    with ActivationStore(tmp_path, save_every=1e9) as store:
        put(store, a=np.ones(3))
        store.commit(1, {"a"})
        put(store, b=np.zeros(3))
        store.commit(2, {"b"})
        put(store, c=np.zeros(3))  # this segment is not finished
    again = ActivationStore(tmp_path, save_every=1e9)
    assert again.done == 2
    np.testing.assert_array_equal(again.read("b", 0), np.zeros(3))
    assert files(tmp_path) == 1


def test_another_key_starts_anew(tmp_path: Path) -> None:
    with ActivationStore(tmp_path, save_every=0, key="a") as store:
        put(store, a=np.ones(3))
        store.commit(1, {"a"})
    other = ActivationStore(tmp_path, save_every=0, key="b")
    assert other.done == 0
    assert not other.places("a")
    assert list(tmp_path.iterdir()) == []


def test_forgetting_starts_anew(tmp_path: Path) -> None:
    with ActivationStore(tmp_path, save_every=0) as store:
        put(store, a=np.ones(3))
        store.commit(1, {"a"})
        store.forget()
        assert store.done == 0
    assert list(tmp_path.iterdir()) == []
    assert ActivationStore(tmp_path, save_every=0).done == 0


def test_a_store_without_index_forgets_what_was_there(tmp_path: Path) -> None:
    with ActivationStore(tmp_path) as store:
        put(store, a=np.ones(3))
        store.commit(1, {"a"})
    assert ActivationStore(tmp_path).done == 0
    assert files(tmp_path) == 0


def test_a_failing_block_stores_nothing(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, save_every=0)
    with pytest.raises(ZeroDivisionError), store.writing(["a"]) as append:
        append(1 // 0, [np.ones(3)])
    assert not store.places("a")
    store.commit(0, set())
    assert files(tmp_path) == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        ActivationStore(tmp_path / "file" / "folder")


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    with pytest.raises(OutputError, match="cannot write"), store.writing(["a"]):
        pass
