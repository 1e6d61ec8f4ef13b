"""Which elements of a tensor share one scale.

Every granularity answers the same questions, above all the shape of a block of elements that share a scale,
so that one kernel serves them all (the idea of torchao's and coremltools' quantization primitives).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the tensor: shape [A, B] has one block [A, B] and a scale of shape []."""

    def block_shape(self, shape: Shape) -> Shape:
        """The whole shape."""
        return shape

    def scale_shape(self, shape: Shape) -> Shape:
        """A scalar."""
        del shape
        return ()

    def expand(self, parameter: Array, shape: Shape) -> Array:
        """The parameter itself, which broadcasts."""
        del shape
        return parameter


@dataclass(frozen=True, slots=True)
class PerAxis:
    """One scale an index of ``axis``: shape [A, B], axis 0, has blocks [1, B] and a scale of shape [A]."""

    axis: int

    def block_shape(self, shape: Shape) -> Shape:
        """The shape with 1 at ``axis``."""
        axis = self.axis % len(shape)
        return tuple(1 if i == axis else n for i, n in enumerate(shape))

    def scale_shape(self, shape: Shape) -> Shape:
        """The length of ``axis``."""
        return (shape[self.axis],)

    def expand(self, parameter: Array, shape: Shape) -> Array:
        """[C] as [1, .., C, .., 1], which broadcasts."""
        axis = self.axis % len(shape)
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@dataclass(frozen=True, slots=True)
class PerBlock:
    """One scale for ``size`` neighbours on ``axis``: [A, B], axis 1, size 32 has a scale of shape [A, B/32]."""

    axis: int
    size: int

    def block_shape(self, shape: Shape) -> Shape:
        """1 everywhere but ``size`` at ``axis``; the last block of an axis may be shorter."""
        axis = self.axis % len(shape)
        return tuple(self.size if i == axis else 1 for i in range(len(shape)))

    def scale_shape(self, shape: Shape) -> Shape:
        """The shape with the number of blocks at ``axis``."""
        return tuple(-(-n // block) for n, block in zip(shape, self.block_shape(shape), strict=True))

    def expand(self, parameter: Array, shape: Shape) -> Array:
        """Each entry repeated over its block; the shape of the tensor."""
        repeated = np.repeat(parameter, self.size, axis=self.axis)
        return repeated[tuple(slice(n) for n in shape)]


Granularity = PerTensor | PerAxis | PerBlock
