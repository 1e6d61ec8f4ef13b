"""How far a result is from its reference: SQNR, cosine, largest and mean error, as mergeable sums in float64."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

# Elements that are widened to float64 at a time: the sums of a 1 GiB tensor of logits need 40 MiB, not 10 GiB.
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Sums over pairs (reference r, actual a) from which every figure follows; no tensor is kept.

    ``ErrorSums()`` is the neutral element of ``merge``. Magnitudes up to 1e150 do not overflow.

    Attributes:
        count: Pairs in the sums: those whose two numbers are finite.
        signal: Sum of r^2.
        noise: Sum of (r - a)^2.
        power: Sum of a^2.
        dot: Sum of r * a.
        drift: Sum of a - r.
        worst: Largest abs(r - a).
        broken: Pairs where r is finite and a is NaN or infinite; one such pair spoils the result.
    """

    count: int = 0
    signal: float = 0.0
    noise: float = 0.0
    power: float = 0.0
    dot: float = 0.0
    drift: float = 0.0
    worst: float = 0.0
    broken: int = 0

    @staticmethod
    def of(reference: Array, actual: Array) -> "ErrorSums":
        """The sums of two tensors of one shape, of any real type.

        Pairs whose reference is NaN or infinite (masks of minus infinity) say nothing and are left out.

        Raises:
            ValueError: The shapes differ.
        """
        if reference.shape != actual.shape:
            raise ValueError(f"shapes differ: reference {reference.shape}, actual {actual.shape}")
        flat_reference, flat_actual = reference.reshape(-1), actual.reshape(-1)
        sums = ErrorSums()
        for start in range(0, flat_reference.size, _CHUNK):
            piece = slice(start, start + _CHUNK)
            sums = sums.merge(_sums_of_chunk(flat_reference[piece], flat_actual[piece]))
        return sums

    def merge(self, other: "ErrorSums") -> "ErrorSums":
        """The sums of both sets of pairs."""
        return ErrorSums(
            self.count + other.count,
            self.signal + other.signal,
            self.noise + other.noise,
            self.power + other.power,
            self.dot + other.dot,
            self.drift + other.drift,
            max(self.worst, other.worst),
            self.broken + other.broken,
        )

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, 10 log10(sum r^2 / sum (r - a)^2), in dB.

        Inf where nothing differs (or nothing was compared); -inf where a finite number became NaN or infinite,
        or where a signal of nothing but zeros got noise.
        """
        if self.broken:
            return -math.inf
        if self.noise == 0:
            return math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise)) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between r and a, -1 to 1; 1 where both are zero, 0 where only one is."""
        if not self.signal or not self.power:
            return float(self.signal == self.power)
        return max(-1.0, min(1.0, self.dot / (math.sqrt(self.signal) * math.sqrt(self.power))))

    @property
    def mean_error(self) -> float:
        """Mean of a - r, in the tensor's unit: what bias correction removes."""
        return self.drift / self.count if self.count else 0.0

    @property
    def max_abs_error(self) -> float:
        """Largest abs(r - a), in the tensor's unit; inf where a finite number became NaN or infinite."""
        return math.inf if self.broken else self.worst


def sqnr_db(reference: Array, actual: Array) -> float:
    """Signal to quantization noise of two tensors of one shape, in dB; see ``ErrorSums.sqnr_db``."""
    return ErrorSums.of(reference, actual).sqnr_db


def cosine(reference: Array, actual: Array) -> float:
    """Cosine similarity of two tensors of one shape, -1 to 1; see ``ErrorSums.cosine``."""
    return ErrorSums.of(reference, actual).cosine


def max_abs_error(reference: Array, actual: Array) -> float:
    """Largest absolute difference of two tensors of one shape; see ``ErrorSums.max_abs_error``."""
    return ErrorSums.of(reference, actual).max_abs_error


def _sums_of_chunk(reference: Array, actual: Array) -> ErrorSums:
    r, a = reference.astype(np.float64), actual.astype(np.float64)
    known = np.isfinite(r)
    good = known & np.isfinite(a)
    broken = int(known.sum() - good.sum())
    if not good.all():
        r, a = r[good], a[good]
    if not r.size:
        return ErrorSums(broken=broken)
    error = a - r
    return ErrorSums(
        r.size,
        float(r @ r),
        float(error @ error),
        float(a @ a),
        float(r @ a),
        float(error.sum()),
        float(np.abs(error).max()),
        broken,
    )
