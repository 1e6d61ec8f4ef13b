"""Constant weights as rows, one an output channel, whatever the layout in which their node reads them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.graph.weight_source import WeightSource
from vqonnx.planning.weights.layers import Layer

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class RowWeight:
    """A constant weight as a matrix [C, L] whose rows are output channels.

    Attributes:
        source: The constant.
        channels: C.
        length: L.
        rows: Reads it; a view of the file wherever that needs no arithmetic.
        laid: From numbers [C, L] to the constant that the float node reads in its place.
    """

    source: WeightSource
    channels: int
    length: int
    rows: Callable[[], FloatArray]
    laid: Callable[[FloatArray], Array]

    @property
    def root(self) -> ir.Value:
        """The constant that it is made from."""
        return self.source.root

    @classmethod
    def of_layer(cls, layer: Layer) -> "RowWeight":
        """The columns of W [K, N], which are the rows of a table."""
        return cls(
            layer.weight,
            layer.out_features,
            layer.in_features,
            rows=lambda: layer.read().T,
            laid=lambda numbers: layer.in_layout(numbers.T),
        )

    @classmethod
    def of_leading_axes(cls, source: WeightSource, axes: int) -> "RowWeight":
        """A channel for each index of the first ``axes`` axes: 1 for a Conv [O, I, ..], 2 for gates [D, G, I]."""
        channels, length = math.prod(source.shape[:axes]), math.prod(source.shape[axes:])
        return cls(
            source,
            channels,
            length,
            rows=lambda: source.read().reshape(channels, length),
            laid=lambda numbers: numbers.reshape(source.shape),
        )

    @classmethod
    def of_batch(cls, source: WeightSource) -> "RowWeight":
        """A channel for each column of each matrix of a batch [.., L, C]."""
        *batch, length, columns = source.shape
        return cls(
            source,
            math.prod(batch) * columns,
            length,
            rows=lambda: source.read().swapaxes(-1, -2).reshape(-1, length),
            laid=lambda numbers: numbers.reshape(*batch, columns, length).swapaxes(-1, -2),
        )

    @classmethod
    def of_columns(cls, source: WeightSource) -> "RowWeight":
        """A channel for each column of a matrix [L, C]."""
        length, channels = source.shape
        return cls(source, channels, length, rows=lambda: source.read().T, laid=lambda numbers: numbers.T)
