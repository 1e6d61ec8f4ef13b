"""What became of each packed weight."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFigures:
    """One packed weight.

    Attributes:
        weight: Its key in the plan.
        nodes: The nodes that read it.
        form: What it became: "matmul_nbits", "qdq" …
        bits: Bits of a code.
        block_size: Weights that share a scale; -1 for a whole output channel.
        symmetric: Whether the zero point is the middle of the codes.
        asked: The algorithm that was asked for.
        algorithm: The one whose result was kept.
        data: Whether the errors are those of the layer's output on held-back samples; of the weight itself otherwise.
        sqnr_db: Signal to quantization noise of that output or weight, in dB; None for a code book.
        rtn_db: The same for round to nearest.
        node_db: What the written nodes compute on random rows, against the float product with the packed weight's
            numbers, in dB: 40 and more with 8-bit inputs, 90 and more without. None where it was not run.
        note: What the solver had to do differently; empty otherwise.
    """

    weight: str
    nodes: tuple[str, ...]
    form: str
    bits: int
    block_size: int
    symmetric: bool
    asked: str
    algorithm: str
    data: bool = False
    sqnr_db: float | None = None
    rtn_db: float | None = None
    node_db: float | None = None
    note: str = ""


def decibels_of(relative_error: float) -> float:
    """SQNR in dB of a squared error relative to the squared signal."""
    return -10 * math.log10(relative_error) if relative_error > 0 else math.inf


def kept_algorithms(weights: Iterable[WeightFigures]) -> Counter[str]:
    """How many weights each algorithm solved in the end."""
    return Counter(figures.algorithm for figures in weights)
