"""Models that were damaged, or made to harm: refused, or read in memory that what they hold explains."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from models.build import build
from tests.faults.flow import CASES
from vqonnx.errors import VqonnxError
from vqonnx.graph.io import load, save
from vqonnx.stages.prepare import prepare
from vqonnx.stages.weights.prepare import prepare_weights

_MIB = 1 << 20


@pytest.mark.parametrize(
    "name", ["networks/residual_cnn", "control/if", "control/function", "sharing/both_ways", "constants/sparse"]
)
def test_a_file_with_damaged_bytes_is_read_or_refused(name: str, tmp_path: Path) -> None:
    whole, rng, path = CASES[name].build().SerializeToString(), np.random.default_rng(7), tmp_path / "m.onnx"
    refused = 0
    for _ in range(60):
        path.write_bytes(damaged(whole, rng))
        try:
            save(prepare(load(path)).model, tmp_path / "out.onnx")
        except VqonnxError:
            refused += 1
    assert refused > 0


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes replaced, left out or put in."""
    content = bytearray(whole)
    for _ in range(int(rng.integers(1, 4))):
        place, length = int(rng.integers(len(content))), int(rng.integers(0, 3))
        content[place : place + length] = rng.bytes(int(rng.integers(0, 3)))
    return bytes(content)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    model = build("g (float[4] x) => (float[4] y) { inner_value = Relu (x) y = Neg (inner_value) }")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"inner_value", b"inner\xff_alue"))
    with pytest.raises(VqonnxError):
        prepare(load(tmp_path / "m.onnx"))


BOMBS = {
    "shape": "c = ConstantOfShape (huge)",
    "expand": "c = Expand (one, huge)",
    "tile": "c = Tile (one, huge)",
    "pad": "c = Pad (one, wide)",
    "range": "i = Range (zero, top, step) c = Cast <to = 1> (i)",
    "product": "a = Expand (one, tall) b = Expand (one, flat) c = Mul (a, b)",
    "codes": "a = ConstantOfShape (huge) q = Cast <to = 3> (a) c = DequantizeLinear (q, fine)",
    "one_hot": "c = OneHot <axis = -1> (ids, depth, pair)",
    "random": "c = RandomNormal <shape = [1048576, 1048576]> ()",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_constant_that_unfolds_to_gigabytes_is_not_computed(bomb: str) -> None:
    arrays = {
        "w": np.eye(16, dtype=np.float32),
        "one": np.ones((1, 1), np.float32),
        "huge": np.array([1 << 17, 1 << 17]),
        "wide": np.array([1 << 16, 1 << 16, 0, 0]),
        "tall": np.array([1 << 18, 1]),
        "flat": np.array([1, 1 << 18]),
        "zero": np.array(0),
        "top": np.array(1 << 40),
        "step": np.array(1),
        "fine": np.array(0.1, np.float32),
        "ids": np.arange(1000),
        "depth": np.array(1 << 30),
        "pair": np.array([0, 1], np.float32),
    }
    text = f"""g (float[N, 16] x) => (float[N, 16] y, float z) {{
        y = MatMul (x, w)
        {BOMBS[bomb]}
        z = ReduceMax <keepdims = 0> (c)
    }}"""
    model = build(text, {name: array for name, array in arrays.items() if name == "w" or name in BOMBS[bomb]})
    tracemalloc.start()
    try:
        prepare(load(model))
        prepare_weights(load(model))
        assert tracemalloc.get_traced_memory()[1] < 32 * _MIB
    finally:
        tracemalloc.stop()
