"""Equalize: scale the channels of residual streams so that one scale a tensor serves all of them.

A stream is a sum of many layers' outputs, whose channels differ most in range, and every later layer reads its
codes. The scaling is exact in float (see ``transforms.residual_streams``), which it would not be through an activation
with an upper bound.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.channel_range import ChannelRange
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.kernels.equalize import F64, channel_factors, column_shares
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.transforms.residual_streams import Stream, residual_streams, scale_stream, weight_of

MOST_SAMPLES = 16
"""A mean of single samples' ranges is steady after a few."""
_ALIKE = 1e-3
"""Factors this close to 1 change nothing that 8-bit codes could show."""


def equalize(model: ir.Model, feeds: Sequence[Feed], options: ObserveOptions | None = None) -> int:
    """Scale the channels of every residual stream of the main graph, in place; return how many streams changed.

    The model's outputs stay equal up to rounding, about 1e-6 of their size. Without streams no sample is run.

    Args:
        model: A prepared model.
        feeds: Calibration samples; ``MOST_SAMPLES`` of them, evenly spread, are run.
        options: How to run them; nothing is cached.

    Raises:
        SampleError: There are no samples, the model cannot run one, or NaN or infinity comes up.
    """
    streams = residual_streams(model.graph)
    if not streams:
        return 0
    told = options or ObserveOptions()
    options = replace(told, cache=None, progress=lambda _, done, total: told.progress("equalize", done, total))
    some = feeds[:: max(1, math.ceil(len(feeds) / MOST_SAMPLES))]
    wanted = {tensor.name or "": ChannelRange() for stream in streams for tensor in stream.tensors}
    ranges = observe(model, wanted, some, options).tensors
    names = NameAllocator.of(model)
    return sum(_equalize(stream, ranges, names) for stream in streams)


def _equalize(stream: Stream, ranges: Mapping[str, Statistic], names: NameAllocator) -> bool:
    """Scale one stream; False where all channels are alike already or a number would overflow."""
    factors = _factors(stream, ranges)
    alike = np.allclose(factors, 1, rtol=0, atol=_ALIKE)
    return not alike and scale_stream(stream, factors, names)


def _factors(stream: Stream, ranges: Mapping[str, Statistic]) -> F64:
    largest = np.zeros(stream.channels)
    for tensor in stream.tensors:
        found = ranges[tensor.name or ""]
        assert isinstance(found, ChannelRange)
        if found.rows:
            largest = np.maximum(largest, found.means)
    shares = np.zeros(stream.channels)
    for conv in stream.consumers:
        shares = np.maximum(shares, column_shares(weight_of(conv), int_attribute(conv, "group", 1)))
    return channel_factors(largest, shares, alpha=1.0 if stream.only_depthwise else 0.5)
