"""How long a run of each of two sessions takes, measured so that neither has an advantage."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vqonnx.calibration.feeds import Feed
from vqonnx.report.figures import Latency

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MOST_ROUNDS = 200


def measure(
    reference: "InferenceSession",
    actual: "InferenceSession",
    feeds: Sequence[Feed],
    *,
    threads: int,
    seconds: float,
) -> Latency:
    """Median seconds of a run of each session.

    Runs alternate, and so does which session goes first, so that a busy moment of the machine, its frequency and
    its caches meet both. One run of each is a warm-up; then rounds follow until ``seconds`` are over, at least one.

    Args:
        reference: The float model.
        actual: The quantized one.
        feeds: At least one; taken in turns, the same for both sessions.
        threads: What the sessions were opened with, for the record.
        seconds: Time to spend, warm-up included.
    """
    start = time.perf_counter()
    for session in (reference, actual):
        _seconds(session, feeds[0])
    times: tuple[list[float], list[float]] = ([], [])
    rounds = 0
    while not rounds or (rounds < _MOST_ROUNDS and time.perf_counter() - start < seconds):
        feed = feeds[rounds % len(feeds)]
        order = ((0, reference), (1, actual)) if rounds % 2 == 0 else ((1, actual), (0, reference))
        for which, session in order:
            times[which].append(_seconds(session, feed))
        rounds += 1
    return Latency(
        float_seconds=statistics.median(times[0]),
        quantized_seconds=statistics.median(times[1]),
        threads=threads,
        runs=rounds,
    )


def after(float_seconds: float, actual: "InferenceSession", feeds: Sequence[Feed]) -> Latency | None:
    """The same where the float model was timed before, on all cores; None without feeds.

    Args:
        float_seconds: Median seconds of its run.
        actual: The quantized one, warm.
        feeds: Each is run once.
    """
    if not feeds:
        return None
    times = [_seconds(actual, feed) for feed in feeds]
    return Latency(float_seconds=float_seconds, quantized_seconds=statistics.median(times), threads=0, runs=len(times))


def _seconds(session: "InferenceSession", feed: Feed) -> float:
    inputs = dict(feed)
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start
