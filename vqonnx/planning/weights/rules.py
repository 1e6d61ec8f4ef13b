"""What the user asks of weight-only quantization, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from vqonnx.core.blocks import PER_CHANNEL, BlockSpec
from vqonnx.core.weight_plan import CodebookSpec, WeightForm
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Pattern, Selection

PRODUCT_OPERATORS = ("MatMul", "Gemm")
"""Operators whose weights are packed unless others are asked for."""
LARGEST_ACCURACY_LEVEL = 4
_SMALLEST_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOverride:
    """What is fixed for some layers; None keeps what the rules say.

    Attributes:
        bits: Bits of a code.
        block_size: Neighbours along K that share a scale.
        symmetric: Whether the zero point is the middle code.
        algorithm: Name of the algorithm.
    """

    bits: int | None = None
    block_size: int | None = None
    symmetric: bool | None = None
    algorithm: str | None = None

    @classmethod
    def parse(cls, settings: Mapping[str, object], option: str = "layers") -> "LayerOverride":
        """An override from a user's dictionary.

        Raises:
            OptionError: A key is not known, or a value is of the wrong type.
        """
        known: dict[str, type] = {"bits": int, "block_size": int, "symmetric": bool, "algorithm": str}
        for key, value in settings.items():
            if key not in known:
                raise OptionError(
                    f"{option}: {key!r} is not known{nearest(key, known)}; there are {', '.join(known)}.", option=option
                )
            if value is not None and type(value) is not known[key]:
                raise OptionError(
                    f"{option}: {key} must be of type {known[key].__name__}, got {value!r}", option=option
                )
        return cls(**settings)  # type: ignore[arg-type]  # checked above

    def joined(self, other: "LayerOverride") -> "LayerOverride":
        """What both fix; where both fix the same thing, ``other`` counts."""
        return LayerOverride(**{**self.fixed(), **other.fixed()})  # type: ignore[arg-type]  # its own fields

    def contradicts(self, other: "LayerOverride") -> bool:
        """Whether both fix the same thing, differently."""
        mine, theirs = self.fixed(), other.fixed()
        return any(mine[name] != theirs[name] for name in mine.keys() & theirs.keys())

    def fixed(self) -> dict[str, int | bool | str]:
        """What is not None, by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRules:
    """Everything that shapes a weight-only plan besides the graph.

    Attributes:
        form: What packed weights become.
        spec: Bits and blocks; a code book's for ``BNB4``.
        algorithm: Name of the algorithm that solves the weights.
        selection: Which nodes; without operators the products, MatMul and Gemm. Gather (tables) and Conv (1x1) are
            there to be asked for.
        layers: What is different for some layers, by pattern; later ones win.
        last_matmul: Whether the product nearest to the outputs is packed too.
        accuracy_level: MatMulNBits' attribute, 0 to 4.

    Raises:
        OptionError: The form has no such bits, blocks or code books.
    """

    form: WeightForm = WeightForm.MATMUL_NBITS
    spec: BlockSpec | CodebookSpec = field(default_factory=BlockSpec)
    algorithm: str = "rtn"
    selection: Selection = field(default_factory=Selection)
    layers: Mapping[Pattern, LayerOverride] = field(default_factory=dict)
    last_matmul: bool = True
    accuracy_level: int = LARGEST_ACCURACY_LEVEL

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_level <= LARGEST_ACCURACY_LEVEL:
            raise OptionError(
                f"accuracy_level must lie in 0..{LARGEST_ACCURACY_LEVEL}, got {self.accuracy_level}",
                option="accuracy_level",
            )
        check_form(self.form, self.spec)
        for pattern, override in self.layers.items():
            try:
                self.spec_for(override)
            except OptionError as error:
                raise OptionError(f"layers: {pattern!r}: {error}", option="layers") from error

    def spec_for(self, override: LayerOverride) -> BlockSpec | CodebookSpec:
        """The spec of layers with these overrides.

        Raises:
            OptionError: The form has none such.
        """
        fixed = {name: value for name, value in override.fixed().items() if name != "algorithm"}
        if isinstance(self.spec, CodebookSpec) and (fixed.pop("bits", 4) != 4 or "symmetric" in fixed):
            raise OptionError(
                "a code book has 4 bits and no zero points; only its block_size can differ", option="bits"
            )
        spec = replace(self.spec, **fixed)  # type: ignore[arg-type]  # names of both classes' fields
        check_form(self.form, spec)
        return spec

    def algorithm_for(self, override: LayerOverride) -> str:
        """The algorithm of layers with these overrides."""
        return override.algorithm or self.algorithm


def check_form(form: WeightForm, spec: BlockSpec | CodebookSpec) -> None:
    """Refuse bits and blocks that a form does not have.

    Raises:
        OptionError: It has none such.
    """
    if isinstance(spec, CodebookSpec) != (form is WeightForm.BNB4):
        raise OptionError(f"format {form.value!r} and {type(spec).__name__} do not go together", option="format")
    if isinstance(spec, CodebookSpec):
        return
    if form is WeightForm.MATMUL_NBITS and spec.block_size == PER_CHANNEL:
        raise OptionError(
            "com.microsoft::MatMulNBits has no scale per channel; give a block_size of 16, 32, 64, 128 or 256, or take "
            "format 'qdq' or 'channel_qdq'.",
            option="block_size",
        )
    if spec.bits == 2 and spec.block_size == _SMALLEST_BLOCK:
        raise OptionError(
            f"ONNX Runtime has no fast kernel for 2-bit codes in blocks of {_SMALLEST_BLOCK}; give a block_size of 32 "
            "or more.",
            option="block_size",
        )
    if form is WeightForm.CHANNEL_QDQ and spec != BlockSpec(bits=8, block_size=PER_CHANNEL, symmetric=True):
        raise OptionError(
            "format 'channel_qdq' means 8 bits, one scale a channel, symmetric; take format 'qdq' for other blocks and "
            f"bits. Got bits={spec.bits}, block_size={spec.block_size}, symmetric={spec.symmetric}.",
            option="format",
        )
