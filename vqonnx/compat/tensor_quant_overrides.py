"""onnxruntime.quantization.tensor_quant_overrides: a mapping of overrides with questions and changes."""

import json
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from vqonnx.errors import OptionError
from vqonnx.quantizers.overrides import parse_overrides
from vqonnx.quantizers.types import QuantType

Entry = dict[str, Any]


@dataclass(eq=False)
class QuantTypeInfo:
    """The type that a node reads or writes.

    Two are equal where nothing that both say differs; what is None leaves the choice to the quantizer.

    Attributes:
        quant_type: Element type.
        symmetric: Whether ranges are centred on zero.
        reduce_range: Whether one bit less is used.
        axis: Channel axis; None per tensor.
    """

    quant_type: QuantType | None
    symmetric: bool | None = None
    reduce_range: bool | None = None
    axis: int | None = None

    __hash__ = None  # type: ignore[assignment]  # equality is not transitive

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantTypeInfo):
            return NotImplemented
        pairs = ((self.symmetric, other.symmetric), (self.reduce_range, other.reduce_range))
        agree = all(one is None or two is None or one == two for one, two in pairs)
        return agree and (self.quant_type, self.axis) == (other.quant_type, other.axis)

    @staticmethod
    def load_from_dict(
        raw_dict: Mapping[str, Any],
        default_qtype: QuantType | None = None,
        default_symmetric: bool | None = None,
        default_reduce_range: bool | None = None,
    ) -> "QuantTypeInfo":
        """What an entry of the overrides says, with defaults for the rest."""
        return QuantTypeInfo(
            raw_dict.get("quant_type", default_qtype),
            raw_dict.get("symmetric", default_symmetric),
            raw_dict.get("reduce_range", default_reduce_range),
            raw_dict.get("axis"),
        )

    def save_to_dict(self, raw_dict: Entry) -> None:
        """Write it into an entry; what is None is left out."""
        raw_dict["quant_type"] = self.quant_type
        known = {"symmetric": self.symmetric, "reduce_range": self.reduce_range, "axis": self.axis}
        raw_dict.update({key: value for key, value in known.items() if value is not None})


class TensorQuantOverridesHelper(MutableMapping[str, list[Entry]]):
    """``{tensor: [{key: value}]}``, as the option ``TensorQuantOverrides`` takes it; changes go into that dictionary.

    Attributes:
        overrides: The dictionary.
    """

    def __init__(self, raw_overrides: dict[str, list[Entry]]) -> None:
        self.overrides = raw_overrides

    def has_per_tensor_overrides(self, tensor_name: str) -> bool:
        """Whether a tensor has an entry for all of it."""
        return "axis" not in self._first(tensor_name) and bool(self.overrides.get(tensor_name))

    def has_per_channel_overrides(self, tensor_name: str) -> bool:
        """Whether it has entries by channel."""
        return "axis" in self._first(tensor_name)

    def overrides_scale_zp(self, tensor_name: str) -> bool:
        """Whether scale and zero point are given."""
        return {"scale", "zero_point"} <= set(self._first(tensor_name))

    def get_per_tensor_overrides(self, tensor_name: str, default_val: Entry | None = None) -> Entry | None:
        """The entry of a tensor.

        Raises:
            OptionError: It has entries by channel.
        """
        if self.has_per_channel_overrides(tensor_name):
            raise _error(f"{tensor_name!r} has entries by channel, and one for all of it was asked for")
        found = self.overrides.get(tensor_name)
        return (found[0] if found else None) if tensor_name in self.overrides else default_val

    def get_per_channel_overrides(self, tensor_name: str, default_val: list[Entry] | None = None) -> list[Entry] | None:
        """The entries of a tensor, by channel.

        Raises:
            OptionError: Its first entry names no axis.
        """
        found = self.overrides.get(tensor_name, default_val)
        if found and "axis" not in found[0]:
            raise _error(f"{tensor_name!r} has no entries by channel: the first names no 'axis'")
        return found or None

    def get_quant_types(self) -> set[QuantType]:
        """All types that any entry names, those of conversions too."""
        entries = [entry for found in self.overrides.values() for entry in found]
        entries += [entry["convert"] for entry in entries if "convert" in entry]
        return {entry["quant_type"] for entry in entries if "quant_type" in entry}

    def is_valid(
        self,
        initializers: Mapping[str, onnx.TensorProto],
        activation_names: Collection[str],
        default_activation_qtype: Any,
    ) -> tuple[bool, str | None]:
        """Whether the overrides fit a model, and what does not."""
        try:
            parse_overrides(self.overrides)
        except OptionError as error:
            return False, str(error)
        for name, entries in self.overrides.items():
            wrong = self._misfit(name, entries, initializers, activation_names, default_activation_qtype)
            if wrong:
                return False, f"TensorQuantOverrides: {name!r} {wrong}."
        return True, None

    @staticmethod
    def _misfit(
        name: str,
        entries: Sequence[Entry],
        initializers: Mapping[str, onnx.TensorProto],
        activation_names: Collection[str],
        default: Any,
    ) -> str:
        if name not in initializers and name not in activation_names:
            return "is not present in the model"
        first = entries[0] if entries else {}
        if ("axis" in first or len(entries) > 1) and name not in initializers:
            return "is computed, and only initializers have entries by channel"
        converted = first.get("convert")
        if converted is None:
            return ""
        if name in initializers:
            return "is an initializer, which has no 'convert'; give it another 'quant_type'"
        same: bool = converted.get("quant_type") == first.get("quant_type", default)
        return "would be converted to the type that it has" * same

    def update_tensor_overrides(
        self,
        tensor_name: str,
        new_vals: Mapping[str, Any],
        channels: Sequence[int] | None = None,
        overwrite: bool = True,
    ) -> bool:
        """Put values into the entries of a tensor.

        Args:
            tensor_name: The tensor.
            new_vals: By key.
            channels: Which entries; None: all.
            overwrite: Whether values that are there may be replaced; else nothing changes where one would be.

        Returns:
            Whether anything changed.
        """
        if not new_vals:
            return False
        entries = self.overrides.get(tensor_name) or [{}]
        chosen = [entry for index, entry in enumerate(entries) if channels is None or index in channels]
        if not overwrite and any(set(new_vals) & set(entry) for entry in chosen):
            return False
        for entry in chosen:
            entry.update(new_vals)
        self.overrides[tensor_name] = entries
        return True

    def get_node_output_qtype_info(
        self, output_name: str, default_qtype: QuantType | None, default_symmetric: bool | None = None
    ) -> QuantTypeInfo:
        """The type in which an output is written."""
        first = self._first(output_name)
        return QuantTypeInfo(first.get("quant_type", default_qtype), first.get("symmetric", default_symmetric))

    def get_node_input_qtype_info(
        self,
        input_name: str,
        node_name: str,
        default_qtype: QuantType | None,
        default_symmetric: bool | None = None,
        default_reduce_range: bool | None = None,
    ) -> QuantTypeInfo:
        """The type in which a node reads an input: that after the conversion, where it is one of its readers."""
        first = self._first(input_name)
        found = QuantTypeInfo.load_from_dict(first, default_qtype, default_symmetric, default_reduce_range)
        if "convert" not in first:
            return found
        converted = first["convert"]
        reads_it = "recv_nodes" not in converted or node_name in converted["recv_nodes"]
        qtype = converted["quant_type"] if reads_it else found.quant_type
        return QuantTypeInfo(qtype, converted.get("symmetric", default_symmetric))

    def pprint_str(self, indent: int | None = None) -> str:
        """The overrides as JSON; what JSON has no form for as text."""
        return json.dumps(self.overrides, default=str, indent=indent)

    def empty(self) -> bool:
        """Whether there are none."""
        return not self.overrides

    def get_dict(self) -> dict[str, list[Entry]]:
        """The dictionary itself."""
        return self.overrides

    def __setitem__(self, key: str, value: list[Entry]) -> None:
        self.overrides[key] = value

    def __getitem__(self, key: str) -> list[Entry]:
        return self.overrides[key]

    def __delitem__(self, key: str) -> None:
        del self.overrides[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.overrides)

    def __len__(self) -> int:
        return len(self.overrides)

    def __repr__(self) -> str:
        return f"TensorQuantOverridesHelper({self.overrides})"

    def _first(self, tensor_name: str) -> Entry:
        entries = self.overrides.get(tensor_name)
        return entries[0] if entries else {}


def _error(text: str) -> OptionError:
    return OptionError(f"TensorQuantOverrides: {text}.", option="TensorQuantOverrides")
