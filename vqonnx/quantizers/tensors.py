"""The quantized tensors that a quantizer has made so far, by the names that its methods return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class QuantizedValue:
    """Where the quantized form of a float tensor is found.

    Attributes:
        original_name: The float tensor (or the key of one of its forms, where a plan gives it several).
        q_name: Its codes.
        scale_name: Their scale.
        zp_name: Their zero point.
        axis: Channel axis of the scale; None per tensor.
    """

    original_name: str
    q_name: str
    scale_name: str
    zp_name: str
    axis: int | None = None


class QuantizedTensors:
    """Codes, scales and zero points under their names, and which float tensor they are of.

    Attributes:
        initializers: Codes, scales and zero points, by the names that the methods return.
        quantized_value_map: The quantized form of each float tensor that has one.
        used_scale_zp_map: (scale name, zero point name) of each of them.
        parent: The quantized tensors of the graph around this one, for bodies of If and Loop.
    """

    def __init__(self) -> None:
        self.initializers: dict[str, Array] = {}
        self.quantized_value_map: dict[str, QuantizedValue] = {}
        self.used_scale_zp_map: dict[str, tuple[str, str]] = {}
        self.parent: QuantizedTensors | None = None
        self._by_codes: dict[str, QuantizedValue] = {}

    def find_quantized_value(self, input_name: str) -> QuantizedValue | None:
        """The quantized form of a tensor: this graph's, else the same method's answer of the graph around it."""
        if input_name in self.quantized_value_map:
            return self.quantized_value_map[input_name]
        return self.parent.find_quantized_value(input_name) if self.parent is not None else None

    def find_quant_scale_zp(self, input_name: str) -> tuple[str, str] | tuple[None, None]:
        """(scale name, zero point name) of a tensor: this graph's, else the surrounding graph's, else Nones."""
        if input_name in self.used_scale_zp_map:
            return self.used_scale_zp_map[input_name]
        return self.parent.find_quant_scale_zp(input_name) if self.parent is not None else (None, None)

    def store(self, name: str, quantized: QuantizedTensor) -> QuantizedValue:
        """Keep codes, scale and zero point of a tensor under their names; overrides return these names."""
        q_name = f"{name}_quantized"
        self.initializers[q_name] = quantized.codes
        return self.store_params(name, quantized.params)

    def quantized_tensor(self, q_name: str, spec: QuantSpec) -> QuantizedTensor:
        """Codes, scale and zero point behind the name of some codes, of this graph or the one around it.

        Raises:
            OptionError: No codes have that name.
        """
        value = self._by_codes.get(q_name)
        if value is None and self.parent is not None:
            return self.parent.quantized_tensor(q_name, spec)
        if value is None:
            raise OptionError(f"no codes are called {q_name!r}; keep them with store(), which returns their names.")
        scale = self.initializers[value.scale_name].astype(self.scale_dtype(value.original_name))
        params = QuantParams(scale, self.initializers[value.zp_name], spec)
        return QuantizedTensor(self.initializers[q_name], params)

    def store_params(self, name: str, params: QuantParams) -> QuantizedValue:
        """Keep the scale and zero point of a tensor."""
        axis = params.spec.granularity.axis if isinstance(params.spec.granularity, PerAxis) else None
        value = QuantizedValue(name, f"{name}_quantized", f"{name}_scale", f"{name}_zero_point", axis)
        self.initializers[value.scale_name] = params.scale
        self.initializers[value.zp_name] = params.zero_point
        self.quantized_value_map[name] = value
        self.used_scale_zp_map[name] = (value.scale_name, value.zp_name)
        self._by_codes[value.q_name] = value
        return value

    def scale_dtype(self, name: str) -> np.dtype[np.generic]:
        """Type of a tensor's scale: float32, unless a subclass knows better."""
        del name
        return np.dtype(np.float32)
