"""Ranges from smallest and largest elements."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.readers import Reader
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.channel_ends import ChannelEnds
from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.compat.calibrate.base import CalibraterBase
from vqonnx.compat.calibrate.data import TensorData, TensorsData
from vqonnx.errors import OptionError, SampleError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.quantizers.types import CalibrationMethod

_Ends = tuple[np.ndarray, np.ndarray]
_AXES_AS_INPUT = 18
_CHANNEL_AXIS = 1


class MinMaxCalibrater(CalibraterBase):
    """The smallest and the largest element, as arrays [1] or, per channel, [C], in the tensor's type.

    Attributes:
        moving_average: Whether the ends of the samples of a chunk are averaged, and those of the chunks in turn as
            ``old + averaging_constant * (new - old)``.
        averaging_constant: In [0, 1].
        max_intermediate_outputs: Samples of a chunk; all of one ``collect_data`` by default. Only a moving average
            depends on it: memory does not.
    """

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        symmetric: bool = False,
        use_external_data_format: bool = False,
        moving_average: bool = False,
        averaging_constant: float = 0.01,
        max_intermediate_outputs: int | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__(
            model_path,
            op_types_to_calibrate=op_types_to_calibrate,
            augmented_model_path=augmented_model_path,
            symmetric=symmetric,
            use_external_data_format=use_external_data_format,
            per_channel=per_channel,
        )
        if moving_average and not 0 <= averaging_constant <= 1:
            raise OptionError(
                f"averaging_constant is a share and must lie in [0, 1], got {averaging_constant}",
                option="averaging_constant",
            )
        if max_intermediate_outputs is not None and max_intermediate_outputs < 1:
            raise OptionError(
                f"max_intermediate_outputs counts samples and must be at least 1, got {max_intermediate_outputs}",
                option="max_intermediate_outputs",
            )
        self.moving_average = moving_average
        self.averaging_constant = averaging_constant
        self.max_intermediate_outputs = max_intermediate_outputs
        self._ends: dict[str, _Ends] = {}

    def collect_data(self, data_reader: Reader) -> None:
        """See ``CalibraterBase``."""
        empty: Statistic = MinMax()
        if self.moving_average or self.per_channel:
            empty = ChannelEnds(axis=_CHANNEL_AXIS if self.per_channel else -1, mean=self.moving_average)
        chunk = self.max_intermediate_outputs if self.moving_average else None
        for found in self._observed(data_reader, empty, chunk):
            for name, statistic in found.items():
                ends = self._centred(_ends_of(statistic))
                self._ends[name] = self._merged(self._ends[name], ends) if name in self._ends else ends

    def compute_data(self) -> TensorsData:
        """The ranges of all samples so far; (0, 0) for a tensor that was empty in every one.

        Raises:
            SampleError: Nothing was collected.
        """
        if not self._ends:
            raise SampleError("no data is collected; call collect_data first")
        dtypes = self._dtypes()
        ranges = {name: _stored(ends, dtypes[name]) for name, ends in self._ends.items()}
        return TensorsData(CalibrationMethod.MinMax, ranges)

    def _centred(self, ends: _Ends) -> _Ends:
        if not self.symmetric:
            return ends
        low, high = ends
        limit = np.maximum(high, -low)
        return -limit, limit

    def _merged(self, old: _Ends, new: _Ends) -> _Ends:
        if old[0].size != new[0].size:
            raise SampleError(
                f"a tensor has {old[0].size} channels in one call and {new[0].size} in another; a range of each "
                "channel needs the same number in every sample"
            )
        if not self.moving_average:
            return np.minimum(old[0], new[0]), np.maximum(old[1], new[1])
        low, high = (_moved(a, b, self.averaging_constant) for a, b in zip(old, new, strict=True))
        return low, high

    def _augment(self, model: ir.Model, tensors: Sequence[ir.Value]) -> None:
        names = NameAllocator.of(model)
        flat = add_initializer(model.graph, names.unique("reduced_shape"), np.array([-1]))
        for value in tensors:
            for reduce in ("ReduceMin", "ReduceMax"):
                added = _reduction(model, names, value, reduce, flat, per_channel=self.per_channel)
                model.graph.extend(added)
                result = added[-1].outputs[0]
                result.type, result.shape = value.type, ir.Shape([None])
                model.graph.outputs.append(result)


def _reduction(
    model: ir.Model, names: NameAllocator, value: ir.Value, reduce: str, flat: ir.Value, *, per_channel: bool
) -> list[ir.Node]:
    """Nodes for one end of ``value``, called and put out as onnxruntime does."""
    name = f"{value.name}_{reduce}"
    inputs: list[ir.Value | None] = [value]
    attributes: dict[str, int | list[int]] = {"keepdims": 1}
    if per_channel and value.shape is not None and len(value.shape) > _CHANNEL_AXIS:
        axes = [axis for axis in range(len(value.shape)) if axis != _CHANNEL_AXIS]
        if model.opset_imports.get("", 0) < _AXES_AS_INPUT:
            attributes["axes"] = axes
        else:
            inputs.append(add_initializer(model.graph, names.unique(f"{name}_axes"), np.array(axes)))
    between, result = ir.Value(name=names.unique(f"{name}_Reshape")), ir.Value(name=names.unique(name))
    reduced = ir.node(reduce, inputs, attributes, outputs=[between], name=result.name)
    reshaped = ir.node("Reshape", [between, flat], outputs=[result], name=between.name)
    return [reduced, reshaped]


def _ends_of(statistic: Statistic) -> _Ends:
    if isinstance(statistic, ChannelEnds):
        return statistic.ends if statistic.lows.size else (np.full(1, np.inf), np.full(1, -np.inf))
    assert isinstance(statistic, MinMax)
    return np.array([statistic.low]), np.array([statistic.high])


def _moved(old: np.ndarray, new: np.ndarray, rate: float) -> np.ndarray:
    """The average after one more chunk; a channel without elements in one of them is as in the other."""
    known = np.isfinite(old) & np.isfinite(new)
    moved = old + rate * np.subtract(new, old, out=np.zeros_like(old), where=known)
    return np.where(known, moved, np.where(np.isfinite(old), old, new))


def _stored(ends: _Ends, dtype: np.dtype[np.generic]) -> TensorData:
    seen = np.isfinite(ends[0])
    low, high = (np.where(seen, end, 0.0).astype(dtype) for end in ends)
    return TensorData(lowest=low, highest=high)
