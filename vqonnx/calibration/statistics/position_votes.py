"""How many samples each power-of-two scale suits best."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.statistics.base import Array, Statistic, register
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels.bins import Range
from vqonnx.kernels.constants import histogram_of
from vqonnx.kernels.histogram import min_max
from vqonnx.kernels.positions import best_position, range_at, zero_points
from vqonnx.kernels.ranges import RangeOptions

_POSITIONS = 256
_MIDDLE = _POSITIONS // 2


@register
@dataclass(frozen=True, slots=True, eq=False)
class PositionVotes(Statistic):
    """Each sample's position of least squared error is a vote; merging is exact, associative and commutative.

    A sample of nothing but zeros has no vote.

    Attributes:
        votes: int64 [256]; entry ``128 + p`` counts the samples for the scale 2^-p.
        low: Smallest finite element; inf when there is none.
        high: Largest finite element; -inf when there is none.
        bits: Width of the integer type that the votes are for.
        signed: Its sign.
        symmetric: Whether its range is centred on zero.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "position-votes"
    methods: ClassVar[tuple[RangeMethod, ...]] = (RangeMethod.MOST_COMMON,)

    votes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_POSITIONS, np.int64))
    low: float = math.inf
    high: float = -math.inf
    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    dropped: int = 0

    @classmethod
    def of_spec(cls, spec: QuantSpec) -> Self:
        """The empty statistic for a type and symmetry."""
        return cls(bits=spec.qtype.bits, signed=spec.qtype.signed, symmetric=spec.symmetric)

    @property
    def spec(self) -> QuantSpec:
        """What the votes are for."""
        qtype = QTYPES[f"{'int' if self.signed else 'uint'}{self.bits}"]
        return QuantSpec(qtype=qtype, symmetric=self.symmetric, grid=ScaleGrid.POWER_OF_TWO)

    def of(self, x: Array) -> Self:
        """The vote of ``x``, the tensor of one sample: two passes for its histogram, which is not kept."""
        low, high, lost = min_max(x)
        found = best_position(histogram_of(x), self.spec) if low <= high else None
        votes = np.zeros(_POSITIONS, np.int64)
        if found is not None:
            votes[found[0] + _MIDDLE] = 1
        return self._with(votes, low, high, lost)

    def merge(self, other: Self) -> Self:
        """The sum of the votes."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        return self._with(self.votes + other.votes, low, high, self.dropped + other.dropped)

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The range of all codes at the position of most votes; of equals the coarser, and the middle zero point.

        Raises:
            OptionError: The votes are for another type or symmetry, or ``method`` needs another statistic.
        """
        if method not in self.methods:
            raise self.no_range(method)
        if (spec.qtype.bits, spec.qtype.signed, spec.symmetric) != (self.bits, self.signed, self.symmetric):
            raise OptionError(
                f"the votes for positions are for {self.spec.qtype.name}, symmetric={self.symmetric}, not for "
                f"{spec.qtype.name}, symmetric={spec.symmetric}; observe with PositionVotes.of_spec(spec)",
                option="method",
            )
        if not self.votes.any():
            return 0.0, 0.0
        position = int(self.votes.argmax()) - _MIDDLE
        return range_at(spec, position, int(zero_points((self.low, self.high), spec, position)[0]))

    def _with(self, votes: npt.NDArray[np.int64], low: float, high: float, dropped: int) -> Self:
        return type(self)(votes, low, high, self.bits, self.signed, self.symmetric, dropped)
