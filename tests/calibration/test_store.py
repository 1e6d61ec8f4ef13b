import dataclasses

import numpy as np
import pytest

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.calibration.store import CacheKey, Partial, load_statistics, save_statistics
from vqonnx.errors import CacheError

KEY = CacheKey(model="m", wanted="w", samples="s")


@pytest.fixture
def partials(rng):
    x = rng.normal(size=100).astype(np.float32)
    return {"a/b": Partial(MinMax().of(x), 3), "c": Partial(Histogram().of(x), 5), "d": Partial(Histogram())}


def test_what_is_saved_comes_back_to_the_last_bit(tmp_path, partials):
    path = tmp_path / "cache"
    save_statistics(path, KEY, partials)
    save_statistics(path, KEY, partials)
    back = load_statistics(path, KEY)
    assert list(back) == list(partials)
    for name, part in partials.items():
        assert back[name].done == part.done
        assert type(back[name].statistic) is type(part.statistic)
        for (_, a), (_, b) in zip(back[name].statistic.arrays().items(), part.statistic.arrays().items(), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_no_file_is_no_error(tmp_path):
    assert load_statistics(tmp_path / "none", KEY) is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "x"}, "the model or its weights changed"),
        ({"wanted": "x"}, r"what is observed \(tensors, methods, options\) changed"),
        ({"samples": "x"}, "the calibration samples changed"),
        ({"model": "x", "samples": "x"}, "the model or its weights and the calibration samples changed"),
    ],
)
def test_a_cache_of_another_run_says_what_differs(tmp_path, partials, changes, text):
    path = tmp_path / "cache.npz"
    save_statistics(path, KEY, partials)
    with pytest.raises(CacheError, match=rf"cache.npz' was made for another run: {text}; delete it") as caught:
        load_statistics(path, dataclasses.replace(KEY, **changes))
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"{}" + b[2:], lambda b: b[:-9]]
)
def test_a_damaged_cache_is_refused(tmp_path, partials, damage):
    path = tmp_path / "cache"
    save_statistics(path, KEY, partials)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CacheError, match=r"is damaged or no cache \(.*\); delete it, or pass another path"):
        load_statistics(path, KEY)


def test_a_flipped_bit_is_noticed(tmp_path, partials):
    path = tmp_path / "cache"
    save_statistics(path, KEY, partials)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged"):
        load_statistics(path, KEY)


def test_another_format_is_refused(tmp_path, partials, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setattr("vqonnx.calibration.store._VERSION", 99)
    save_statistics(path, KEY, partials)
    monkeypatch.undo()
    with pytest.raises(CacheError, match="has format 99, this version writes 1; delete it"):
        load_statistics(path, KEY)
