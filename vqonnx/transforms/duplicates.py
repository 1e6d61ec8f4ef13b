"""Constants of equal content become one."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.transforms.constants import LAZY_ABOVE

_SAMPLE = 64
_DIGEST_BYTES = 32


def merge_duplicate_initializers(model: ir.Model) -> int:
    """Let readers of equal initializers of the main graph share the first one; return how many went.

    Equal means: same type, same shape, same bytes. Most tensors are told apart by type, shape and a few of
    their bytes, so that a large model is not read through. Inputs, outputs, strings and large tensors that are
    computed at each use are left alone. (The passes of onnx_ir 1.1 keep or hash every tensor.)
    """
    names = NameAllocator.of(model)
    groups: list[list[ir.Value]] = [[value for value in model.graph.initializers.values() if _is_mergeable(value)]]
    keys: tuple[Callable[[ir.Value], Hashable], ...] = (_form, _sampled, _digest)
    for key in keys:
        groups = [part for group in groups for part in _split(group, key)]
    for first, *others in groups:
        for other in others:
            replace_uses(other, first, names)
            del model.graph.initializers[str(other.name)]
    return sum(len(group) - 1 for group in groups)


def _is_mergeable(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    computed = isinstance(tensor, ir.LazyTensor) and tensor.nbytes > LAZY_ABOVE
    return not (computed or value.is_graph_input() or value.is_graph_output())


def _split(values: Iterable[ir.Value], key: Callable[[ir.Value], Hashable]) -> Iterable[list[ir.Value]]:
    """The values that share a key with another one, grouped by it."""
    groups: dict[Hashable, list[ir.Value]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return (group for group in groups.values() if len(group) > 1)


def _form(value: ir.Value) -> Hashable:
    tensor = _tensor(value)
    return tensor.dtype, tuple(tensor.shape.numpy())


def _sampled(value: ir.Value) -> Hashable:
    content = _bytes(value)
    return content[:_SAMPLE].tobytes(), content[len(content) // 2 :][:_SAMPLE].tobytes(), content[-_SAMPLE:].tobytes()


def _digest(value: ir.Value) -> Hashable:
    # 256 bits of a cryptographic hash stand for the content: two tensors that collide are not to be had.
    return hashlib.blake2b(_bytes(value).data, digest_size=_DIGEST_BYTES).digest()


def _bytes(value: ir.Value) -> np.ndarray:
    """The tensor's memory, without a copy where it is contiguous; four-bit numbers take a byte each."""
    return np.ascontiguousarray(_tensor(value).numpy()).reshape(-1).view(np.uint8)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = value.const_value
    if tensor is None:  # pragma: no cover - _is_mergeable looked
        raise TypeError(f"initializer {value.name!r} has no tensor")
    return tensor
