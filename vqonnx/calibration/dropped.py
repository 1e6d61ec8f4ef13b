"""The warning about elements that no range includes."""

import warnings
from collections.abc import Mapping

from vqonnx.calibration.statistics import Statistic

_NAMED = 3


def warn_of_dropped(found: Mapping[str, Statistic], stacklevel: int) -> None:
    """Name the tensors that held NaN or infinite elements, if any did.

    Args:
        found: Statistics by tensor.
        stacklevel: As of ``warnings.warn``, counted from the caller.
    """
    lost = {name: statistic.dropped for name, statistic in found.items() if statistic.dropped}
    if lost:
        first = ", ".join(f"{name} ({count})" for name, count in list(lost.items())[:_NAMED])
        warnings.warn(
            f"{len(lost)} tensors held NaN or infinite elements, which no range includes: {first}"
            f"{' …' * (len(lost) > _NAMED)}. Repair or drop the samples that make them.",
            RuntimeWarning,
            stacklevel=stacklevel + 1,
        )
