"""Equal constants become one; what differs in anything stays apart."""

import numpy as np
import onnx_ir as ir

from models.build import build
from vqonnx.graph.io import load
from vqonnx.transforms.duplicates import merge_duplicate_initializers


def test_equal_weights_are_shared_and_different_ones_are_not(check):
    w = np.arange(400, dtype=np.float32).reshape(20, 20)
    nearly = w.copy()
    nearly[7, 3] += 1  # outside what is sampled
    weights = {"a": w, "b": w.copy(), "c": nearly, "d": w.reshape(400), "e": w.view(np.int32).copy()}
    text = """g (float[2, 20] x) => (float[2, 20] y, float[400] z, int32[20, 20] i) {
        p = MatMul (x, a) q = MatMul (p, b) y = MatMul (q, c) z = Neg (d) i = Add (e, e) }"""
    changed = check(build(text, weights), merge_duplicate_initializers)
    assert changed.count == 1
    assert list(changed.model.graph.initializers) == ["a", "c", "d", "e"]


def test_bits_decide_not_values(check):
    weights = {"a": np.float32([0.0, np.nan]), "b": np.float32([-0.0, np.nan]), "c": np.float32([0.0, np.nan])}
    text = "g (float[2] x) => (float[2] y) { p = Add (x, a) q = Div (x, b) r = Mul (x, c) y = Sum (p, q, r) }"
    model = load(build(text, weights))
    assert merge_duplicate_initializers(model) == 1
    assert list(model.graph.initializers) == ["a", "b"]


def test_inputs_outputs_strings_and_empty_tensors():
    w = np.float32([1, 2])
    text = (
        "g (float[2] x, float[2] a) => (float[2] y, float[2] b) "
        "{ p = Add (x, a) q = Add (p, b) y = Add (q, c) r = Concat <axis = 0> (e, f) }"
    )
    weights = {"a": w, "b": w.copy(), "c": w.copy(), "e": np.zeros(0, np.float32), "f": np.zeros(0, np.float32)}
    model = load(build(text, weights))
    assert merge_duplicate_initializers(model) == 1
    assert list(model.graph.initializers) == ["a", "b", "c", "e"]


def test_four_bit_and_bfloat16_weights_are_told_apart():
    model = load(build("g (float[2] x) => (float[2] y) { y = Neg (x) }"))
    small = np.array([1, -2, 3, 4], dtype=np.int8)
    for name, dtype in (("a", "INT4"), ("b", "INT4"), ("c", "INT8"), ("d", "BFLOAT16"), ("e", "BFLOAT16")):
        array = small.astype(ir.DataType[dtype].numpy())
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        model.graph.register_initializer(value)
    assert merge_duplicate_initializers(model) == 2
    assert list(model.graph.initializers) == ["a", "c", "d"]


def test_bodies_read_the_kept_one(check):
    text = """g (bool c, float[2] x) => (float[2] y) { p = Add (x, a)
        y = If (c) <then_branch = t () => (float[2] u) { u = Mul (p, b) },
                    else_branch = e () => (float[2] v) { v = Neg (b) }> }"""
    w = np.float32([1, 2])
    assert check(build(text, {"a": w, "b": w.copy()}), merge_duplicate_initializers, samples=4).count == 1


def test_only_lookalikes_are_read_through(monkeypatch):
    read = []
    original = ir.Tensor.numpy
    weights = {f"w{i}": np.full((i + 1, 2), i, np.float32) for i in range(100)}
    nodes = " ".join(f"r{i} = Neg (w{i})" for i in range(100))
    model = load(build(f"g (float[2] x) => (float[2] y) {{ y = Neg (x) {nodes} }}", weights))
    monkeypatch.setattr(ir.Tensor, "numpy", lambda self: read.append(self.name) or original(self))
    assert merge_duplicate_initializers(model) == 0
    assert read == []
