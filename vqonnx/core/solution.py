"""What the solve stage found: every number of the quantized model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vqonnx.core.params import QuantizedTensor, QuantParams


@dataclass(frozen=True, slots=True, eq=False)
class Solutions:
    """Parameters of activations and codes of constants, by the key of the plan's tensor.

    Attributes:
        activations: Scale and zero point.
        constants: Codes with scale and zero point, of weights and biases.
    """

    activations: Mapping[str, QuantParams]
    constants: Mapping[str, QuantizedTensor]

    def params(self, key: str) -> QuantParams:
        """Scale and zero point of a planned tensor."""
        constant = self.constants.get(key)
        return self.activations[key] if constant is None else constant.params

    def sharing(self, other: "Solutions") -> "Solutions":
        """The same numbers, with the arrays of ``other`` where its codes are equal: both take the memory of one."""
        shared = {key: _shared(tensor, other.constants.get(key)) for key, tensor in self.constants.items()}
        return Solutions(self.activations, shared)


def _shared(tensor: QuantizedTensor, other: QuantizedTensor | None) -> QuantizedTensor:
    if other is None or tensor.codes.dtype != other.codes.dtype or not np.array_equal(tensor.codes, other.codes):
        return tensor
    return QuantizedTensor(other.codes, tensor.params)
