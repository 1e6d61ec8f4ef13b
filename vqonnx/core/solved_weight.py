"""One packed weight, and what is known of its quality. Data only; ``stages/weights/solve.py`` makes it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import PackedWeight


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolvedWeight:
    """What became of one weight W [K, N].

    Errors are squared and relative: of the layer's output to the output where there are calibration data, else of the
    weight to the weight. For a weight that is looked up too, they are the mean of both.

    Attributes:
        key: Key of the weight's plan.
        packed: The packed weight; of ``diag(channel_scales) W`` where there are channel scales.
        asked: Name of the algorithm that was asked for.
        algorithm: Name of the one whose result was kept.
        data: Whether errors are those of the output.
        error: Error on held-back samples, or on those of calibration where none are held back.
        rtn_error: The same for round to nearest.
        calibration_error: Error on the calibration samples; None without data.
        seconds: What solving took; what layers on the same inputs share counts for the first of them.
        channel_scales: float32 t [K], by which the layer's inputs are to be divided, or None.
        note: What had to be done differently from what was asked; empty otherwise.
    """

    key: str
    packed: PackedWeight
    asked: str
    algorithm: str
    data: bool
    error: float
    rtn_error: float
    calibration_error: float | None = None
    seconds: float = 0.0
    channel_scales: npt.NDArray[np.float32] | None = None
    note: str = ""
