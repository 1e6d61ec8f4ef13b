"""The public enumerations, with the names and meanings of onnxruntime.quantization.

Its own members are accepted wherever these are: they are matched by name.
"""

from enum import Enum
from typing import Self

import onnx_ir as ir

from vqonnx.core import qtype
from vqonnx.core.qtype import Kind, QType
from vqonnx.core.spec import RangeMethod
from vqonnx.core.target import Form
from vqonnx.errors import OptionError, nearest


class _Named(Enum):
    """An enumeration whose members are found by name, also from another library's member or a string."""

    @classmethod
    def of(cls, value: object) -> Self:
        """The member that ``value`` is, names, or (as another library's member) is called.

        Raises:
            OptionError: There is none.
        """
        if isinstance(value, cls):
            return value
        name = str(getattr(value, "name", value))
        found = next((member for member in cls if member.name.lower() == name.lower()), None)
        if found is None:
            names = [member.name for member in cls]
            raise OptionError(f"{value!r} is no {cls.__name__}{nearest(name, names)}. Known are {', '.join(names)}.")
        return found


class _Called(_Named):
    """One whose members are written as their names."""

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_string(cls, name: str) -> Self:
        """The member of that name, in any case.

        Raises:
            OptionError: There is none; it is a ValueError.
        """
        return cls.of(name)


class QuantType(_Called):
    """Element types of activations and weights; those behind QUInt2 are vqonnx's, for AMD's NPU (target "vitis")."""

    QInt8 = 0
    QUInt8 = 1
    QFLOAT8E4M3FN = 2
    QInt16 = 3
    QUInt16 = 4
    QInt4 = 5
    QUInt4 = 6
    QInt2 = 7
    QUInt2 = 8
    QFLOAT8E5M2 = 100
    QInt32 = 101
    QUInt32 = 102
    QFloat16 = 103
    QBFloat16 = 104
    QBFP16 = 105
    QMX9 = 106
    QMX6 = 107
    QMX4 = 108
    QMXFP8_E5M2 = 109
    QMXFP8_E4M3 = 110
    QMXFP6_E3M2 = 111
    QMXFP6_E2M3 = 112
    QMXFP4_E2M1 = 113
    QMXINT8 = 114

    @property
    def tensor_type(self) -> int:
        """The type of its codes in ``onnx.TensorProto``; of the rounded numbers for a block format."""
        kind = self.qtype.kind
        name = "FLOAT" if kind in (Kind.BLOCK_FLOAT, Kind.MICROSCALING) else self.qtype.name.upper()
        return int(ir.DataType[name])

    @property
    def qtype(self) -> QType:
        """The core's description of the type."""
        return qtype.QTYPES[self.name.removeprefix("Q").lower()]

    @classmethod
    def of(cls, value: object) -> Self:
        """As of the other enumerations; a number is that of ``onnx.TensorProto``, which onnxruntime takes too."""
        if isinstance(value, int) and not isinstance(value, bool):
            scaled = (m for m in cls if m.qtype.kind not in (Kind.BLOCK_FLOAT, Kind.MICROSCALING))
            value = next((member for member in scaled if member.tensor_type == value), value)
        return super().of(value)

    @classmethod
    def from_qtype(cls, element: QType) -> "QuantType":
        """The member for a type of the core."""
        return cls.of(f"Q{element.name}")


class QuantFormat(_Called):
    """How the quantized graph is written."""

    QOperator = 0
    QDQ = 1

    @property
    def form(self) -> Form:
        """The core's name of the form."""
        return Form(self.name)


class VitisQuantFormat(_Called):
    """How it is written for AMD's NPU; the names of Vitis AI's vai_q_onnx."""

    QDQ = 2
    FixNeuron = 3

    @property
    def form(self) -> Form:
        """The core's name of the form."""
        return Form(self.name)


def written_form(quant_format: object) -> Form:
    """The form that a member of ``QuantFormat`` or ``VitisQuantFormat``, or its name, stands for.

    Raises:
        OptionError: It is none.
    """
    name = str(getattr(quant_format, "name", quant_format)).lower()
    kind = VitisQuantFormat if name == VitisQuantFormat.FixNeuron.name.lower() else QuantFormat
    return kind.of(quant_format).form


class QuantizationMode(_Called):
    """Dynamic (integer operators) or static (linear operators) quantization."""

    IntegerOps = 0
    QLinearOps = 1


class CalibrationMethod(_Named):
    """How the range of an activation is chosen.

    ``MSE`` (least squared error), ``MovingAverage``, ``Mean`` (ends of an average sample), ``PercentileMSE`` (least
    squared error within a percentile), ``LayerwisePercentile`` (each tensor's best of several percentiles) and
    ``MostCommon`` (the power-of-two scale that suits most samples) are vqonnx's; the others are named as in
    onnxruntime.quantization.
    """

    MinMax = 0
    Entropy = 1
    Percentile = 2
    Distribution = 3
    MSE = 4
    MovingAverage = 5
    Mean = 6
    PercentileMSE = 7
    LayerwisePercentile = 8
    MostCommon = 9

    @property
    def method(self) -> RangeMethod:
        """The core's name of the method."""
        return {
            "MinMax": RangeMethod.MIN_MAX,
            "Entropy": RangeMethod.ENTROPY,
            "Percentile": RangeMethod.PERCENTILE,
            "Distribution": RangeMethod.DISTRIBUTION,
            "MSE": RangeMethod.MSE,
            "MovingAverage": RangeMethod.MOVING_AVERAGE,
            "Mean": RangeMethod.MEAN,
            "PercentileMSE": RangeMethod.PERCENTILE_MSE,
            "LayerwisePercentile": RangeMethod.LAYERWISE_PERCENTILE,
            "MostCommon": RangeMethod.MOST_COMMON,
        }[self.name]


class PowerOfTwoMethod(_Named):
    """How the power-of-two scale of a tensor is chosen; the names of AMD's and Xilinx's quantizers.

    ``NonOverflow`` takes the smallest power of two that covers all that was observed (theirs rounds to the nearest,
    which can clip by up to a factor of sqrt(2)). ``MinMSE`` takes that of least squared error.
    """

    NonOverflow = 0
    MinMSE = 1

    def method(self, mode: str = "All") -> RangeMethod:
        """The core's name of the method.

        Args:
            mode: What ``MinMSE`` measures the error on: ``"All"`` samples together, ``"Percentile"`` of them, or each
                sample alone, where the ``"MostCommon"`` scale wins.

        Raises:
            OptionError: The mode is none of these.
        """
        if mode not in _MIN_MSE_MODES:
            raise OptionError(
                f"MinMSEModePof2Scale: {mode!r} is no mode of PowerOfTwoMethod.MinMSE{nearest(mode, _MIN_MSE_MODES)}. "
                f"Known are {', '.join(_MIN_MSE_MODES)}.",
                option="MinMSEModePof2Scale",
            )
        return _MIN_MSE_MODES[mode] if self is PowerOfTwoMethod.MinMSE else RangeMethod.MIN_MAX


_MIN_MSE_MODES = {
    "All": RangeMethod.MSE,
    "Percentile": RangeMethod.PERCENTILE_MSE,
    "MostCommon": RangeMethod.MOST_COMMON,
}
