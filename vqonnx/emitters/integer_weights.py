"""Integer weights as initializers: codes that are computed when the model is written, scales and zero points."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.params import QuantParams
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.packed import computed_tensor
from vqonnx.kernels.row_codes import rounded, rounded_slabs, row_codes

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class RoundedRows:
    """A weight [C, L] whose scales are known; its codes are computed at each reading.

    Attributes:
        rows: Reads the float numbers.
        params: Scale and zero point, [C] or [].
        channels: C.
        length: L.
        table: Whether it is stored as rows whoever reads it.
    """

    rows: Callable[[], npt.NDArray[np.floating]]
    params: QuantParams
    channels: int
    length: int
    table: bool = False

    def codes(self) -> Array:
        """Codes [C, L]."""
        return row_codes(self.rows(), self.params)

    def numbers(self) -> npt.NDArray[np.float32]:
        """What the codes stand for, [C, L]."""
        return rounded(self.rows(), self.params)

    def product(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``rows`` [R, L] times the numbers that the codes stand for: [R, C], without holding those."""
        return np.concatenate([rows @ slab.T for _, slab in rounded_slabs(self.rows(), self.params)], axis=1)

    def looked_up(self, indices: Array) -> npt.NDArray[np.float32]:
        """Rows [R, L] of the numbers that the codes stand for."""
        params, own = self.params, self.rows()[indices]
        if params.scale.ndim:
            params = QuantParams(params.scale[indices], params.zero_point[indices], params.spec)
        return rounded(own, params)


class IntegerWeights:
    """Makes the initializers of weights in the main graph, each once a layout."""

    def __init__(self, model: ir.Model, names: NameAllocator, weights: Mapping[str, RoundedRows]) -> None:
        self._graph, self._names, self._weights = model.graph, names, weights
        self._made: dict[tuple[object, ...], ir.Value] = {}

    def __getitem__(self, key: str) -> RoundedRows:
        return self._weights[key]

    def codes(self, key: str, shape: tuple[int, ...], laid: Callable[[Array], Array] = lambda codes: codes) -> ir.Value:
        """Codes in a shape; ``laid`` turns [C, L] into it."""
        if ("codes", key, shape) not in self._made:
            weight = self._weights[key]
            dtype = ir.DataType.from_numpy(weight.params.zero_point.dtype)
            name = self._names.unique(f"{key}_quantized")
            tensor = computed_tensor(lambda: laid(weight.codes()), dtype, shape, name)
            self._made["codes", key, shape] = add_initializer(self._graph, name, tensor)
        return self._made["codes", key, shape]

    def shaped(self, key: str, shape: tuple[int, ...]) -> ir.Value:
        """Codes [C, L] in another shape of as many elements."""
        return self.codes(key, shape, lambda codes: codes.reshape(shape))

    def columns(self, key: str) -> ir.Value:
        """Codes [L, C], as products read them."""
        weight = self._weights[key]
        return self.codes(key, (weight.length, weight.channels), lambda codes: codes.T)

    def table(self, key: str) -> ir.Value:
        """Codes [C, L], as lookups read them."""
        weight = self._weights[key]
        return self.codes(key, (weight.channels, weight.length))

    def scale(self, key: str, shape: tuple[int, ...] | None = None) -> ir.Value:
        """Scales, float32: of the shape that they have, or repeated and in another one."""
        return self._constant(key, "scale", self._weights[key].params.scale.astype(np.float32), shape)

    def zero_point(self, key: str, shape: tuple[int, ...] | None = None) -> ir.Value:
        """Zero points in the type of the codes."""
        return self._constant(key, "zero_point", self._weights[key].params.zero_point, shape)

    def zero_or_none(self, key: str) -> ir.Value | None:
        """The zero points; None, which most operators take for zero, if all are."""
        return self.zero_point(key) if self._weights[key].params.zero_point.any() else None

    def one_zero_point(self, key: str) -> ir.Value:
        """The zero point that all channels share, [] ."""
        return self._constant(key, "shared_zero_point", self._weights[key].params.zero_point.reshape(-1)[0], ())

    def shape(self, key: str, shape: tuple[int, ...]) -> ir.Value:
        """A shape, as Reshape reads it."""
        return self._constant(key, "shape", np.asarray(shape, np.int64), (len(shape),))

    def _constant(self, key: str, role: str, array: Array, shape: tuple[int, ...] | None) -> ir.Value:
        wanted = array.shape if shape is None else shape
        if (role, key, wanted) not in self._made:
            size = int(np.prod(wanted))
            filled = np.ascontiguousarray(np.broadcast_to(np.reshape(array, -1), size)).reshape(wanted)
            name = self._names.unique(f"{key}_{role}")
            self._made[role, key, wanted] = add_initializer(self._graph, name, filled)
        return self._made[role, key, wanted]
