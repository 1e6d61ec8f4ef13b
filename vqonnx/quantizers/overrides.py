"""``TensorQuantOverrides``: what a user fixes for single tensors, parsed into the plan's rules."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Conversion, Override
from vqonnx.quantizers.types import QuantType

_KEYS = ("quant_type", "symmetric", "reduce_range", "axis", "scale", "zero_point", "rmin", "rmax", "convert")
_CONVERT_KEYS = ("quant_type", "symmetric", "reduce_range", "scale", "zero_point", "rmin", "rmax", "recv_nodes")


def parse_overrides(raw: object) -> dict[str, Override]:
    """Read ``{tensor: [{key: value}]}``; a list with one entry a channel gives per-channel values.

    Keys: ``quant_type``, ``symmetric``, ``reduce_range``, ``axis`` (constants), ``scale`` with ``zero_point``, or
    ``rmin`` with ``rmax``; ``convert`` with ``quant_type``, ``symmetric`` and ``recv_nodes`` gives some readers of
    an activation a second type. Numbers may be Python's or numpy's.

    Raises:
        OptionError: A key is unknown, two contradict each other, or one lacks its partner.
    """
    if not isinstance(raw, Mapping):
        raise _error("the overrides", f"must map tensor names to lists of dictionaries, got {type(raw).__name__}")
    return {str(name): _parse(str(name), entries) for name, entries in raw.items()}


def _parse(tensor: str, entries: object) -> Override:
    if isinstance(entries, Mapping):
        entries = [entries]
    if not isinstance(entries, Sequence) or not entries or not all(isinstance(e, Mapping) for e in entries):
        raise _error(tensor, f"takes a list of dictionaries, got {entries!r}")
    first = entries[0]
    for entry in entries:
        _check_keys(tensor, entry, _KEYS)
    if len(entries) > 1 and "axis" not in first:
        raise _error(tensor, "has several entries, one a channel, but the first names no 'axis'")
    return Override(
        qtype=QuantType.of(first["quant_type"]).qtype if "quant_type" in first else None,
        symmetric=_flag(tensor, first, "symmetric"),
        reduce_range=_flag(tensor, first, "reduce_range"),
        axis=int(first["axis"]) if "axis" in first else None,
        low=_number(first, "rmin"),
        high=_number(first, "rmax"),
        scale=_column(entries, "scale"),
        zero_point=cast("tuple[int, ...] | None", _column(entries, "zero_point")),
        conversion=_conversion(tensor, first.get("convert")),
    )


def _conversion(tensor: str, raw: object) -> Conversion | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or "quant_type" not in raw:
        raise _error(tensor, "'convert' takes a dictionary with at least 'quant_type'")
    _check_keys(f"{tensor} (convert)", raw, _CONVERT_KEYS)
    return Conversion(
        qtype=QuantType.of(raw["quant_type"]).qtype,
        readers=frozenset(raw.get("recv_nodes") or ()),
        symmetric=_flag(tensor, raw, "symmetric"),
    )


def _check_keys(tensor: str, entry: Mapping[str, object], known: Sequence[str]) -> None:
    for key in entry:
        if key not in known:
            raise _error(tensor, f"has no key {key!r}{nearest(key, known)}. Known are {', '.join(known)}")
    for one, other in (("scale", "zero_point"), ("rmin", "rmax")):
        if (one in entry) != (other in entry):
            raise _error(tensor, f"{one!r} and {other!r} must be given together")
    clash = [key for key in ("symmetric", "reduce_range", "rmin", "rmax") if key in entry]
    if "scale" in entry and clash:
        raise _error(tensor, f"'scale' fixes everything, so {clash[0]!r} contradicts it")


def _flag(tensor: str, entry: Mapping[str, object], key: str) -> bool | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise _error(tensor, f"{key!r} takes True or False, got {value!r}")
    return None if value is None else bool(value)


def _number(entry: Mapping[str, object], key: str) -> float | None:
    return float(np.asarray(entry[key]).reshape(())) if key in entry else None


def _column(entries: Sequence[Mapping[str, object]], key: str) -> tuple[float, ...] | None:
    if key not in entries[0]:
        return None
    return tuple(number for entry in entries for number in np.asarray(entry[key]).ravel().tolist())


def _error(tensor: str, text: str) -> OptionError:
    return OptionError(f"TensorQuantOverrides: {tensor!r} {text}.", option="TensorQuantOverrides")
