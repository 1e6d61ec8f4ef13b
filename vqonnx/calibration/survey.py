"""One compiled pass over all tensors of a sample, added up over the samples that a worker takes at a time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.feeds import Array
from vqonnx.kernels.histogram import MIN_EXPONENT, Counts, bin_exponent, bin_range, flat_float32, survey, widen


@dataclass(frozen=True, slots=True)
class Span:
    """What is asked of a tensor.

    Attributes:
        bins: Most bins that its elements and zero may span; 0 when only the ends are asked for.
        low: Smallest element of earlier samples; inf when there is none.
        high: Largest one; -inf when there is none.
        exponent: Binary logarithm of the width that bins had for them; later ones are as wide, or wider.
    """

    bins: int = 0
    low: float = math.inf
    high: float = -math.inf
    exponent: int = MIN_EXPONENT


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What one tensor holds in some samples, whatever the order of the elements within a sample.

    Attributes:
        lows: Each sample's smallest finite element; inf when it has none.
        highs: Each sample's largest one; -inf when it has none.
        sizes: Each sample's elements.
        lost: How many of them are NaN or infinite.
        counts: int64 [n], finite elements in bins as in ``Histogram``, of all samples; [0] when not asked for.
        offset: Number of the first bin.
        exponent: Binary logarithm of the width of a bin.
    """

    lows: Sequence[float]
    highs: Sequence[float]
    sizes: Sequence[int]
    lost: Sequence[int]
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    offset: int = 0
    exponent: int = MIN_EXPONENT

    @property
    def low(self) -> float:
        """Smallest finite element of all samples."""
        return min(self.lows, default=math.inf)

    @property
    def high(self) -> float:
        """Largest finite element of all samples."""
        return max(self.highs, default=-math.inf)


class Surveyor:
    """Makes the surveys of several tensors, sample by sample; one thread's.

    The row of a tensor has all the bins it may have, the spare ones on the side of its elements. So it need not grow
    before the bins have to be wider.
    """

    def __init__(self, spans: Mapping[str, Span]) -> None:
        number = len(spans)
        self._wanted = dict(spans)
        self._ends = [(span.low, span.high) for span in spans.values()]  # of earlier samples
        self._spans = np.tile([-math.inf, math.inf, 0.0], (number, 1))
        self._rows = np.array([(0, span.bins) for span in spans.values()], np.int64).reshape(-1, 2)
        self._exponents = [span.exponent for span in spans.values()]
        self._counts = np.zeros((number, max((span.bins for span in spans.values()), default=0)), np.int64)
        self._found: list[npt.NDArray[np.float64]] = []
        self._sizes: list[npt.NDArray[np.uint64]] = []
        for k, span in enumerate(spans.values()):
            if span.bins and span.low <= span.high:
                self._place(k, span.low, span.high)
            elif span.bins:
                self._spans[k] = math.inf, -math.inf, 0.0

    def add(self, tensors: Mapping[str, Array]) -> None:
        """Add a sample's tensors."""
        flat = [flat_float32(tensors[name]) for name in self._wanted]
        found = np.empty((len(flat), 3))
        # ``flat`` keeps what the addresses point to.
        table = np.array([(x.ctypes.data, x.size) for x in flat], np.uint64).reshape(-1, 2)
        k = 0
        while (k := survey(table, k, found, self._spans, self._rows, self._counts)) < len(flat):
            self._grow(k, found[k, 0].item(), found[k, 1].item())
        self._found.append(found)
        self._sizes.append(table[:, 1])

    def surveys(self) -> dict[str, Survey]:
        """What was found so far, by tensor."""
        samples, tensors = len(self._found), len(self._wanted)
        found = np.array(self._found).reshape(samples, tensors, 3)
        lows, highs, lost = found.transpose(2, 1, 0).tolist()
        sizes = np.array(self._sizes, np.int64).reshape(samples, tensors).T.tolist()
        return {
            name: Survey(lows[k], highs[k], sizes[k], [int(n) for n in lost[k]], *self._held(k))
            for k, name in enumerate(self._wanted)
        }

    def _held(self, k: int) -> tuple[Counts, int, int]:
        """The counts of tensor ``k`` without empty bins at either end, the number of the first, and the exponent."""
        offset, width = self._rows[k].tolist()
        held = np.flatnonzero(self._counts[k, :width])
        first, stop = (held[0].item(), held[-1].item() + 1) if held.size else (0, 0)
        return self._counts[k, first:stop], offset + first, self._exponents[k]

    def _grow(self, k: int, low: float, high: float) -> None:
        """Let the row of tensor ``k`` hold elements from ``low`` to ``high`` too; its bins get wider."""
        counts, offset, before = self._held(k)
        low = min(low, self._ends[k][0], *(found[k, 0].item() for found in self._found))
        high = max(high, self._ends[k][1], *(found[k, 1].item() for found in self._found))
        exponent = bin_exponent(min(low, 0.0), max(high, 0.0), int(self._rows[k, 1]))
        counts, offset = widen(counts.copy(), offset, exponent - before)
        self._exponents[k] = exponent
        self._place(k, low, high)
        self._counts[k] = 0
        start = offset - int(self._rows[k, 0])
        self._counts[k, start : start + counts.size] = counts

    def _place(self, k: int, low: float, high: float) -> None:
        """Place the row of tensor ``k`` so that all bins between ``low``, ``high`` and zero are in it."""
        exponent, bins = self._exponents[k], int(self._rows[k, 1])
        first, last = bin_range(min(low, 0.0), max(high, 0.0), exponent)
        spare = bins - (last - first + 1)
        first -= 0 if low >= 0 else spare if high <= 0 else spare // 2
        end = math.ldexp(first + bins, exponent)
        self._spans[k] = math.ldexp(first, exponent), math.nextafter(end, -math.inf), math.ldexp(1.0, -exponent)
        self._rows[k, 0] = first
