"""From whatever a caller has, a list, a generator, a CalibrationDataReader or a folder, to ``Samples``."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from vqonnx.calibration.feeds import Array, Feed, ModelInput, checked
from vqonnx.calibration.folder import read_sample, sample_paths
from vqonnx.calibration.samples import Samples
from vqonnx.errors import SampleError


@runtime_checkable
class DataReader(Protocol):
    """What ``onnxruntime.quantization.CalibrationDataReader`` asks of its subclasses."""

    def get_next(self) -> Feed | None:
        """The next feed; None at the end."""


Reader = Iterable[Feed] | DataReader | Samples | str | PathLike[str]
"""What users pass: feeds in any form, or the path of a folder of samples (see ``folder.py``)."""

_Fit = Callable[[object, int], Feed]
"""A sample, checked against the model's inputs, from what the reader gave and its number."""


def open_samples(
    reader: Reader,
    inputs: Sequence[ModelInput],
    *,
    hold_back_every: int = 8,
    spool_dir: Path | None = None,
    finite: bool = True,
) -> Samples:
    """Every sample of ``reader``, checked once, to be read as often as needed.

    Lists and folders are read in place. Anything else is read once, feed by feed, and copied to a temporary folder in
    ``spool_dir`` (the system's by default), which closing the samples removes. Never more than one feed is in memory.
    NaN and infinity are refused where ``finite``.

    Raises:
        SampleError: There is no sample, or one does not fit ``inputs``; it names the sample and the input.
    """
    if isinstance(reader, Samples):
        return reader

    def fit(feed: object, sample: int) -> Feed:
        return checked(feed, inputs, sample, finite=finite)

    if isinstance(reader, str | PathLike):
        paths = sample_paths(Path(reader))
        return _indexed(lambda i: read_sample(paths[i], inputs, i), len(paths), fit, hold_back_every)
    if isinstance(reader, list | tuple):
        return _indexed(lambda i: reader[i], len(reader), fit, hold_back_every)
    return _spooled(_feeds(reader), fit, hold_back_every, spool_dir)


def _indexed(get: Callable[[int], object], count: int, fit: _Fit, hold_back_every: int) -> Samples:
    # Conversions happen again at each reading: keeping the converted arrays would double a list's memory.
    def read(index: int) -> Feed:
        return fit(get(index), index)

    for index in range(count):
        read(index)
    _refuse_empty(count)
    return Samples(read, count, hold_back_every=hold_back_every)


def _spooled(feeds: Iterator[object], fit: _Fit, hold_back_every: int, spool_dir: Path | None) -> Samples:
    folder = Path(tempfile.mkdtemp(prefix="vqonnx-samples-", dir=spool_dir))
    try:
        count = 0
        for count, feed in enumerate(feeds, start=1):
            _write(folder / str(count - 1), fit(feed, count - 1))
        _refuse_empty(count)
        return Samples(lambda i: _read(folder / str(i)), count, hold_back_every=hold_back_every, spool=folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _feeds(reader: object) -> Iterator[object]:
    if isinstance(reader, DataReader):
        return _until_none(reader)
    if isinstance(reader, Iterable) and not isinstance(reader, Mapping | np.ndarray):
        return iter(reader)
    raise SampleError(
        f"the calibration reader is a {type(reader).__name__}, which gives no feeds; pass a list or generator of dicts "
        "from input names to arrays, a CalibrationDataReader, or the path of a folder of .npz files"
    )


def _until_none(reader: DataReader) -> Iterator[object]:
    while (feed := reader.get_next()) is not None:
        yield feed


def _refuse_empty(count: int) -> None:
    if not count:
        raise SampleError(
            "the calibration reader gave no sample; a reader that was used before must be rewound or made anew"
        )


def _write(path: Path, feed: Feed) -> None:
    # One file a feed, arrays one after the other: numpy.savez would compute a checksum of every byte.
    with path.open("wb") as file:
        np.save(file, np.array(list(feed), dtype=np.str_))
        for array in feed.values():
            plain = array.astype(np.str_) if array.dtype.kind == "O" else array
            np.save(file, plain, allow_pickle=False)


def _read(path: Path) -> Feed:
    with path.open("rb") as file:
        names: list[str] = np.load(file).tolist()
        feed: dict[str, Array] = {}
        for name in names:
            array = np.load(file)
            feed[name] = array.astype(object) if array.dtype.kind == "U" else array
        return feed
