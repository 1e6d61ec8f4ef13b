"""Average poolings over many elements as two over fewer: devices add up a limited number at a time."""

import itertools
import math
from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.graph.edit import make_node, replace_node
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs

MOST_ELEMENTS = 512
"""Elements that the accumulator of AMD's NPU averages at once."""

_PLAIN_PADS = frozenset({"NOTSET", "VALID", ""})


@dataclass(frozen=True, slots=True)
class _Window:
    """The windows of an average pooling along its spatial axes; one without strides stands alone on its axis."""

    kernel: tuple[int, ...]
    strides: tuple[int | None, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.kernel)


def split_large_pools(model: ir.Model, *, most: int = MOST_ELEMENTS) -> int:
    """Split average poolings over more than ``most`` elements in two, again where needed; return how many. Bodies too.

    The mean of equal groups' means is the mean of all, up to rounding; so the kernel must be a product, side by side,
    of two smaller ones, of which the first also divides the strides: a prime side of more than ``most`` stays. Covers
    GlobalAveragePool of known spatial sizes, and AveragePool without pads, dilations and ``ceil_mode``.
    """
    names = NameAllocator.of(model)
    pending = [node for graph in nested_graphs(model.graph) for node in graph]
    count = 0
    while pending:
        node = pending.pop()
        window = _window(node)
        first = None if window is None or window.elements <= most else _first_kernel(window)
        if window is not None and first is not None:
            pending.extend(_split(node, window, first, names))
            count += 1
    return count


def _window(node: ir.Node) -> _Window | None:
    x = node.inputs[0] if node.inputs else None
    if node.domain or x is None or x.shape is None or len(x.shape) < 3:
        return None
    sizes = [size if isinstance(size, int) else None for size in x.shape[2:]]
    if node.op_type == "GlobalAveragePool":
        known = [size for size in sizes if size is not None]
        return _Window(tuple(known), (None,) * len(known)) if len(known) == len(sizes) else None
    if node.op_type != "AveragePool" or not _is_plain(node):
        return None
    kernel = node.attributes.get_ints("kernel_shape", ())
    strides = node.attributes.get_ints("strides") or [1] * len(kernel)
    alone = [None if size == side else stride for size, side, stride in zip(sizes, kernel, strides, strict=True)]
    return _Window(tuple(kernel), tuple(alone))


def _is_plain(node: ir.Node) -> bool:
    attributes = node.attributes
    padded = any(attributes.get_ints("pads", ())) or attributes.get_string("auto_pad", "NOTSET") not in _PLAIN_PADS
    dilated = any(step != 1 for step in attributes.get_ints("dilations", ()))
    return not (padded or dilated or int_attribute(node, "ceil_mode", 0))


def _first_kernel(window: _Window) -> tuple[int, ...] | None:
    """The first of two kernels, of the product whose larger factor is smallest; None if the kernel is no product."""
    sides = [_divisors(k if s is None else math.gcd(k, s)) for k, s in zip(window.kernel, window.strides, strict=True)]
    first = min(itertools.product(*sides), key=lambda one: max(math.prod(one), window.elements // math.prod(one)))
    return first if 1 < math.prod(first) < window.elements else None


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _split(node: ir.Node, window: _Window, first: tuple[int, ...], names: NameAllocator) -> list[ir.Node]:
    x = node.inputs[0]
    means = make_node(names, "AveragePool", [x], {"kernel_shape": first, "strides": first})
    value = means.outputs[0]
    if x is not None and x.shape is not None:
        value.type = x.type
        sizes = (size // side if isinstance(size, int) else None for size, side in zip(x.shape[2:], first, strict=True))
        value.shape = ir.Shape([*x.shape[:2], *sizes])
    rest = make_node(names, node.op_type, [value], _rest(node, window, first))
    replace_node(node, [means, rest], names)
    return [means, rest]


def _rest(node: ir.Node, window: _Window, first: tuple[int, ...]) -> dict[str, list[int]]:
    """Attributes of the second pooling, over the first one's means; none of a global one."""
    if node.op_type == "GlobalAveragePool":
        return {}
    kernel = [side // done for side, done in zip(window.kernel, first, strict=True)]
    strides = [1 if stride is None else stride // done for stride, done in zip(window.strides, first, strict=True)]
    return {"kernel_shape": kernel, "strides": strides}
