"""A small network, and what it computes in float64 when tensors are rounded as a written model says."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from models.build import build
from vqonnx import quantize_static
from vqonnx.core.block_formats import BLOCK_FLOAT_FORMATS, MICROSCALING_FORMATS
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.kernels.formats.microscaling import round_to_microscaling

FLOATS = {
    "QFloat16": np.float16,
    "QBFloat16": ml_dtypes.bfloat16,
    "QFLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "QFLOAT8E5M2": ml_dtypes.float8_e5m2,
}
F64 = np.float64
Rounding = Callable[[np.ndarray, int], np.ndarray]
"""Rounds an array; the axis is that of blocks."""


def _weights() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes = {"a": (24, 6, 1, 1), "c": (24, 24, 1, 1), "f": (24, 10), "ab": (24,), "cb": (24,), "fb": (10,)}
    return {
        name: (rng.normal(size=shape) / (3 if len(shape) > 1 else 6)).astype(np.float32)
        for name, shape in shapes.items()
    }


WEIGHTS = _weights()
SAMPLES = [{"x": np.random.default_rng(i).normal(size=(4, 6, 5, 5)).astype(np.float32)} for i in range(12)]


def network() -> onnx.ModelProto:
    """Two pointwise Convs with a Relu between and a sum behind them, a pooling and a dense layer."""
    return build(
        """g (float[N, 6, 5, 5] x) => (float[N, 10] y) {
        p = Conv (x, a, ab)
        h = Relu (p)
        s = Conv (h, c, cb)
        t = Add (s, h)
        g = GlobalAveragePool (t)
        v = Flatten (g)
        y = Gemm (v, f, fb)
        }""",
        WEIGHTS,
    )


def simulate(x: np.ndarray, rounding: Mapping[str, Rounding]) -> np.ndarray:
    """The network in float64; ``rounding`` of each tensor by name, ``v_read`` being ``v`` as its reader converts it."""

    def r(name: str, values: np.ndarray, axis: int = 1) -> np.ndarray:
        return rounding[name](values, axis) if name in rounding else values

    def conv(values: np.ndarray, name: str) -> np.ndarray:
        weight, bias = r(name, WEIGHTS[name].astype(F64)), r(f"{name}b", WEIGHTS[f"{name}b"].astype(F64), 0)
        return np.einsum("nchw,oc->nohw", values, weight[:, :, 0, 0]) + bias[:, None, None]

    h = r("h", np.maximum(conv(r("x", x.astype(F64)), "a"), 0))
    t = r("t", r("s_read", r("s", conv(r("h_read", h), "c"))) + h)
    v = r("v_read", r("v", r("g", t.mean(axis=(2, 3)))))
    return r("y", v @ r("f", WEIGHTS["f"].astype(F64), 0) + r("fb", WEIGHTS["fb"].astype(F64), 0))


def written(path: Path, **arguments: Any) -> onnx.ModelProto:
    """What ``quantize_static`` writes, without what would change the network first."""
    options = {"IncludeCLE": False, **arguments.pop("extra_options", {})}
    quantize_static(
        network(), path, SAMPLES, equalize=False, extra_options=options,
        **{"bias_correction": "off", "verify": "checker", "progress": lambda *_: None, "target": "vitis", **arguments},
    )  # fmt: skip
    return onnx.load(path)


def rounding_of(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, Rounding]:
    """The rounding to integers or float8 of tensors whose scales the model has."""
    constants = {one.name: one for one in model.graph.initializer}
    found = {name: _numbers(constants, name) for name in names}
    return {name: _affine(*numbers) for name, numbers in found.items() if numbers}


def _numbers(constants: Mapping[str, onnx.TensorProto], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and zero point. What Flatten gives may have its input's; a converted form ends in its type."""
    base, _, converted = name.partition("_")
    ends = ("scale_convert", "zero_point_convert") if converted else ("scale", "zero_point")
    for holder in (base, {"v": "g"}.get(base)):
        if f"{holder}_{ends[0]}" in constants:
            scale, zero = (onnx.numpy_helper.to_array(constants[f"{holder}_{end}"]) for end in ends)
            return scale.astype(F64), zero
    return None


def _affine(scale: np.ndarray, zero: np.ndarray) -> Rounding:
    def rounded(values: np.ndarray, axis: int) -> np.ndarray:
        s = scale.reshape(-1, *[1] * (values.ndim - 1)) if scale.ndim else scale
        if zero.dtype.kind == "V" or zero.dtype.name.startswith("float8"):
            largest = float(ml_dtypes.finfo(zero.dtype).max)
            return np.clip(values / s, -largest, largest).astype(np.float32).astype(zero.dtype).astype(F64) * s
        ends, z = np.iinfo(zero.dtype), zero.astype(F64).reshape(np.shape(s))
        return (np.clip(np.rint(values / s) + z, ends.min, ends.max) - z) * s

    return rounded


def cast(dtype: Any) -> Rounding:
    """Rounds to a 16-bit float."""
    return lambda values, axis: values.astype(np.float32).astype(dtype).astype(F64)


def blocks(name: str) -> Rounding:
    """Rounds to a block format."""
    if name in BLOCK_FLOAT_FORMATS:
        return lambda values, axis: round_to_block_float(
            np.asarray(values, np.float32), BLOCK_FLOAT_FORMATS[name], axis
        ).astype(F64)
    return lambda values, axis: round_to_microscaling(
        np.asarray(values, np.float32), MICROSCALING_FORMATS[name], axis
    ).astype(F64)
