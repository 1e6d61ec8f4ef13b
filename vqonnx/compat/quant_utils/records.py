"""What a quantizer notes about a tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import onnx


class QuantizedValueType(Enum):
    """Whether a quantized value is computed or an initializer."""

    Input = 0
    Initializer = 1

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def from_string(v: str) -> "QuantizedValueType":
        """The member of that name.

        Raises:
            ValueError: There is none.
        """
        if v not in QuantizedValueType.__members__:
            raise ValueError(f"{v!r} is no QuantizedValueType")
        return QuantizedValueType[v]


@dataclass(eq=False)
class QuantizedInitializer:
    """A quantized constant.

    Attributes:
        name: Of the initializer.
        initializer: The float one.
        rmins: Smallest value, one a channel.
        rmaxs: Largest value, one a channel.
        zero_points: One a channel.
        scales: One a channel.
        data: Float numbers.
        quantized_data: Codes.
        axis: Channel axis; None per tensor.
    """

    name: str
    initializer: onnx.TensorProto
    rmins: Any
    rmaxs: Any
    zero_points: Any
    scales: Any
    data: Sequence[Any] = field(default_factory=list)
    quantized_data: Sequence[Any] = field(default_factory=list)
    axis: int | None = None


class QuantizedValue:
    """Where the quantized form of a tensor is found; the attributes are names of tensors and nodes.

    Attributes:
        original_name: The float tensor.
        q_name: Its codes.
        scale_name: Their scale.
        zp_name: Their zero point.
        value_type: Computed or an initializer.
        axis: Channel axis; None per tensor.
        node_type: Operator that gives the float numbers back.
        node_qtype: Type of the codes.
        scale_type: Type of the scale.
    """

    def __init__(
        self,
        name: str,
        new_quantized_name: str,
        scale_name: str,
        zero_point_name: str,
        quantized_value_type: QuantizedValueType,
        axis: int | None = None,
        node_type: str | None = None,
        node_qtype: int | None = None,
        scale_type: int | None = None,
    ) -> None:
        self.original_name, self.q_name = name, new_quantized_name
        self.scale_name, self.zp_name = scale_name, zero_point_name
        self.value_type, self.axis = quantized_value_type, axis
        self.node_type, self.node_qtype, self.scale_type = node_type, node_qtype, scale_type


@dataclass
class BiasToQuantize:
    """A bias, with the names of the tensors whose scales make its own."""

    bias_name: str
    input_name: str
    weight_name: str
