"""How a tensor is to be quantized, before anything is measured."""

from dataclasses import dataclass
from enum import Enum

from vqonnx.core.granularity import Granularity, PerTensor
from vqonnx.core.qtype import Kind, QType


class ScaleGrid(Enum):
    """The values that a scale may take."""

    FREE = "free"
    POWER_OF_TWO = "power of two"
    INT16 = "M * 2^-N"


class RangeMethod(Enum):
    """How the real range of an activation is chosen from what was observed (see ``kernels/ranges.py``)."""

    MIN_MAX = "minmax"
    MEAN = "mean"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"
    DISTRIBUTION = "distribution"
    PERCENTILE_MSE = "percentile-mse"
    LAYERWISE_PERCENTILE = "layerwise-percentile"
    MOST_COMMON = "most-common"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """Type, symmetry, granularity and scale grid of a quantized tensor; equal specs give equal results.

    Attributes:
        qtype: The element type.
        symmetric: Whether the range is centred on zero, so that the zero point is the middle of the type.
        granularity: Which elements share a scale.
        grid: The values that the scale may take.
        reduce_range: Use one bit less (int8 -64..64, uint8 0..127), for processors whose u8 x s8 dot
            product saturates in 16 bits (x86 without VNNI).
        wide: Fill types below 8 bits as onnxruntime.quantization does, and let numbers saturate where the type ends:
            symmetric int4 spreads [-a, a] over -8..7, so that steps are 2a/15, and a itself is half a step too small.
    """

    qtype: QType
    symmetric: bool = False
    granularity: Granularity = PerTensor()  # noqa: RUF009 - frozen and without state
    grid: ScaleGrid = ScaleGrid.FREE
    reduce_range: bool = False
    wide: bool = False

    @property
    def has_scale(self) -> bool:
        """Whether numbers are divided by a scale first; 16-bit floats and block formats take them as they are."""
        kind = self.qtype.kind
        return kind is Kind.INTEGER or (kind is Kind.FLOAT and self.qtype.bits == 8)

    @property
    def qmin(self) -> int:
        """Smallest code used; a symmetric signed type gives up its lowest (int8: -127), so that -x exists."""
        if self.reduce_range:
            return -(1 << (self.qtype.bits - 2)) if self.qtype.signed else 0
        return -self.qtype.qmax if self.symmetric and self.qtype.signed and not self._is_filled else self.qtype.qmin

    @property
    def qmax(self) -> int:
        """Largest code used."""
        if self.reduce_range:
            half = 1 << (self.qtype.bits - 2)
            return half - self._is_filled if self.qtype.signed else 2 * half - 1
        return self.qtype.qmax

    @property
    def saturation(self) -> tuple[int, int]:
        """The codes that numbers beyond the range get."""
        return (self.qtype.qmin, self.qtype.qmax) if self.wide else (self.qmin, self.qmax)

    @property
    def _is_filled(self) -> bool:
        """Whether a symmetric range is spread over all codes, of which one more lies below zero than above."""
        return self.wide and self.qtype.bits < 8
