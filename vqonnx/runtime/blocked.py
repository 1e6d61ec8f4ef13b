"""Sessions that put activations out in ONNX Runtime's own channel-blocked layout, without copying them back to NCHW.

ONNX Runtime runs float convolutions on NCHWc blocks: [N, C/c, H, W, c], c being 8 or 16. A tensor that is a graph
output is reordered to NCHW by a ReorderOutput node, a copy that only readers which care about the layout need.
"""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.errors import VerificationError
from vqonnx.graph.edit import remove_dead
from vqonnx.graph.io import load
from vqonnx.graph.proto import initialized_values
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[np.generic]

_DOMAIN = "com.microsoft.nchwc"
_MOST_BYTES = 1 << 28
"""Weights beyond this are not written to a temporary file just to save copies of activations."""

_LARGEST_BLOCK = 16
"""Channels come in blocks of 8 or 16 (MlasNchwcGetBlockSize); a last block that is not full is filled with zeros."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """A session whose outputs hold the elements of a model's outputs, some of them in another order.

    Attributes:
        session: The session.
        holders: For each of the model's outputs the name of the session's output that holds its elements.
        channels: Of each blocked output the channels that it must have.
    """

    session: "InferenceSession"
    holders: Mapping[str, str]
    channels: Mapping[str, int]

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """What holds each of the model's outputs.

        Raises:
            VerificationError: ONNX Runtime cannot run the feed, or fills up blocks that should be full.
        """
        names = list(dict.fromkeys(self.holders.values()))
        with runtime_errors("run the model"):
            found: dict[str, Array] = dict(zip(names, self.session.run(names, dict(feed)), strict=True))
        for name, channels in self.channels.items():
            if found[name].shape[1] != channels:
                raise VerificationError(
                    f"this ONNX Runtime stores {channels} channels of {name!r} as {found[name].shape[1]}; its blocks "
                    f"are larger than {_LARGEST_BLOCK} channels, which vqonnx does not know. Use another version"
                )
        return {name: found[holder] for name, holder in self.holders.items()}


def outputs_of(session: "InferenceSession") -> Outputs:
    """The outputs of a session over the model itself."""
    return Outputs(session, {output.name: output.name for output in session.get_outputs()}, {})


def open_blocked(model: ir.Model, free: Collection[str], *, threads: int | None = None) -> Outputs | None:
    """A session that runs the same kernels as ``open_session(model)`` on the CPU and puts out blocked activations.

    A blocked output holds the elements of the model's output, all of them and no others. None when nothing can be
    gained: the model is large or has no convolution, or ONNX Runtime runs it in another layout.

    Args:
        model: A model in memory; it is not changed.
        free: The outputs whose elements may come in any order and shape.
        threads: As for ``open_session``.
    """
    if not _may_be_blocked(model):
        return None
    with tempfile.TemporaryDirectory(prefix="vqonnx-") as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, threads=threads, optimized_path=path, options={"session.disable_prepacking": "1"})
        optimized = load(path)
        given = {value.name or "": value for value in optimized.graph.outputs}
        blocked = {name: found for name, value in given.items() if name in free and (found := _source(value))}
        if not blocked:
            return None
        held = {name: blocked[name][0] if name in blocked else value for name, value in given.items()}
        optimized.graph.outputs[:] = list(dict.fromkeys(held.values()))
        remove_dead(optimized)
        session = open_session(optimized, threads=threads, optimize=False)
    channels = {value.name or "": count for value, count in blocked.values()}
    return Outputs(session, {name: value.name or "" for name, value in held.items()}, channels)


def _may_be_blocked(model: ir.Model) -> bool:
    if not any(node.op_type == "Conv" for node in model.graph):
        return False
    return sum(tensor.nbytes for _, tensor in initialized_values(model)) < _MOST_BYTES


def _source(output: ir.Value) -> tuple[ir.Value, int] | None:
    """The blocked value that ``output`` copies, and its channels; None if there is none or a block is not full."""
    node = output.producer()
    if node is None or (node.domain, node.op_type) != (_DOMAIN, "ReorderOutput"):
        return None
    channels, source = node.attributes["channels"].as_int(), node.inputs[0]
    return None if source is None or channels % _LARGEST_BLOCK else (source, channels)
