"""Sessions that put out values of Loop bodies: stacked while each trip gives one size, as sequences from then on.

Stacking takes time in line with the trips, sequences with their square, but only they take what changes.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from vqonnx.calibration.feeds import Array
from vqonnx.calibration.model import exposing, observable_values
from vqonnx.errors import VerificationError
from vqonnx.graph.lift import holders
from vqonnx.runtime.blocked import Outputs


class TripOutputs:
    """Outputs of a model that stacks values of trips; several threads may run it."""

    def __init__(self, stacked: Outputs, open_sequences: Callable[[], Outputs]) -> None:
        self._stacked, self._open = stacked, open_sequences
        self._sequences: Outputs | None = None
        self._mutex = threading.Lock()

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """What holds each of the model's outputs.

        Raises:
            VerificationError: ONNX Runtime cannot run the feed.
        """
        if self._sequences is None:
            try:
                return self._stacked.run(feed)
            except VerificationError:  # if it is not the trips' sizes, it comes again
                with self._mutex:
                    self._sequences = self._sequences or self._open()
        return self._sequences.run(feed)


def opened(
    model: ir.Model, names: Sequence[str], open_outputs: Callable[[ir.Model], Outputs], *, sizes: bool = False
) -> Outputs | TripOutputs:
    """What puts out the tensors ``names`` of a model, or just their element counts.

    Args:
        model: The model; it is not changed.
        names: Its tensors.
        open_outputs: Opens a session over a copy of it with these outputs.
        sizes: Whether element counts are wanted.
    """
    exposed = exposing(model, names, sizes=sizes, stacked=True)
    outputs = open_outputs(exposed)
    if not in_loops(model, names):
        return outputs
    return TripOutputs(outputs, lambda: open_outputs(exposing(model, names, sizes=sizes)))


def in_loops(model: ir.Model, names: Sequence[str]) -> bool:
    """Whether some of the values ``names`` are in bodies of Loops, of which one trip may differ from another."""
    loops = {body for body, holder in holders(model).items() if holder.op_type == "Loop"}
    values = observable_values(model, bodies=True) if loops else {}
    return any(values[name].graph in loops for name in names if name in values)
