import importlib

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from vqonnx.errors import DependencyError, ModelError, OptionError, VerificationError
from vqonnx.graph import edit, io
from vqonnx.graph.io import load, save
from vqonnx.runtime import package
from vqonnx.runtime import session as sessions
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import add_outputs, open_session, run_session

MIXED = """<ir_version: 10, opset_import: ["": 21]>
g (bool c, float[64] x) => (float[64] y) {
  f = Cast <to = 1> (bf16) i = Cast <to = 1> (i4) e = Cast <to = 1> (f8) s = Sum (x, w, f, i, e)
  y = If (c) <
    then_branch = t () => (float[64] p) { p = Add (s, inner) },
    else_branch = o () => (float[64] q) { q = Add (s, w) }>
}
"""
FEEDS = {"c": np.array(True), "x": np.ones(64, np.float32)}


@pytest.fixture(autouse=True)
def _low_limits(monkeypatch):
    monkeypatch.setattr(sessions, "INLINE_BELOW", 64)
    monkeypatch.setattr(io, "INLINE_BELOW", 32)


def mixed() -> ir.Model:
    """Weights of many types, one of them in a subgraph: w = 1, bf16 = 2, i4 = 3, f8 = 4, inner = 5."""
    proto = onnx.parser.parse_model(MIXED)
    kinds = [("w", "FLOAT"), ("bf16", "BFLOAT16"), ("i4", "INT4"), ("f8", "FLOAT8E4M3FN")]
    branch = proto.graph.node[-1].attribute[0].g
    for number, (name, kind) in enumerate([*kinds, ("inner", "FLOAT")], start=1):
        array = np.full(64, number).astype(ir.DataType[kind].numpy())
        graph = branch if name == "inner" else proto.graph
        graph.initializer.append(ir.serde.serialize_tensor(ir.Tensor(array, name=name)))
    return load(proto)


def test_a_model_in_memory_runs_with_weights_of_any_type():
    session = open_session(mixed())
    np.testing.assert_array_equal(session.run(None, FEEDS)[0], np.full(64, 16))
    assert set(session.vqonnx_tensors) == {"w", "bf16", "f8"}


def test_a_mapped_model_runs_from_its_files(tmp_path):
    saved = save(mixed(), tmp_path / "m.onnx", external=True)
    model = load(saved.path)
    session = open_session(model)
    assert not session.vqonnx_tensors
    np.testing.assert_array_equal(session.run(None, FEEDS)[0], np.full(64, 16))
    assert model.graph.initializers["w"].const_value.raw is None  # ORT maps it, we do not
    np.testing.assert_array_equal(open_session(saved.path).run(None, FEEDS)[0], np.full(64, 16))


def test_weights_may_lie_in_two_folders_and_in_memory(tmp_path):
    model = mixed()
    for name in ("w", "f8"):
        value = model.graph.initializers[name]
        tensor = value.const_value
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(tensor.tobytes())
        value.const_value = ir.ExternalTensor(
            str(tmp_path / name / "data"), 0, None, tensor.dtype, shape=ir.Shape([64]), name=name
        )
    np.testing.assert_array_equal(open_session(model).run(None, FEEDS)[0], np.full(64, 16))


def test_the_serialised_model_holds_no_large_tensor(monkeypatch):
    model = mixed()
    edit.add_initializer(model.graph, "big", np.zeros(1 << 20, np.float32))
    seen = []

    def watched(*arguments: object) -> bytes:
        seen.append(original(*arguments))
        return seen[-1]

    original = sessions.serialized
    monkeypatch.setattr(sessions, "serialized", watched)
    open_session(model)
    assert len(seen[0]) < 4096
    assert model.graph.initializers["big"].const_value.nbytes == 1 << 22


def test_a_weight_that_nobody_reads_is_no_obstacle():
    model = mixed()
    edit.add_initializer(model.graph, "unread", np.zeros(64, np.float32))
    assert "unread" not in open_session(model).vqonnx_tensors


def test_a_weight_that_only_a_body_reads_is_found():
    model = mixed()
    total = next(node for node in model.graph if node.op_type == "Sum")
    total.replace_input_with(1, model.graph.inputs[1])
    np.testing.assert_array_equal(open_session(model).run(None, FEEDS | {"c": np.array(False)})[0], np.full(64, 12))


def test_weights_outlive_the_model():
    session = open_session(mixed())
    np.testing.assert_array_equal(session.run(None, FEEDS)[0], np.full(64, 16))


def test_options_reach_the_session(tmp_path):
    session = open_session(
        mixed(),
        threads=1,
        optimize=False,
        optimized_path=tmp_path / "o.onnx",
        options={"session.intra_op.allow_spinning": "0"},
    )
    settings = session.get_session_options()
    assert settings.intra_op_num_threads == 1
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert [node.op_type for node in onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.node][-1] == "If"


def test_an_absent_provider_is_named_with_those_that_are_there():
    with pytest.raises(DependencyError, match=r"'NoExecutionProvider' is not in this .*CPUExecutionProvider") as caught:
        open_session(mixed(), providers=["NoExecutionProvider"])
    assert caught.value.package == "NoExecutionProvider"


def test_without_onnxruntime_the_extras_are_named(monkeypatch):
    def missing(name: str, package: str | None = None) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DependencyError, match=r"vqonnx\[cpu\], vqonnx\[directml\].* or vqonnx\[gpu\]") as caught:
        package.onnxruntime()
    assert caught.value.package == "onnxruntime"


def test_files_that_cannot_be_read_are_model_errors(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x08noise")
    for name in ("bad.onnx", "none.onnx"):
        with pytest.raises(ModelError, match=f"ONNX Runtime cannot load model .*{name}") as caught:
            open_session(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


def test_a_model_that_ort_refuses_is_a_verification_error():
    text = '<ir_version: 8, opset_import: ["": 17, "my": 1]> g (float[2] x) => (float[2] y) { y = my.op (x) }'
    with pytest.raises(VerificationError, match=r"ONNX Runtime cannot load the model: .*my"):
        open_session(load(onnx.parser.parse_model(text)))


def test_errors_of_a_run_are_told_in_ours():
    session = open_session(mixed())
    with pytest.raises(VerificationError, match=r"cannot run sample 3: .*[Gg]ot"), runtime_errors("run sample 3"):
        session.run(None, FEEDS | {"x": np.ones(63, np.float32)})
    with pytest.raises(ZeroDivisionError), runtime_errors("divide"):
        1 / 0  # noqa: B018


def test_inner_values_become_outputs():
    model = mixed()
    widened = add_outputs(model, ["s", "f", "x", "w", "y", "s"])
    session = open_session(widened)
    assert [output.name for output in session.get_outputs()] == ["y", "s", "f", "x", "w"]
    found = session.run(None, FEEDS)
    assert [array[0] for array in found] == [16, 11, 2, 1, 1]
    assert len(model.graph.outputs) == 1


def test_an_unknown_value_is_named_with_its_likes():
    with pytest.raises(OptionError, match="has no value 'bf1' \\(did you mean 'bf16'") as caught:
        add_outputs(mixed(), ["bf1"])
    assert caught.value.option == "names"
    with pytest.raises(OptionError, match="Values inside subgraphs cannot be outputs"):
        add_outputs(mixed(), ["inner"])


@pytest.mark.slow
def test_two_gib_in_memory_and_on_disk(tmp_path):
    shape, dtype = (5 << 13, 1 << 13), ir.DataType.FLOAT
    mapped = ir.ExternalTensor("w", 0, None, dtype, shape=ir.Shape(shape), name="a", base_dir=tmp_path)
    with (tmp_path / "w").open("wb") as file:
        file.truncate(mapped.nbytes)
    held = np.zeros(shape, np.float32)  # never touched, so it takes no real memory
    i = ir.Value(name="i", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    nodes, initializers = [], []
    for name, tensor in (("a", mapped), ("b", ir.Tensor(held, name="b"))):
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        initializers.append(value)
        nodes.append(ir.node("Gather", [value, i]))
        nodes[-1].outputs[0].name = f"y_{name}"
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([i], outputs, nodes=nodes, initializers=initializers, opset_imports={"": 17}, name="g")
    found = open_session(load(ir.Model(graph, ir_version=8))).run(None, {"i": np.array([7])})
    assert [array.shape for array in found] == [(1, 1 << 13)] * 2


def test_results_live_on_when_the_feed_is_gone():
    text = """<ir_version: 9, opset_import: ["": 17]>
    g (float[N, 4] x) => (float[N, 4] x, float[N, 4] y) { y = Relu (x) }"""
    session = open_session(load(onnx.parser.parse_model(text)))
    feed = {"x": np.ones((100, 4), np.float32)}
    for result in run_session(session, None, feed):
        assert not np.may_share_memory(result, feed["x"])
        np.testing.assert_array_equal(result, 1)
