"""What the solve stage found: every number of the quantized model."""

from collections.abc import Mapping
from dataclasses import dataclass

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
