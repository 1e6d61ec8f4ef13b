"""A one-node model for every operator of the QOperator form, with its meaning in numpy, float64."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view

from models.build import build

Array = Any
Function = Callable[..., Array]
_RNG = np.random.default_rng(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One node.

    Attributes:
        text: The node's right side; its inputs are ``x``, ``x2`` … (fed), and constants.
        shapes: Shapes of the fed float inputs.
        result: Shape of the result.
        numpy: What it computes, from the float64 inputs in order and the float64 constants.
        constants: By name.
        domains: Other operator domains.
        result_type: Element type of the result.
    """

    text: str
    shapes: tuple[tuple[int, ...], ...]
    result: tuple[int, ...]
    numpy: Function
    constants: Mapping[str, Array] = field(default_factory=dict)
    domains: Mapping[str, int] = field(default_factory=dict)
    result_type: str = "float"

    @property
    def op_type(self) -> str:
        """Its operator, as targets spell it."""
        return self.text.split()[0].replace("com.microsoft.", "com.microsoft::")

    @property
    def names(self) -> list[str]:
        """Its fed inputs."""
        return ["x", "x2"][: len(self.shapes)]

    def model(self) -> onnx.ModelProto:
        """A model of that node alone."""
        inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in zip(self.names, self.shapes, strict=True))
        text = f"g ({inputs}) => ({self.result_type}{list(self.result)} y) {{\ny = {self.text}\n}}"
        return build(text, self.constants, domains=self.domains, opset=18)

    def feeds(self, count: int = 4) -> list[dict[str, Array]]:
        """Random inputs."""
        rng = np.random.default_rng(1)
        pairs = list(zip(self.names, self.shapes, strict=True))
        return [{name: rng.normal(size=shape).astype(np.float32) for name, shape in pairs} for _ in range(count)]


def _normal(*shape: int) -> Array:
    return _RNG.normal(0, 0.5, shape).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.asarray(values, np.int64)


def _conv(x: Array, w: Array, b: Array | None = None, pad: int = 0, groups: int = 1) -> Array:
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    parts = [
        np.einsum("nchwij,ocij->nohw", sliding_window_view(part, w.shape[2:], (2, 3)), kernel)
        for part, kernel in zip(np.split(x, groups, 1), np.split(w, groups), strict=True)
    ]
    return np.concatenate(parts, 1) + (0 if b is None else b[:, None, None])


def _pooled(x: Array, pad: int, size: int, how: Callable[..., Array], fill: float) -> Array:
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=fill)
    return how(sliding_window_view(x, (size, size), (2, 3)), axis=(4, 5))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _attention(x: Array, w: Array, b: Array) -> Array:
    heads = [part.reshape(2, 5, 2, 4).transpose(0, 2, 1, 3) for part in np.split(x @ w + b, 3, -1)]
    query, key, value = heads
    mixed = _softmax(query @ key.swapaxes(2, 3) / 2) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(2, 5, 8)


_W = {"w": _normal(6, 4, 3, 3), "b": _normal(6)}
_IMAGE = ((2, 4, 6, 6),)

CASES: dict[str, Case] = {
    "conv": Case(
        text="Conv <pads = [1, 1, 1, 1]> (x, w, b)", shapes=_IMAGE, result=(2, 6, 6, 6), constants=_W,
        numpy=lambda x, w, b: _conv(x, w, b, pad=1),
    ),
    "conv, no bias, groups": Case(
        text="Conv <group = 2> (x, w)", shapes=_IMAGE, result=(2, 6, 4, 4), constants={"w": _normal(6, 2, 3, 3)},
        numpy=lambda x, w: _conv(x, w, groups=2),
    ),
    "conv, depthwise": Case(
        text="Conv <group = 4> (x, w, b)", shapes=_IMAGE, result=(2, 4, 4, 4),
        constants={"w": _normal(4, 1, 3, 3), "b": _normal(4)}, numpy=lambda x, w, b: _conv(x, w, b, groups=4),
    ),
    "gemm": Case(
        text="Gemm (x, w, b)", shapes=((3, 8),), result=(3, 5), constants={"w": _normal(8, 5), "b": _normal(5)},
        numpy=lambda x, w, b: x @ w + b,
    ),
    "gemm, transposed": Case(
        text="Gemm <transA = 1, transB = 1> (x, w)", shapes=((8, 3),), result=(3, 5), constants={"w": _normal(5, 8)},
        numpy=lambda x, w: x.T @ w.T,
    ),
    "matmul": Case(
        text="MatMul (x, w)", shapes=((2, 3, 8),), result=(2, 3, 5), constants={"w": _normal(8, 5)},
        numpy=np.matmul,
    ),
    "matmul, batched weight": Case(
        text="MatMul (x, w)", shapes=((2, 3, 8),), result=(2, 3, 5), constants={"w": _normal(2, 8, 5)},
        numpy=np.matmul,
    ),
    "attention": Case(
        text="com.microsoft.Attention <num_heads = 2> (x, w, b)", shapes=((2, 5, 8),), result=(2, 5, 8),
        constants={"w": _normal(8, 24), "b": _normal(24)}, domains={"com.microsoft": 1}, numpy=_attention,
    ),
    "add": Case(text="Add (x, x2)", shapes=((2, 3, 4), (3, 1)), result=(2, 3, 4), numpy=np.add),
    "add, constant": Case(
        text="Add (c, x)", shapes=((2, 3, 4),), result=(2, 3, 4), constants={"c": _normal(4)}, numpy=np.add
    ),
    "mul": Case(text="Mul (x, x2)", shapes=((2, 3, 4), (4,)), result=(2, 3, 4), numpy=np.multiply),
    "sigmoid": Case(text="Sigmoid (x)", shapes=((2, 9),), result=(2, 9), numpy=lambda x: 1 / (1 + np.exp(-x))),
    "leaky relu": Case(
        text="LeakyRelu <alpha = 0.2> (x)", shapes=((2, 9),), result=(2, 9), numpy=lambda x: np.where(x < 0, 0.2 * x, x)
    ),
    "leaky relu, default slope": Case(
        text="LeakyRelu (x)", shapes=((2, 9),), result=(2, 9), numpy=lambda x: np.where(x < 0, 0.01 * x, x)
    ),
    "global average": Case(
        text="GlobalAveragePool (x)", shapes=_IMAGE, result=(2, 4, 1, 1), numpy=lambda x: x.mean((2, 3), keepdims=True)
    ),
    "average, padding counted": Case(
        text="AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)", shapes=_IMAGE,
        result=(2, 4, 6, 6), numpy=lambda x: _pooled(x, 1, 3, np.mean, 0),
    ),
    "average": Case(
        text="AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", shapes=_IMAGE, result=(2, 4, 6, 6),
        numpy=lambda x: _pooled(x, 1, 3, np.nanmean, np.nan),
    ),
    "softmax": Case(text="Softmax (x)", shapes=((2, 3, 5),), result=(2, 3, 5), numpy=_softmax),
    "concat": Case(
        text="Concat <axis = 1> (x, c, x2)", shapes=((2, 3), (2, 1)), result=(2, 6), constants={"c": 4 * _normal(2, 2)},
        numpy=lambda x, x2, c: np.concatenate([x, c, x2], 1),
    ),
    "where": Case(
        text="Where (k, x, x2)", shapes=((2, 4), (4,)), result=(2, 4), numpy=lambda x, x2, k: np.where(k, x, x2),
        constants={"k": np.asarray([[True], [False]])},
    ),
    "pad": Case(
        text="Pad (x, p)", shapes=((2, 3),), result=(3, 6), constants={"p": _ints(1, 2, 0, 1)},
        numpy=lambda x, p: np.pad(x, [(1, 0), (2, 1)]),
    ),
    "pad, zero, axes": Case(
        text="Pad (x, p, z, a)", shapes=((2, 3),), result=(2, 6), numpy=lambda x, *_: np.pad(x, [(0, 0), (2, 1)]),
        constants={"p": _ints(2, 1), "z": np.float32(0), "a": _ints(1)},
    ),
    "pad, reflected": Case(
        text='Pad <mode = "reflect"> (x, p)', shapes=((2, 3),), result=(2, 6), constants={"p": _ints(0, 2, 0, 1)},
        numpy=lambda x, p: np.pad(x, [(0, 0), (2, 1)], mode="reflect"),
    ),
    "max pool": Case(
        text="MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", shapes=_IMAGE, result=(2, 4, 6, 6),
        numpy=lambda x: _pooled(x, 1, 3, np.max, -np.inf),
    ),
    "nearest": Case(
        text='Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric"> (x, , s)', shapes=_IMAGE,
        result=(2, 4, 6, 12), constants={"s": np.asarray([1, 1, 1, 2], np.float32)},
        numpy=lambda x, s: x.repeat(2, -1),
    ),
    "reshape": Case(
        text="Reshape (x, s)", shapes=((2, 6),), result=(3, 4), constants={"s": _ints(3, -1)},
        numpy=lambda x, s: x.reshape(3, 4),
    ),
    "flatten": Case(text="Flatten (x)", shapes=((2, 3, 4),), result=(2, 12), numpy=lambda x: x.reshape(2, 12)),
    "transpose": Case(
        text="Transpose <perm = [1, 2, 0]> (x)", shapes=((2, 3, 4),), result=(3, 4, 2),
        numpy=lambda x: x.transpose(1, 2, 0),
    ),
    "squeeze": Case(
        text="Squeeze (x, a)", shapes=((2, 1, 4),), result=(2, 4), constants={"a": _ints(1)}, numpy=lambda x, a: x[:, 0]
    ),
    "unsqueeze": Case(
        text="Unsqueeze (x, a)", shapes=((2, 4),), result=(2, 1, 4), constants={"a": _ints(1)},
        numpy=lambda x, a: x[:, None],
    ),
    "slice": Case(
        text="Slice (x, s, e, a)", shapes=((5, 6),), result=(5, 2), numpy=lambda x, *_: x[:, 1:3],
        constants={"s": _ints(1), "e": _ints(3), "a": _ints(1)},
    ),
    "gather": Case(
        text="Gather <axis = 1> (x, i)", shapes=((5, 6),), result=(5, 2), constants={"i": _ints(4, 0)},
        numpy=lambda x, i: x[:, i],
    ),
    "gather elements": Case(
        text="GatherElements <axis = 1> (x, i)", shapes=((2, 3),), result=(2, 1), constants={"i": _ints(2, 0)[:, None]},
        numpy=lambda x, i: np.take_along_axis(x, i, 1),
    ),
    "expand": Case(
        text="Expand (x, s)", shapes=((3, 1),), result=(3, 4), constants={"s": _ints(3, 4)},
        numpy=lambda x, s: np.broadcast_to(x, (3, 4)),
    ),
    "identity": Case(text="Identity (x)", shapes=((3, 2),), result=(3, 2), numpy=lambda x: x),
    "depth to space": Case(
        text='DepthToSpace <blocksize = 2, mode = "CRD"> (x)', shapes=((1, 4, 2, 3),), result=(1, 1, 4, 6),
        numpy=lambda x: x.reshape(1, 1, 2, 2, 2, 3).transpose(0, 1, 4, 2, 5, 3).reshape(1, 1, 4, 6),
    ),
    "split": Case(text="Split <num_outputs = 1> (x)", shapes=((3, 2),), result=(3, 2), numpy=lambda x: x),
    "arg max": Case(
        text="ArgMax <axis = 1, keepdims = 0> (x)", shapes=((4, 9),), result=(4,), result_type="int64",
        numpy=lambda x: x.argmax(1),
    ),
}  # fmt: skip
