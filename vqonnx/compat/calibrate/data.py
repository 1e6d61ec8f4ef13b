"""What calibration found of each tensor, by onnxruntime's names."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self

import numpy as np

from vqonnx.errors import OptionError
from vqonnx.quantizers.types import CalibrationMethod

_FIELDS = ("avg", "std", "lowest", "highest", "hist", "hist_edges", "bins")
_FLOATS = frozenset({"avg", "std", "lowest", "highest", "hist_edges"})


class TensorData:
    """What is known of one tensor; only the fields that were given exist.

    Attributes:
        lowest: Smallest value of the range, in the tensor's type: a scalar, [1], or [C], one a channel.
        highest: The largest one.
        avg: Mean of the elements.
        std: Standard deviation of the elements.
        hist: [n], elements in each bin.
        hist_edges: [n + 1], ends of the bins.
        bins: The same, as percentiles and entropy name it.
    """

    lowest: Any
    highest: Any
    avg: Any
    std: Any
    hist: Any
    hist_edges: Any
    bins: Any

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            if name not in _FIELDS:
                raise OptionError(f"{name!r} is no field of TensorData; these are: {', '.join(_FIELDS)}", option=name)
            dtype = getattr(value, "dtype", None)
            if name in _FLOATS and dtype not in (np.float16, np.float32):
                raise OptionError(
                    f"{name!r} must be a numpy array or scalar of float16 or float32, not a "
                    f"{type(value).__name__}{'' if dtype is None else f' of {dtype}'}; convert it with np.float32(...)",
                    option=name,
                )
            setattr(self, name, value)
        self._attrs = list(fields)

    @property
    def range_value(self) -> tuple[Any, Any]:
        """Both ends.

        Raises:
            AttributeError: They were not given.
        """
        return self.lowest, self.highest

    @property
    def avg_std(self) -> tuple[Any, Any]:
        """Mean and standard deviation.

        Raises:
            AttributeError: They were not given.
        """
        return self.avg, self.std

    def to_dict(self) -> dict[str, Any]:
        """The fields, and the class's name as ``CLS``."""
        return {name: getattr(self, name) for name in self._attrs} | {"CLS": type(self).__name__}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``, also after a round through JSON."""
        return cls(**{name: _field(name, value) for name, value in d.items() if name != "CLS"})


def _field(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("CLS") == "numpy.array":
        return np.array(value["data"], dtype=np.dtype(value["dtype"]))
    return np.array(value, np.float32) if name in _FLOATS and isinstance(value, int | float) else value


class TensorsData:
    """What is known of each tensor, by name: a mapping whose values can be replaced, not added.

    Attributes:
        calibration_method: How the ranges were chosen.
        data: By tensor name.
    """

    def __init__(self, calibration_method: Any, data: Mapping[str, TensorData | tuple[Any, ...]]) -> None:
        self.calibration_method = calibration_method
        self.data = {_name(name): _tensor_data(name, value, calibration_method) for name, value in data.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return True  # as an object without a length is, which the peer's is

    def __contains__(self, key: object) -> bool:
        return key in self.data

    def __getitem__(self, key: str) -> TensorData:
        return self.data[key]

    def __setitem__(self, key: str, value: TensorData) -> None:
        if key not in self.data:
            raise RuntimeError(f"{key!r} was not calibrated, and only what was can be replaced")
        self.data[key] = value

    def keys(self) -> KeysView[str]:
        """Tensor names."""
        return self.data.keys()

    def values(self) -> ValuesView[TensorData]:
        """What is known of each."""
        return self.data.values()

    def items(self) -> ItemsView[str, TensorData]:
        """Both."""
        return self.data.items()

    def to_dict(self) -> dict[str, Any]:
        """The data and the method, and the class's name as ``CLS``."""
        return {"CLS": type(self).__name__, "data": self.data, "calibration_method": self.calibration_method}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``, also after a round through JSON."""
        method = d["calibration_method"]
        if isinstance(method, Mapping) and method.get("CLS") == "CalibrationMethod":
            method = CalibrationMethod.of(str(method["value"]).rpartition(".")[2])
        return cls(method, {name: TensorData.from_dict(value) for name, value in d["data"].items()})


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"tensors are known by their names, which are strings, not {type(name).__name__}")
    return name


def _tensor_data(name: str, value: TensorData | tuple[Any, ...], method: object) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if not isinstance(value, tuple):
        raise TypeError(f"the value of {name!r} must be a TensorData or a tuple, not a {type(value).__name__}")
    if len(value) == 4:
        return TensorData(lowest=value[0], highest=value[1], hist=value[2], bins=value[3])
    if len(value) == 2 and getattr(method, "name", None) == "MinMax":
        return TensorData(lowest=value[0], highest=value[1])
    raise TypeError(
        f"the tuple of {name!r} has {len(value)} elements: (low, high) goes with CalibrationMethod.MinMax, "
        "(low, high, counts, edges) with any method"
    )
