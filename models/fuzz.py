"""Random valid graphs: ``random_case(seed)`` is a model with feeds, the same for the same seed.

Operators come in the form of the graph's opset (9 to 21). Shapes are known to the generator, so that every graph runs;
tensors are read again, weights shared, initializers written in roundabout ways, and inner tensors put out.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from models.registry import Case
from models.sketch import BATCH, Sketch, Tensor, Typed

_MOST_NODES = 12
_MOST_ELEMENTS = 4096
"""Of one sample; what grows larger is not read again."""
_START = ((3, 8, 8), (4, 6, 5), (8, 7, 7), (6, 8), (5, 16), (16,), (12,))

Operator = Callable[[Sketch, Tensor], object]


def random_case(seed: int) -> Case:
    """The case of this seed."""
    return Case(
        name=f"fuzz/{seed}", build=partial(_copied, seed), what="drawn at random", sizes={BATCH: (1, 3, 2), "S": 4}
    )


def _copied(seed: int) -> Any:
    copy = type(_drawn(seed))()
    copy.CopyFrom(_drawn(seed))
    return copy


@cache
def _drawn(seed: int) -> Any:
    sketch = Sketch(seed)
    for _ in range(int(sketch.rng.integers(1, 3))):
        sketch.input(sketch.pick(_START))
    for _ in range(int(sketch.rng.integers(2, _MOST_NODES + 1))):
        small = [one for one in sketch.pool if one.size <= _MOST_ELEMENTS]
        recent = small[-3:] if sketch.chance(0.7) else small
        tensor = sketch.pick(recent)
        sketch.pick(_fitting(len(tensor.shape)))(sketch, tensor)
    return sketch.model()


def _fitting(rank: int) -> Sequence[Operator]:
    return (*_ANY, *_BY_RANK.get(rank, ()))


# ---- products ----


def _conv(s: Sketch, x: Tensor) -> None:
    channels, *sizes = x.shape
    groups = s.pick([g for g in (1, 1, 2, channels) if channels % g == 0])
    kernel = s.pick([k for k in (1, 2, 3) if k <= min(sizes)])
    stride, pad = s.pick((1, 1, 2)), s.pick((0, kernel // 2))
    out = groups * s.pick((1, 2, 4))
    weight = s.weight((out, channels // groups, kernel, kernel))
    bias = [s.weight((out,), gain=0.1)] if s.chance(0.6) else []
    shape = (out, *((size + 2 * pad - kernel) // stride + 1 for size in sizes))
    s.node("Conv", [x.name, weight, *bias], shape, group=groups, strides=[stride] * 2, pads=[pad] * 4)


def _conv_transpose(s: Sketch, x: Tensor) -> None:
    channels, *sizes = x.shape
    groups = s.pick([g for g in (1, 1, 2, channels) if channels % g == 0])
    kernel, stride = s.pick((2, 3)), s.pick((1, 2))
    out = s.pick((1, 2, 3))
    weight = s.weight((channels, out, kernel, kernel), fan_in=channels // groups * kernel)
    bias = [s.weight((out * groups,), gain=0.1)] if s.chance(0.6) else []
    shape = (out * groups, *((size - 1) * stride + kernel for size in sizes))
    attributes = {"group": groups} if groups > 1 else {}
    s.node("ConvTranspose", [x.name, weight, *bias], shape, strides=[stride] * 2, **attributes)


def _matmul(s: Sketch, x: Tensor) -> None:
    *front, depth = x.shape
    out = s.pick((3, 8, 16))
    shape: tuple[int, ...] = (depth, out)
    if len(front) == 2 and s.chance(0.3):
        shape = (s.pick((1, front[0])), depth, out)
    product = s.node("MatMul", [x.name, s.weight(shape, fan_in=depth)], (*front, out))
    if s.chance(0.6):
        operands = [product.name, s.weight((out,), gain=0.1)]
        s.node("Add", operands[:: s.pick((1, -1))], product.shape)


def _gemm(s: Sketch, x: Tensor) -> None:
    (depth,) = x.shape
    out, turned = s.pick((3, 8, depth)), s.pick((0, 1))
    weight = s.weight((out, depth) if turned else (depth, out), fan_in=depth)
    bias = [s.weight(s.pick(((out,), (1, out), (1,), ())), gain=0.1)] if s.chance(0.7) else []
    factors = {"alpha": s.pick((1.0, 0.5, -2.0)), "beta": s.pick((1.0, 0.25, 0.0))} if s.chance(0.3) else {}
    if s.opset < 11 and not bias:
        bias = [s.weight((out,), gain=0.1)]  # C became optional with opset 11
    s.node("Gemm", [x.name, weight, *bias], (out,), transB=turned, **factors)


def _attention(s: Sketch, x: Tensor) -> None:
    *front, rows, depth = x.shape
    perm = [*range(len(x.shape) - 1), len(x.shape), len(x.shape) - 1]
    turned = s.node("Transpose", [x.name], (*front, depth, rows), perm=perm)
    scores = s.node("MatMul", [x.name, turned.name], (*front, rows, rows))
    weights = s.node("Softmax", [scores.name], scores.shape, axis=len(x.shape))
    s.node("MatMul", [weights.name, x.name], x.shape)


# ---- one element at a time ----


def _unary(s: Sketch, x: Tensor) -> None:
    names = ["Relu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Abs", "Neg", "Erf", "Softplus"]
    names += ["Identity", "Dropout"] + ["HardSwish"] * (s.opset >= 14) + ["Gelu"] * (s.opset >= 20)
    s.node(s.pick(names), [x.name], x.shape)


def _clip(s: Sketch, x: Tensor) -> None:
    low, high = s.pick(((0, 6), (1, 3), (-3, -1), (-0.5, 0.5), (0, None), (None, 1)))
    if s.opset < 11:
        s.node("Clip", [x.name], x.shape, **{k: float(v) for k, v in (("min", low), ("max", high)) if v is not None})
    else:
        s.node("Clip", [x.name, *("" if b is None else s.constant(b, s.dtype) for b in (low, high))], x.shape)


def _with_constant(s: Sketch, x: Tensor) -> None:
    operator = s.pick(("Add", "Sub", "Mul", "Div"))
    shape = s.pick(((), (1,), x.shape, (x.shape[0],) + (1,) * (len(x.shape) - 1), (1, *x.shape[1:])))
    values = s.rng.normal(0, 0.5, shape) + (0 if operator in ("Add", "Sub") else np.sign(s.rng.normal()) * 2.5)
    constant = s.constant(values, s.dtype)
    swapped = operator != "Div" and s.chance(0.3)
    s.node(operator, [constant, x.name] if swapped else [x.name, constant], x.shape)


def _with_tensor(s: Sketch, x: Tensor) -> None:
    other = s.pick([one for one in s.pool if one.shape == x.shape])
    s.node(s.pick(("Add", "Sub", "Mul")), [x.name, other.name], x.shape)


def _quotient(s: Sketch, x: Tensor) -> None:
    above = s.node("Abs", [x.name], x.shape)
    below = s.node("Add", [above.name, s.constant([1.0], s.dtype)], x.shape)
    s.node("Div", [x.name, below.name], x.shape)


def _double(s: Sketch, x: Tensor) -> None:
    wide, half = s.name("d"), s.name("d")
    s.plain("Cast", [x.name], [wide], to=11)
    s.plain("Mul", [wide, s.constant(0.5, np.float64)], [half])
    s.node("Cast", [half], x.shape, to=10 if s.dtype == np.float16 else 1)


def _where(s: Sketch, x: Tensor) -> None:
    above = s.name("m")
    s.plain("Greater", [x.name, s.constant(0.1, s.dtype)], [above])
    s.node("Where", [above, x.name, s.constant(-0.3, s.dtype)], x.shape)


# ---- bodies, functions, recurrence ----


def _if(s: Sketch, x: Tensor) -> None:
    def branch() -> Any:
        if s.chance(0.5):
            node = s.inner(s.pick(("Mul", "Add")), x.name, s.weight((1,)))
            return s.body([node], node.output)
        product = s.inner("MatMul", x.name, s.weight((x.shape[-1], x.shape[-1])))
        last = s.inner(s.pick(("Relu", "Tanh")), *product.output)
        return s.body([product, last], last.output)

    s.node("If", [s.flag()], x.shape, then_branch=branch(), else_branch=branch())


def _loop(s: Sketch, x: Tensor) -> None:
    trip, go, value = (s.name(stem) for stem in ("trip", "go", "carried"))
    product = s.inner("MatMul", value, s.weight((x.shape[-1], x.shape[-1])))
    last, further = s.inner("Tanh", *product.output), s.inner("Identity", go)
    body = s.body(
        [product, last, further],
        [(further.output[0], np.bool_, []), last.output[0]],
        [(trip, np.int64, []), (go, np.bool_, []), value],
    )
    s.node("Loop", [s.constant(s.pick((1, 3))), s.constant(True, np.bool_), x.name], x.shape, body=body)


def _scan(s: Sketch, x: Tensor) -> None:
    """Running sums over axis 1 of [N, S, D] of what a product makes of each slice."""
    rows, start, last, sums = (s.name(stem) for stem in ("rows", "start", "last", "sums"))
    axes: tuple[list[str], dict[str, Any]] = ([s.constant([0])], {}) if s.opset >= 13 else ([], {"axes": [0]})
    s.plain("Transpose", [x.name], [rows], perm=[1, 0, 2])
    s.plain("ReduceSum", [rows, *axes[0]], [start], keepdims=0, **axes[1])
    total, part = s.name("total"), s.name("part")
    product = s.inner("MatMul", part, s.weight((x.shape[-1], x.shape[-1])))
    added = s.inner("Add", total, *product.output)
    bent = s.inner("Tanh", *added.output)
    outputs: list[Typed] = [(node.output[0], s.dtype, ["rows", x.shape[-1]]) for node in (added, bent)]
    body = s.body([product, added, bent], outputs, [total, part])
    s.plain("Scan", [start, rows], [last, sums], body=body, num_scan_inputs=1)
    s.node("Transpose", [sums], x.shape, perm=[1, 0, 2])


def _function(s: Sketch, x: Tensor) -> None:
    out = s.pick((4, 8))
    weight = s.weight((x.shape[-1], out), fan_in=x.shape[-1])
    product = s.inner("MatMul", x.name, weight)
    last = s.inner(s.pick(("Relu", "Sigmoid")), *product.output)
    s.call([product, last], [x.name, weight], (*x.shape[:-1], out))


def _recurrent(s: Sketch, x: Tensor) -> None:
    """Over axis 1 of [N, S, D]; hidden states of all steps, both directions side by side."""
    steps, depth = x.shape
    operator, ways, hidden = s.pick(("LSTM", "GRU", "RNN")), s.pick((1, 2)), s.pick((3, 8))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator] * hidden
    weights = [s.weight((ways, gates, one), fan_in=one) for one in (depth, hidden)]
    bias = [s.weight((ways, 2 * gates), gain=0.1)] if s.chance(0.7) else []
    turned, states, level = (s.name("r") for _ in range(3))
    s.plain("Transpose", [x.name], [turned], perm=[1, 0, 2])
    s.plain(
        operator,
        [turned, *weights, *bias],
        [states],
        hidden_size=hidden,
        direction="forward" if ways == 1 else "bidirectional",
    )
    s.plain("Transpose", [states], [level], perm=[2, 0, 1, 3])
    s.node("Reshape", [level, s.constant([0, 0, -1])], (steps, ways * hidden))


# ---- whole axes ----


def _softmax(s: Sketch, x: Tensor) -> None:
    s.node("Softmax", [x.name], x.shape, axis=s.pick((len(x.shape), -1)) if s.opset >= 11 else len(x.shape))


def _batch_norm(s: Sketch, x: Tensor) -> None:
    channels = x.shape[:1]
    scale, shift, mean = (s.constant(s.rng.normal(m, 0.3, channels), s.dtype) for m in (1, 0, 0))
    variance = s.constant(s.rng.uniform(0.3, 2, channels), s.dtype)
    s.node("BatchNormalization", [x.name, scale, shift, mean, variance], x.shape)


def _layer_norm(s: Sketch, x: Tensor) -> None:
    scale, shift = s.constant(s.rng.normal(1, 0.3, x.shape[-1:]), s.dtype), s.weight(x.shape[-1:], gain=0.3)
    if s.opset >= 17 and s.chance(0.5):
        s.node("LayerNormalization", [x.name, scale, shift], x.shape)
        return
    rows = (*x.shape[:-1], 1)
    centred = s.node("Sub", [x.name, _mean(s, x, [-1], rows).name], x.shape)
    square = s.node("Mul", [centred.name, centred.name], x.shape)
    variance = s.node("Add", [_mean(s, square, [-1], rows).name, s.constant(1e-3, s.dtype)], rows)
    normal = s.node("Div", [centred.name, s.node("Sqrt", [variance.name], rows).name], x.shape)
    s.node("Add", [s.node("Mul", [normal.name, scale], x.shape).name, shift], x.shape)


def _mean(s: Sketch, x: Tensor, axes: list[int], shape: Sequence[int], *, keep: int = 1) -> Tensor:
    axes = axes if s.opset >= 11 else [axis % (len(x.shape) + 1) for axis in axes]
    if s.opset < 18:
        return s.node("ReduceMean", [x.name], shape, axes=axes, keepdims=keep)
    return s.node("ReduceMean", [x.name, s.constant(axes)], shape, keepdims=keep)


def _reduce_mean(s: Sketch, x: Tensor) -> None:
    axis = int(s.rng.integers(len(x.shape)))
    keep = 1 if len(x.shape) == 1 else s.pick((0, 1))
    shape = (*x.shape[:axis], *(1,) * keep, *x.shape[axis + 1 :])
    _mean(s, x, [axis + 1], shape, keep=keep)


# ---- images ----


def _pool(s: Sketch, x: Tensor) -> None:
    channels, *sizes = x.shape
    kernel = s.pick([k for k in (1, 2, 3) if k <= min(sizes)])
    stride, pad = s.pick((1, 2)), s.pick((0, kernel // 2)) if kernel > 1 else 0
    shape = (channels, *((size + 2 * pad - kernel) // stride + 1 for size in sizes))
    operator = s.pick(("MaxPool", "AveragePool"))
    counted = {"count_include_pad": s.pick((0, 1))} if operator == "AveragePool" else {}
    s.node(operator, [x.name], shape, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **counted)


def _global_pool(s: Sketch, x: Tensor) -> None:
    s.node(s.pick(("GlobalAveragePool", "GlobalMaxPool")), [x.name], (x.shape[0], 1, 1))


def _resize(s: Sketch, x: Tensor) -> None:
    scales = s.constant([1, 1, 2, 2], np.float32)
    shape = (x.shape[0], *(2 * size for size in x.shape[1:]))
    mode = s.pick(("nearest", "linear"))
    if s.opset < 11:
        s.node("Upsample" if s.opset < 10 else "Resize", [x.name, scales], shape, mode=mode)
        return
    roi = "" if s.opset >= 13 else s.constant([], np.float32)
    rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
    s.node("Resize", [x.name, roi, scales], shape, mode=mode, coordinate_transformation_mode="asymmetric", **rounding)


def _pad(s: Sketch, x: Tensor) -> None:
    mode = s.pick(("constant", "edge", "reflect") if min(x.shape[1:]) > 1 else ("constant", "edge"))
    pads = [0, 0, 1, 0, 0, 0, 0, 1]
    shape = (x.shape[0], x.shape[1] + 1, x.shape[2] + 1)
    value = s.pick((0.0, 1.5, -3.0))
    if s.opset < 11:
        s.node("Pad", [x.name], shape, pads=pads, mode=mode, value=value)
    else:
        s.node("Pad", [x.name, s.constant(pads), s.constant(value, s.dtype)], shape, mode=mode)


# ---- movers ----


def _transpose(s: Sketch, x: Tensor) -> None:
    order = s.rng.permutation(len(x.shape))
    s.node("Transpose", [x.name], [x.shape[i] for i in order], perm=[0, *(int(i) + 1 for i in order)])


def _reshape(s: Sketch, x: Tensor) -> None:
    if s.chance(0.3):
        s.node("Flatten", [x.name], (x.size,))
        return
    divisors = [d for d in (1, 2, 4, 8) if x.size % d == 0]
    first = s.pick(divisors)
    shape = s.pick(((x.size,), (first, x.size // first)))
    s.node("Reshape", [x.name, s.constant([0, *shape[:-1], -1])], shape)


def _squeeze(s: Sketch, x: Tensor) -> None:
    def axes() -> tuple[list[str], dict[str, list[int]]]:
        return ([], {"axes": [1]}) if s.opset < 13 else ([s.constant([1])], {})

    inputs, attributes = axes()
    wide = s.node("Unsqueeze", [x.name, *inputs], (1, *x.shape), **attributes)
    if s.chance(0.5):
        inputs, attributes = axes()
        s.node("Squeeze", [wide.name, *inputs], x.shape, **attributes)


def _slice(s: Sketch, x: Tensor) -> None:
    axis = int(s.rng.integers(len(x.shape)))
    stop = int(s.rng.integers(1, x.shape[axis] + 1))
    shape = (*x.shape[:axis], stop, *x.shape[axis + 1 :])
    if s.opset < 10:
        s.node("Slice", [x.name], shape, starts=[0], ends=[stop], axes=[axis + 1])
    else:
        s.node("Slice", [x.name, s.constant([0]), s.constant([stop]), s.constant([axis + 1])], shape)


def _gather(s: Sketch, x: Tensor) -> None:
    axis, count = int(s.rng.integers(len(x.shape))), s.pick((1, 2, 5))
    picked = s.constant(s.rng.integers(0, x.shape[axis], count))
    s.node("Gather", [x.name, picked], (*x.shape[:axis], count, *x.shape[axis + 1 :]), axis=axis + 1)


def _concat(s: Sketch, x: Tensor) -> None:
    axis = int(s.rng.integers(len(x.shape)))

    def rest(tensor: Tensor) -> tuple[int, ...]:
        return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])

    fitting = [one for one in s.pool if len(one.shape) == len(x.shape) and rest(one) == rest(x)]
    parts = [x, *(s.pick(fitting) for _ in range(s.pick((1, 2))))]
    total = sum(part.shape[axis] for part in parts)
    shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
    s.node("Concat", [part.name for part in parts], shape, axis=axis + 1)


def _split(s: Sketch, x: Tensor) -> None:
    axis = int(s.rng.integers(len(x.shape)))
    if x.shape[axis] < 2:
        return
    sizes = [int(s.rng.integers(1, x.shape[axis]))]
    sizes.append(x.shape[axis] - sizes[0])
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    if s.opset < 13:
        s.nodes("Split", [x.name], shapes, axis=axis + 1, split=sizes)
    else:
        s.nodes("Split", [x.name, s.constant(sizes)], shapes, axis=axis + 1)


_ANY: tuple[Operator, ...] = (
    *(_unary,) * 5,
    *(_clip, _clip, _with_constant, _with_constant, _with_tensor, _with_tensor, _quotient, _double, _where),
    *(_if, _loop, _function),
    *(_softmax, _reduce_mean, _transpose, _reshape, _squeeze, _slice, _gather, _concat, _split, _matmul),
)
_BY_RANK: dict[int, tuple[Operator, ...]] = {
    1: (_gemm,) * 8,
    2: (*(_matmul,) * 4, _recurrent, _scan, _attention, _layer_norm, _layer_norm, _batch_norm),
    3: (*(_conv,) * 8, *(_conv_transpose,) * 2, _pool, _pool, _global_pool, _resize, _pad, _batch_norm, _attention),
}
