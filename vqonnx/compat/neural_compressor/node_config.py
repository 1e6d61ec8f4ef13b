"""What ``rtn_quantize`` is told of single nodes: dictionaries, configuration objects, or the text "fp32"."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from vqonnx.compat.neural_compressor.rounding import Rounding
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.weights.rules import LARGEST_ACCURACY_LEVEL

WeightConfig: TypeAlias = Mapping[str | tuple[str, str], object]
"""By a node's name, or its name and operator."""

_FLOAT = "fp32"
_NUMBERS = {
    "bits": "bits",
    "weight_bits": "bits",
    "group_size": "group_size",
    "weight_group_size": "group_size",
    "accuracy_level": "accuracy_level",
}
_SYMMETRY = {"scheme": {"sym": True, "asym": False}, "weight_sym": {True: True, False: False}}
_FIXED = {"weight_dtype": ("int", "uint", _FLOAT), "act_dtype": (_FLOAT,), "algorithm": ("RTN",)}
"""Keys that are taken with values that mean what is done here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What becomes of the weight of one node.

    Attributes:
        bits: Bits of a code.
        group_size: Neighbours along K that share a scale; -1 for all of them.
        symmetric: Whether the zero point is the middle code.
        accuracy_level: MatMulNBits' attribute.

    Raises:
        OptionError: A value is out of range.
    """

    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    accuracy_level: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_level <= LARGEST_ACCURACY_LEVEL:
            raise OptionError(
                f"accuracy_level must lie in 0..{LARGEST_ACCURACY_LEVEL}, got {self.accuracy_level}",
                option="accuracy_level",
            )
        self.rounding(1.0)

    def rounding(self, ratio: float) -> Rounding:
        """How the weight is rounded, with its ranges shrunk by ``ratio``."""
        return Rounding(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric, ratio=ratio)


def node_configs(configs: WeightConfig, known: Iterable[str], default: NodeConfig) -> dict[str, NodeConfig | None]:
    """What each mentioned node is given, by name; None for one that stays float.

    Args:
        configs: As the user gave them.
        known: Names of all nodes of the model.
        default: What holds where nothing else is said.

    Raises:
        OptionError: There is no such node or key, or a value is of the wrong type or out of range.
    """
    names = set(known)
    found: dict[str, NodeConfig | None] = {}
    for key, given in configs.items():
        name = key if isinstance(key, str) else key[0]
        if name not in names:
            raise _wrong(f"the model has no node {name!r}{nearest(name, names)}")
        found[name] = None if given == _FLOAT else _node_config(name, _values(name, given), default)
    return found


def symmetry(scheme: object, key: str = "scheme") -> bool:
    """Whether "sym" or "asym", or True or False of ``weight_sym``, means symmetric.

    Raises:
        OptionError: It is neither.
    """
    meanings: Mapping[object, bool] = _SYMMETRY[key]  # type: ignore[assignment]  # keys are of any type
    if scheme not in meanings:
        raise OptionError(f"{key}: {scheme!r} is none of {', '.join(map(repr, meanings))}.", option=key)
    return meanings[scheme]


def _values(name: str, given: object) -> Mapping[str, object]:
    """The known entries of a dictionary, which has no others, or attributes of an object, which may have more."""
    known = (*_NUMBERS, *_SYMMETRY, *_FIXED)
    if not isinstance(given, Mapping):
        found = {key: getattr(given, key) for key in known if hasattr(given, key)}
        if not found:
            raise _wrong(f"{name!r} is given {given!r}, which is neither a dictionary nor a configuration nor 'fp32'")
        return found
    for key in given:
        if key not in known:
            raise _wrong(f"{name!r}: {key!r} is not known{nearest(str(key), known)}; there are {', '.join(known)}")
    return given


def _node_config(name: str, values: Mapping[str, object], default: NodeConfig) -> NodeConfig | None:
    for key, meanings in _FIXED.items():
        if key in values and values[key] not in meanings:
            raise _wrong(f"{name!r}: {key} must be one of {meanings}, got {values[key]!r}")
    if values.get("weight_dtype") == _FLOAT:
        return None
    numbers = {"bits": default.bits, "group_size": default.group_size, "accuracy_level": default.accuracy_level}
    symmetric = default.symmetric
    for key, value in values.items():
        if key in _NUMBERS:
            if not isinstance(value, int):
                raise _wrong(f"{name!r}: {key} must be a whole number, got {value!r}")
            numbers[_NUMBERS[key]] = value
        elif key in _SYMMETRY:
            symmetric = symmetry(value, key)
    return NodeConfig(symmetric=symmetric, **numbers)


def _wrong(what: str) -> OptionError:
    return OptionError(f"weight_config: {what}.", option="weight_config")
