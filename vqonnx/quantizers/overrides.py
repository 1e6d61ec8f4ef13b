"""``TensorQuantOverrides``: what a user fixes for single tensors, parsed into the plan's rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Conversion, Override
from vqonnx.quantizers.types import QuantType

_KEYS = ("quant_type", "symmetric", "reduce_range", "axis", "scale", "zero_point", "rmin", "rmax", "convert")
_PAIRS = (("scale", "zero_point"), ("rmin", "rmax"))
_BY_CHANNEL = ("scale", "zero_point", "rmin", "rmax")
_CONVERT_KEYS = ("quant_type", "symmetric", "reduce_range", "scale", "zero_point", "rmin", "rmax", "recv_nodes")


def parse_overrides(raw: object) -> dict[str, Override]:
    """Read ``{tensor: [{key: value}]}``; a list with one entry a channel gives per-channel values.

    Keys: ``quant_type``, ``symmetric``, ``reduce_range``, ``axis`` (constants), ``scale`` with ``zero_point``, or
    ``rmin`` with ``rmax``; ``convert`` with ``quant_type``, ``symmetric`` and ``recv_nodes`` gives some readers of
    an activation a second type. Numbers may be Python's or numpy's.

    Raises:
        OptionError: A key is unknown, two contradict each other, or one lacks its partner. Programs for onnxruntime
            find its key phrases in these messages.
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
    _check_channels(tensor, entries)
    return replace(
        _fixed(tensor, entries),
        axis=_integer(tensor, first["axis"]) if "axis" in first else None,
        conversion=_conversion(tensor, first.get("convert")),
    )


def _fixed(tensor: str, entries: Sequence[Mapping[str, object]]) -> Override:
    """What the first entry says, with a scale and a zero point of each entry."""
    first = entries[0]
    scale = _column(tensor, entries, "scale")
    if scale is not None and not all(0 < number < math.inf for number in scale):
        raise _error(tensor, f"'scale' must be finite and above 0, got {list(scale)}")
    zero_point = _column(tensor, entries, "zero_point")
    return Override(
        qtype=QuantType.of(first["quant_type"]).qtype if "quant_type" in first else None,
        symmetric=_flag(tensor, first, "symmetric"),
        reduce_range=_flag(tensor, first, "reduce_range"),
        low=_number(tensor, first, "rmin"),
        high=_number(tensor, first, "rmax"),
        channel_ranges=_channel_ranges(tensor, entries),
        scale=scale,
        zero_point=None if zero_point is None else tuple(_integer(tensor, number) for number in zero_point),
    )


def _channel_ranges(tensor: str, entries: Sequence[Mapping[str, object]]) -> tuple[tuple[float, float], ...]:
    """The range of each channel where several entries have one."""
    if len(entries) == 1 or "rmin" not in entries[0]:
        return ()
    ends = ((_number(tensor, entry, "rmin"), _number(tensor, entry, "rmax")) for entry in entries)
    return tuple((low, high) for low, high in ends if low is not None and high is not None)


def _check_channels(tensor: str, entries: Sequence[Mapping[str, object]]) -> None:
    """Entries behind the first, one a channel, may differ in scale and zero point, or in their range, only."""
    first = entries[0]
    if len(entries) > 1 and "axis" not in first:
        raise _error(tensor, "has several entries, one a channel, but the first names no 'axis'")
    for entry in entries[1:]:
        for one, two in _PAIRS:
            if (one in entry) != (one in first):
                raise _error(tensor, f"needs {one!r} and {two!r} in each of its entries, or in none")
        other = [key for key in entry if key not in _BY_CHANNEL and entry[key] != first.get(key)]
        if other:
            raise _error(tensor, f"has entries that differ in {other[0]!r}; only {', '.join(_BY_CHANNEL)} may")


def _conversion(tensor: str, raw: object) -> Conversion | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or "quant_type" not in raw:
        raise _error(tensor, "'convert' takes a dictionary with at least 'quant_type'")
    inner = f"{tensor} (convert)"
    _check_keys(inner, raw, _CONVERT_KEYS)
    return Conversion(form=_fixed(inner, [raw]), readers=frozenset(raw.get("recv_nodes") or ()))


def _check_keys(tensor: str, entry: Mapping[str, object], known: Sequence[str]) -> None:
    for key in entry:
        if key not in known:
            raise _error(tensor, f"has no key {key!r}{nearest(key, known)}. Known are {', '.join(known)}")
    clash = [key for key in ("symmetric", "reduce_range", "rmax", "rmin") if key in entry]
    if "scale" in entry and clash:
        raise _error(tensor, f"option(s) [{', '.join(clash)}] are invalid with 'scale' and 'zero_point'")
    for one, other in _PAIRS:
        if (one in entry) != (other in entry):
            raise _error(tensor, f"has only one of two. Must provide both {one!r} and {other!r}, or neither")


def _flag(tensor: str, entry: Mapping[str, object], key: str) -> bool | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise _error(tensor, f"{key!r} takes True or False, got {value!r}")
    return None if value is None else bool(value)


def _number(tensor: str, entry: Mapping[str, object], key: str) -> float | None:
    numbers = _column(tensor, [entry], key)
    if numbers is not None and (len(numbers) != 1 or not math.isfinite(numbers[0])):
        raise _error(tensor, f"{key!r} takes one finite number, got {entry[key]!r}")
    return None if numbers is None else float(numbers[0])


def _integer(tensor: str, value: object) -> int:
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or number != np.rint(number):
        raise _error(tensor, f"takes integers for 'axis' and 'zero_point', got {value!r}")
    return int(number.item())


def _column(tensor: str, entries: Sequence[Mapping[str, object]], key: str) -> tuple[float, ...] | None:
    if key not in entries[0]:
        return None
    arrays = [np.asarray(entry[key]) for entry in entries]
    if any(array.dtype.kind not in "iuf" for array in arrays):
        raise _error(tensor, f"{key!r} takes numbers, got {entries[0][key]!r}")
    return tuple(number for array in arrays for number in array.ravel().tolist())


def _error(tensor: str, text: str) -> OptionError:
    return OptionError(f"TensorQuantOverrides: {tensor!r} {text}.", option="TensorQuantOverrides")
