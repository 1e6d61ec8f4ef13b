"""Complete TensorQuantOverrides that give some activations another type than the rest.

QNN's operators want their activations in one type. So the nodes around an overridden tensor work in its type, what
they read is converted to it, and what they make is converted back for the nodes that work in the default type.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from vqonnx.errors import OptionError
from vqonnx.quantizers.overrides import parse_overrides
from vqonnx.quantizers.types import QuantType

Overrides = MutableMapping[str, list[dict[str, Any]]]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True, slots=True)
class _Type:
    """Type and symmetry of an activation; a symmetry of None goes with any."""

    quant_type: Any
    symmetric: bool | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], default: Any = None) -> "_Type":
        return cls(entry.get("quant_type", default), entry.get("symmetric"))

    def entry(self) -> dict[str, Any]:
        given = {"quant_type": self.quant_type, "symmetric": self.symmetric}
        return {key: value for key, value in given.items() if value is not None}

    def agrees(self, other: "_Type") -> bool:
        same = QuantType.of(self.quant_type) is QuantType.of(other.quant_type)
        return same and (None in (self.symmetric, other.symmetric) or self.symmetric == other.symmetric)


@dataclass(slots=True)
class _Request:
    """What the nodes around a tensor ask for: the type it is made in, and the one in which ``readers`` read it."""

    made: _Type | None = None
    read: _Type | None = None
    readers: set[str] = field(default_factory=set)


class MixedPrecisionTensorQuantOverridesFixer:
    """Adds to overrides what mixed precision needs; ``apply`` changes them in place.

    Attributes:
        overrides: By tensor name, a list of one dictionary (``vqonnx.quantizers.overrides``).
        producers: The node that makes each tensor.
        consumers: The nodes that read it.
        value_infos: What is stated of it.
        initializers: The constants.
    """

    def __init__(
        self,
        overrides: Overrides,
        producers: Mapping[str, NodeProto],
        consumers: Mapping[str, Sequence[NodeProto]],
        value_infos: Mapping[str, ValueInfoProto],
        initializers: Mapping[str, TensorProto],
    ) -> None:
        self.overrides, self.producers, self.consumers = overrides, producers, consumers
        self.value_infos, self.initializers = value_infos, initializers

    @staticmethod
    def create_from_model(
        overrides: Overrides, model: ModelProto, default_activation_qtype: QuantType
    ) -> "MixedPrecisionTensorQuantOverridesFixer":
        """A fixer for the main graph of ``model``.

        Raises:
            OptionError: The overrides are malformed, or name a tensor that the model lacks; also a ValueError.
        """
        inferred = onnx.shape_inference.infer_shapes(model).graph
        stated = (*inferred.value_info, *inferred.output, *inferred.input)
        consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in filter(None, node.input):
                consumers.setdefault(name, []).append(node)
        producers = {name: node for node in model.graph.node for name in node.output if name}
        infos = {info.name: info for info in stated}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        parse_overrides({name: entries for name, entries in overrides.items() if entries})
        for name in overrides:
            if name not in constants and name not in infos:
                raise OptionError(
                    f"Tensor {name!r} in TensorQuantOverrides is not present in the model; check its name",
                    option="TensorQuantOverrides",
                )
        return MixedPrecisionTensorQuantOverridesFixer(overrides, producers, consumers, infos, constants)

    def apply(self, default_activation_qtype: QuantType, default_activation_symmetric: bool) -> None:
        """Add types and conversions, in place.

        Args:
            default_activation_qtype: The type of activations that nothing is said of.
            default_activation_symmetric: Whether their ranges are centred on zero.

        Raises:
            OptionError: Two overrides want a tensor or a node in different types; also a ValueError.
        """
        default = _Type(default_activation_qtype)
        for name, wanted in self._requests(_Type(default_activation_qtype, default_activation_symmetric)).items():
            self._settle(name, wanted, default)

    def _requests(self, default: _Type) -> dict[str, _Request]:
        """What every node beside a tensor of another type asks of its own tensors."""
        requests: dict[str, _Request] = {}
        for name, entries in self.overrides.items():
            if name in self.initializers or not self._is_float(name) or len(entries) != 1 or "convert" in entries[0]:
                continue
            own = _Type.of(entries[0], default.quant_type)
            if own.agrees(default):
                continue
            maker = [self.producers[name]] if name in self.producers else []
            for node in (*maker, *self.consumers.get(name, ())):
                self._ask(requests, node, own)
        return requests

    def _ask(self, requests: dict[str, _Request], node: NodeProto, wanted: _Type) -> None:
        """Let ``node`` work in ``wanted``: make its outputs and read its inputs in it."""
        for name in filter(self._is_float, node.output):
            request = requests.setdefault(name, _Request())
            if request.made is not None and not request.made.agrees(wanted):
                raise _contradiction(name, "its maker should work", request.made, wanted)
            request.made = wanted
        for name in filter(self._is_float, node.input):
            if name in self.initializers:
                continue
            request = requests.setdefault(name, _Request())
            request.read = request.read or wanted
            if not request.read.agrees(wanted):
                raise _contradiction(name, "its readers should work", request.read, wanted)
            if not node.name:
                raise OptionError(
                    f"the {node.op_type} that makes {node.output[0]!r} has no name, by which a conversion could be "
                    "told whom it is for; name it (qnn_preprocess_model does)",
                    option="TensorQuantOverrides",
                )
            request.readers.add(node.name)

    def _settle(self, name: str, request: _Request, default: _Type) -> None:
        """Write down in which type a tensor is made, and which readers get another."""
        everyone = {node.name for node in self.consumers.get(name, ())}
        made = request.made or _Type.of((self.overrides.get(name) or [{}])[0], default.quant_type)
        if request.read is None:
            self._convert(name, made, default, everyone)
        elif not made.agrees(request.read):
            self._convert(name, made, request.read, request.readers)
        elif request.made is None:
            self._refuse_converted(name, request.readers)
        else:
            self._convert(name, made, default, everyone - request.readers)

    def _convert(self, name: str, made: _Type, read: _Type, readers: set[str]) -> None:
        if not self.overrides.get(name):
            self.overrides[name] = [made.entry()]
        entry = self.overrides[name][0]
        if not made.agrees(_Type.of(entry, made.quant_type)):
            raise _contradiction(name, "it should be made", _Type.of(entry), made)
        if readers:
            conversion = entry.setdefault("convert", read.entry())
            if not read.agrees(_Type.of(conversion)):
                raise _contradiction(name, "it should be converted", _Type.of(conversion), read)
            conversion.setdefault("recv_nodes", set()).update(readers)

    def _refuse_converted(self, name: str, readers: set[str]) -> None:
        conversion = (self.overrides.get(name) or [{}])[0].get("convert")
        if conversion is not None and not readers.isdisjoint(conversion.get("recv_nodes", readers)):
            raise OptionError(
                f"TensorQuantOverrides converts {name!r} for nodes that need it as it is made: {sorted(readers)}; take "
                "them out of its recv_nodes",
                option="TensorQuantOverrides",
            )

    def _is_float(self, name: str) -> bool:
        if name in self.initializers:
            return self.initializers[name].data_type in _FLOATS
        info = self.value_infos.get(name)
        return info is not None and info.type.tensor_type.elem_type in _FLOATS


def _contradiction(name: str, what: str, one: _Type, other: _Type) -> OptionError:
    return OptionError(
        f"TensorQuantOverrides contradict each other at tensor {name!r}: {what} in {one.entry()} and in "
        f"{other.entry()}; give the tensors around one node one type",
        option="TensorQuantOverrides",
    )
