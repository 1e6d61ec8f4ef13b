import ml_dtypes
import numpy as np
import pytest

from vqonnx.errors import OutputError
from vqonnx.stages.weights.files import DataFile, Place, checksum_of, room_for

ARRAYS = [
    np.arange(1000, dtype=np.uint8).reshape(10, 100),
    np.linspace(0, 1, 77, dtype=np.float16),
    np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T,
    np.empty((0, 4), np.float32),
]


def test_arrays_come_back_as_they_were(tmp_path):
    file = DataFile(tmp_path / "data", 1 << 16)
    places = [*file.append(ARRAYS), *file.append(ARRAYS)]
    file.seal()
    for reader in (file, DataFile(tmp_path / "data")):
        for place, array in zip(places, ARRAYS * 2, strict=True):
            found = reader.view(place)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_arrays_are_aligned_and_appends_share_no_page(tmp_path):
    file = DataFile(tmp_path / "data", 1 << 16)
    first, second = file.append(ARRAYS), file.append(ARRAYS)
    assert all(place.offset % 64 == 0 for place in first)
    assert second[0].offset % 4096 == 0
    assert file.room == (1 << 16) - 2 * room_for(ARRAYS)
    file.seal()
    assert file.room == 0


def test_a_file_knows_what_it_holds(tmp_path):
    DataFile(tmp_path / "data", 100).seal()
    file = DataFile(tmp_path / "data")
    assert file.holds(Place(92, "float32", (2,)))
    assert not file.holds(Place(96, "float32", (2,)))


def test_a_checksum_is_that_of_the_bytes():
    assert checksum_of(ARRAYS[:1]) == checksum_of([ARRAYS[0].reshape(-1)])
    assert checksum_of(ARRAYS) != checksum_of(ARRAYS[::-1])


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "data").write_bytes(b"mine")
    with pytest.raises(OutputError, match="File exists"):
        DataFile(tmp_path / "data", 100)
    assert (tmp_path / "data").read_bytes() == b"mine"
