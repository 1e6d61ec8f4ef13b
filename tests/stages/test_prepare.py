"""Prepare: outputs stay, every odd model comes through, and the result is in the plain form."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from models.registry import load as load_cases
from vqonnx.errors import OptionError
from vqonnx.graph.io import load, save
from vqonnx.graph.walk import nested_graphs, nodes, values
from vqonnx.runtime.session import open_session
from vqonnx.stages.prepare import prepare

CASES = load_cases()
TOLERANCE = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-10}


@pytest.mark.parametrize("name", sorted(CASES))
def test_odd_models_compute_the_same(name):
    case = CASES[name]
    original, model = load(case.build()), load(case.build())
    stored = {tensor.name for tensor in case.build().graph.initializer}
    prepare(model)
    assert [value.name for value in model.graph.outputs] == [value.name for value in original.graph.outputs]
    assert [v.name for v in model.graph.inputs] == [v.name for v in original.graph.inputs if v.name not in stored]
    _has_plain_form(model)
    if not case.runnable:
        return
    before, after = (open_session(one, threads=1, optimize=False) for one in (original, model))
    for feed in case.feeds(2):
        for expected, found in zip(before.run(None, feed), after.run(None, feed), strict=True):
            _compare(expected, found)


def _has_plain_form(model):
    assert model.opset_imports[""] >= 13
    names = [node.name for node in nodes(model)]
    assert len(set(names)) == len(names)
    assert max(Counter(value.name for value in values(model)).values()) == 1
    for graph in nested_graphs(model.graph):
        for node in graph:
            assert node.op_type != "Constant" or node.outputs[0].is_graph_output()


def _compare(expected, found):
    assert (expected.shape, expected.dtype) == (found.shape, found.dtype)
    tolerance = TOLERANCE.get(expected.dtype.name, 0)
    scale = float(np.abs(expected).max(initial=0)) if expected.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_passes_enable_each_other():
    text = """g (float[2, 4, 6, 6] x) => (float[a, b, c, d] y) {
        h = Constant <value_floats = [2.0]> () k = Cast <to = 1> (h) w2 = Mul (w, k)
        c = Conv (x, w2) i = Identity (c) n = BatchNormalization (i, g, o, m, v) d = Dropout (n) y = Add (d, k) }"""
    weights = {"w": normal(8, 4, 3, 3), "g": normal(8), "o": normal(8), "m": normal(8), "v": np.abs(normal(8))}
    model = load(build(text, weights))
    prepared = prepare(model)
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert set(model.graph.initializers) == {model.graph[0].inputs[1].name, model.graph[0].inputs[2].name}
    assert prepared.folded == {
        "Constant_0",
        "Cast_1",
        "Mul_2",
        "Identity_4",
        "BatchNormalization_5",
        "Dropout_6",
        "Add_7",
    }
    assert "BatchNormalizations folded: 1" in prepared.notes
    assert prepared.seconds > 0


def test_preparing_twice_changes_nothing():
    model = load(CASES["convolutions/batch_norm"].build())
    prepare(model)
    before = [(node.name, node.op_type) for node in model.graph]
    again = prepare(model)
    assert [(node.name, node.op_type) for node in model.graph] == before
    assert (again.notes, again.folded) == ((), frozenset())


def test_quantized_parts_are_left():
    text = """g (float[2, 3] x) => (float[2, 4] y) {
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
        w = DequantizeLinear (wq, s, zw) p = MatMul (d, w)
        r = QuantizeLinear (p, s, z) y = DequantizeLinear (r, s, z) }"""
    weights = {"s": np.float32(0.1), "z": np.uint8(128), "zw": np.int8(0), "wq": np.ones((3, 4), np.int8)}
    left, folded = load(build(text, weights)), load(build(text, weights))
    assert prepare(left).notes == ()
    prepare(folded, requantize=True)
    assert [node.op_type for node in folded.graph].count("DequantizeLinear") == 2
    assert len(left.graph) - len(folded.graph) == 1


def test_the_note_tells_what_is_open():
    notes = prepare(load(CASES["domains/unknown"].build())).notes
    assert any("without a known type: u" in note for note in notes)
    assert any("Swizzle" in note for note in notes)


def test_an_unknown_opset_is_refused():
    with pytest.raises(OptionError, match="newer"):
        prepare(load(CASES["opsets/9"].build()), opset=999)


def test_the_opset_is_raised_only_where_needed():
    model = load(CASES["opsets/21"].build())
    prepare(model)
    assert model.opset_imports[""] == 21
    old = load(CASES["opsets/9"].build())
    assert "opset raised to 17" in prepare(old, opset=17).notes


def test_passes_can_be_chosen():
    model = load(CASES["convolutions/batch_norm"].build())
    prepare(model, passes={})
    assert "BatchNormalization" in {node.op_type for node in model.graph}


def test_weights_that_stay_are_not_read(tmp_path, monkeypatch):
    text = """g (float[2, 64] x) => (float[2, 64] y) {
        a = MatMul (x, w1) b = Add (a, k) c = Gemm <transB = 1> (b, w2, k) d = Relu (c) t = Transpose (w3)
        e = MatMul (d, t) f = Reshape (w4, shape) y = Gemm (e, f) }"""
    weights = {f"w{k}": normal(64, 64) + k for k in range(1, 5)}
    weights |= {"k": normal(64), "shape": np.int64([64, 64])}
    save(load(build(text, weights)), tmp_path / "m.onnx", external=True)
    model = load(tmp_path / "m.onnx")
    read = []
    numpy = ir.ExternalTensor.numpy
    monkeypatch.setattr(ir.ExternalTensor, "numpy", lambda self: read.append(self.name) or numpy(self))
    monkeypatch.setattr("vqonnx.transforms.duplicates._sampled", lambda value: value.name)
    prepare(model)
    assert read == ["w3"]


def wide(count: int) -> onnx.ModelProto:
    """``count`` times Identity -> Conv -> BatchNormalization, each with weights of its own."""
    text = " ".join(
        f"i{k} = Identity (x{k}) c{k} = Conv (i{k}, w{k}) x{k + 1} = BatchNormalization (c{k}, g{k}, o{k}, m{k}, v{k})"
        for k in range(count)
    )
    one = np.ones(1, np.float32)
    weights = {f"{name}{k}": one * (k + 1) for k in range(count) for name in "gomv"}
    weights |= {f"w{k}": np.ones((1, 1, 1, 1), np.float32) for k in range(count)}
    return build(f"g (float[1, 1, 2, 2] x0) => (float[1, 1, 2, 2] y) {{ {text} y = Relu (x{count}) }}", weights)


def test_work_grows_in_line_with_the_model(monkeypatch):
    """Counted, not timed: how often the uses of a value are asked for, the step that all passes share."""
    asked = Counter()
    uses = ir.Value.uses
    counts = []
    for count in (20, 40, 80):
        model = load(wide(count))
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ir.Value, "uses", lambda self: asked.update(["uses"]) or uses(self))
            prepare(model)
        assert Counter(node.op_type for node in model.graph) == {"Conv": count, "Relu": 1}
        counts.append(asked["uses"])
    assert counts[2] - counts[1] <= 2.1 * (counts[1] - counts[0])
