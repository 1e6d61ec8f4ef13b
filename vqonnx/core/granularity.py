"""Which elements of a tensor share one scale.

Every granularity answers one question, the shape of a block of elements that share a scale, so that
one kernel serves them all (the idea of torchao's and coremltools' quantization primitives).
"""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the tensor: shape [A, B] has blocks [A, B] and a scale of shape []."""

    def block_shape(self, shape: Shape) -> Shape:
        """The whole shape."""
        return shape


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale for each index of ``axis``: shape [A, B], axis 0, has blocks [1, B] and a scale of shape [A]."""

    axis: int

    def block_shape(self, shape: Shape) -> Shape:
        """The shape with 1 at ``axis``."""
        axis = self.axis % len(shape)
        return tuple(1 if i == axis else n for i, n in enumerate(shape))


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for ``size`` neighbours along ``axis``: shape [A, B], axis 1, size 32: blocks [1, 32], scale [A, B/32]."""

    axis: int
    size: int

    def block_shape(self, shape: Shape) -> Shape:
        """1 everywhere but ``size`` at ``axis``; the last block of an axis may be shorter."""
        axis = self.axis % len(shape)
        return tuple(min(self.size, n) if i == axis else 1 for i, n in enumerate(shape))


Granularity = PerTensor | PerAxis | PerBlock
