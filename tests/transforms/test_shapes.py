"""Every value ends with a type and a rank where ONNX or ONNX Runtime knows them; what fails is told."""

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from models.registry import load as cases
from vqonnx.graph.io import load
from vqonnx.graph.walk import values_by_name
from vqonnx.transforms.shapes import infer_shapes
from vqonnx.transforms.symbolic import infer_symbolic

COMPUTED = """g (float[N, 4, W] x) => (float[a, b] y) {
    s = Shape (x) n = Gather (s, zero) w = Gather (s, two) f = Mul (four, w) shape = Concat <axis = 0> (n, f)
    flat = Reshape (x, shape) y = Relu (flat) }"""
WEIGHTS = {"zero": np.int64([0]), "two": np.int64([2]), "four": np.int64([4])}


def test_onnx_operators_are_typed_without_the_runtime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = load(cases()["networks/transformer"].build())
    assert infer_shapes(model).failures == ()


def test_contrib_operators_are_typed():
    text = (
        "g (float[N, 4] x) => (float[a, b] y) "
        "{ g = com.microsoft.FastGelu (x) h = com.microsoft.Gelu (g) y = Relu (h) }"
    )
    model = load(build(text, domains={"com.microsoft": 1}))
    notes = infer_shapes(model)
    assert (notes.untyped, notes.unshaped) == ((), ())
    assert values_by_name(model)["h"].dtype == ir.DataType.FLOAT
    assert str(values_by_name(model)["h"].shape) == "[N,4]"


def test_the_runtime_is_asked_where_the_symbolic_tool_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime.tools.symbolic_shape_infer", None)
    model = load(
        build(
            "g (float[N, 4] x) => (float[a, b] y) { g = com.microsoft.Gelu (x) y = Relu (g) }",
            domains={"com.microsoft": 1},
        )
    )
    notes = infer_shapes(model)
    assert notes.untyped == ()
    assert len(notes.failures) == 1
    assert "symbolic shape inference is not there" in notes.failures[0]
    assert values_by_name(model)["g"].dtype == ir.DataType.FLOAT


def test_shapes_computed_from_dynamic_inputs():
    model = load(build(COMPUTED, WEIGHTS))
    infer_symbolic(model)
    assert str(values_by_name(model)["flat"].shape) == "[N,4*W]"


def test_a_tool_that_stumbles_changes_nothing(monkeypatch):
    import onnxruntime.tools.symbolic_shape_infer as tool

    def stumble(self, proto):
        raise AssertionError("not met before")

    monkeypatch.setattr(tool.SymbolicShapeInference, "_preprocess", stumble)
    model = load(
        build(
            "g (float[N, 4] x) => (float[a, b] y) { g = com.microsoft.Gelu (x) y = Relu (g) }",
            domains={"com.microsoft": 1},
        )
    )
    notes = infer_shapes(model)
    assert any("not met before" in failure for failure in notes.failures)


def test_an_unknown_operator_is_told_and_not_an_error():
    notes = infer_shapes(load(cases()["domains/unknown"].build()))
    assert notes.untyped == ("u",)
    assert any("Swizzle" in failure for failure in notes.failures)


def test_contradicting_types_are_told_and_not_an_error(monkeypatch):
    def contradict(*_, **__):
        raise onnx.shape_inference.InferenceError("int64 is not float")

    monkeypatch.setattr("onnx.shape_inference.infer_shapes", contradict)
    notes = infer_shapes(load(build("g (float[2] x) => (float[2] y) { a = Relu (x) y = Neg (a) }")))
    assert any("int64 is not float" in failure for failure in notes.failures)
    assert (notes.untyped, notes.unshaped) == ((), ()), "ONNX Runtime knew"


def test_sequences_and_functions_are_no_gaps():
    text = "g (float[2, 4] x) => (float[a, b] y) { s = SequenceConstruct (x, x) y = ConcatFromSequence <axis = 0> (s) }"
    notes = infer_shapes(load(build(text)))
    assert (notes.untyped, notes.unshaped) == ((), ())
    assert infer_shapes(load(cases()["control/function"].build())).untyped == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype):
    name = {np.float16: "float16", np.float64: "double"}[dtype]
    model = load(
        build(
            f"g ({name}[2, 3] x) => ({name}[a, b] y) {{ h = MatMul (x, w) y = Relu (h) }}",
            {"w": np.ones((3, 2), dtype)},
        )
    )
    infer_shapes(model)
    assert values_by_name(model)["h"].dtype == ir.DataType.from_numpy(np.dtype(dtype))
