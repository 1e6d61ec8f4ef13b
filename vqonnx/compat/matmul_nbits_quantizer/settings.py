"""What the quantizer and its algorithm configuration say of the packed form, and the rules that this makes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from vqonnx.compat.matmul_nbits_quantizer.configs import Axes, NodeSettings
from vqonnx.compat.neural_compressor.node_config import symmetry
from vqonnx.core.blocks import PER_CHANNEL, BlockSpec
from vqonnx.core.weight_plan import WeightForm
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Pattern, Selection
from vqonnx.planning.weights.layers import LAYER_OPERATORS
from vqonnx.planning.weights.rules import LayerOverride, WeightRules
from vqonnx.quantizers.types import QuantFormat

_PRODUCTS = ("MatMul",)
_AXES = {"MatMul": (0, -2), "Gather": (1, -1)}
_BLOCKS_LIE = {"MatMul": "the inputs of a product", "Gather": "the rows of a table"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The arguments that the quantizer shares with configurations, under onnxruntime's names and with its defaults."""

    bits: int = 4
    block_size: int = 128
    is_symmetric: bool = False
    accuracy_level: int = 0
    channel_wised_quantize: bool = False
    quant_format: QuantFormat = QuantFormat.QOperator
    op_types_to_quantize: tuple[str, ...] = _PRODUCTS

    @classmethod
    def of(cls, source: object) -> "Settings":
        """The attributes of a quantizer or a configuration, as far as it has them.

        Raises:
            OptionError: An operator or a format is not known, or blocks are to lie along another axis.
        """
        found = {field.name: getattr(source, field.name) for field in fields(cls) if hasattr(source, field.name)}
        if getattr(source, "algorithm", None) == "GPTQ":
            found.pop("block_size", None)  # the step of its solver
        check_axes(getattr(source, "quant_axes", None) or {})
        found["op_types_to_quantize"] = _operators(found.get("op_types_to_quantize") or _PRODUCTS)
        found["quant_format"] = QuantFormat.of(found.get("quant_format", QuantFormat.QOperator))
        found["accuracy_level"] = found.get("accuracy_level") or 0
        return cls(**found)

    def joined(self, other: "Settings") -> "Settings":
        """What both say: of two values the one that is no default.

        Raises:
            OptionError: Two values differ, and neither is a default.
        """
        values = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs and field.default not in (mine, theirs):
                raise OptionError(
                    f"{field.name}: the quantizer is given {mine!r}, and algo_config {theirs!r}. Give it once.",
                    option=field.name,
                )
            values[field.name] = theirs if mine == field.default else mine
        return Settings(**values)

    @property
    def form(self) -> WeightForm:
        """What packed weights become."""
        return WeightForm.QDQ if self.quant_format is QuantFormat.QDQ else WeightForm.MATMUL_NBITS

    @property
    def spec(self) -> BlockSpec:
        """Bits and blocks.

        Raises:
            OptionError: onnxruntime has no kernel for them.
        """
        if self.channel_wised_quantize and self.form is not WeightForm.QDQ:
            raise OptionError(
                "channel_wised_quantize: MatMulNBits has no scale for a whole channel. Pass "
                "quant_format=QuantFormat.QDQ.",
                option="channel_wised_quantize",
            )
        size = PER_CHANNEL if self.channel_wised_quantize else self.block_size
        return BlockSpec(bits=self.bits, block_size=size, symmetric=self.is_symmetric)

    def rules(self, algorithm: str, selection: Selection, nodes: Mapping[Pattern, LayerOverride]) -> WeightRules:
        """Everything that shapes the plan.

        Raises:
            OptionError: The form has no such bits or blocks.
        """
        return WeightRules(
            form=self.form,
            spec=self.spec,
            algorithm=algorithm,
            selection=selection,
            layers=nodes,
            accuracy_level=self.accuracy_level,
        )


def check_axes(axes: Axes) -> None:
    """Refuse blocks along an axis along which there are none.

    Raises:
        OptionError: There are such.
    """
    for op_type, axis in dict(axes).items():
        if op_type not in _AXES:
            raise OptionError(
                f"quant_axes: {op_type!r} has no axis to choose{nearest(op_type, _AXES)}.", option="quant_axes"
            )
        if axis not in _AXES[op_type]:
            raise OptionError(
                f"quant_axes: the axis of {op_type} must be {_AXES[op_type][0]}, got {axis}: blocks lie along "
                f"{_BLOCKS_LIE[op_type]}, which is what a kernel reads at once.",
                option="quant_axes",
            )


def node_overrides(config: NodeSettings | None) -> dict[Pattern, LayerOverride]:
    """``customized_weight_config`` as overrides, by node name.

    Raises:
        OptionError: A key is not known, or a value is of the wrong type.
    """
    return {name: _override(name, settings) for name, settings in (config or {}).items()}


def _override(name: str, settings: Mapping[str, object]) -> LayerOverride:
    names = {"bits": "bits", "group_size": "block_size", "scheme": "symmetric"}
    option = "customized_weight_config"
    for key in settings:
        if key not in names:
            raise OptionError(
                f"{option}: {name!r}: {key!r} is not known{nearest(key, names)}; there are {', '.join(names)}.",
                option=option,
            )
    values = {names[key]: symmetry(value) if key == "scheme" else value for key, value in settings.items()}
    return LayerOverride.parse(values, option)


def _operators(op_types: Iterable[str]) -> tuple[str, ...]:
    for op_type in op_types:
        if op_type not in LAYER_OPERATORS:
            raise OptionError(
                f"op_types_to_quantize: {op_type!r} has no packed form{nearest(op_type, LAYER_OPERATORS)}; "
                f"there are {', '.join(LAYER_OPERATORS)}.",
                option="op_types_to_quantize",
            )
    return tuple(sorted(set(op_types)))
