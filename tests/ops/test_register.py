"""The custom operators inside ONNX Runtime sessions."""

import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.kernels.formats.formats import assert_same_bits, spread_out
from tests.ops.running import custom_model, extensions, feeds_of, float_model
from vqonnx.core.block_formats import BFP16, BLOCK_FORMATS, MX6, MXFP4_E2M1
from vqonnx.core.custom_ops import BLOCK_FLOAT, CUSTOM_OPS, DOMAIN, MICROSCALING, OLD_DOMAIN, attributes_of, block_op
from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import DependencyError, VerificationError
from vqonnx.kernels.affine import dequantize, quantize
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.kernels.formats.microscaling import round_to_microscaling
from vqonnx.ops import bodies, register
from vqonnx.ops.register import INTEGERS
from vqonnx.runtime.session import open_session

FORMATS = pytest.mark.parametrize("fmt", BLOCK_FORMATS.values(), ids=lambda fmt: fmt.name)
SHAPES = [
    (),
    (0,),
    (1,),
    (70,),
    (0, 3),
    (2, 0, 3),
    (3, 33),
    (2, 17, 20),
    (1, 8, 5, 7),
    (2, 3, 4, 5, 2),
    (1, 2, 3, 9, 2, 3),
]


def rounded(x, fmt, axis):
    return (round_to_block_float if block_op(fmt) is BLOCK_FLOAT else round_to_microscaling)(x, fmt, axis)


def session(model):
    extensions()
    return open_session(ir.from_proto(model))


@FORMATS
def test_a_session_computes_what_the_kernel_does_for_every_shape(rng, fmt):
    for axis in (-1, 0):
        running = session(float_model(block_op(fmt).name, attributes_of(fmt, axis)))
        for shape in SHAPES:
            x = spread_out(rng, shape) if shape else np.array(1.7, np.float32)
            assert_same_bits(running.run(None, feeds_of(x))[0], rounded(x, fmt, axis))


@FORMATS
def test_special_numbers_pass_through_a_session(rng, fmt):
    x = rng.normal(size=(6, 64)).astype(np.float32)
    x[0, 3], x[1, 5], x[2, 7], x[3] = np.nan, np.inf, -np.inf, -0.0
    running = session(float_model(block_op(fmt).name, attributes_of(fmt, 1)))
    assert_same_bits(running.run(None, feeds_of(x))[0], rounded(x, fmt, 1))


@pytest.mark.parametrize("op", [BLOCK_FLOAT, MICROSCALING], ids=lambda op: op.name)
@pytest.mark.parametrize("domain", [DOMAIN, OLD_DOMAIN])
def test_both_domains_have_the_operators(rng, op, domain):
    fmt = BFP16 if op is BLOCK_FLOAT else MXFP4_E2M1
    name = op.name if domain == DOMAIN else op.old_name
    x = rng.normal(size=(3, 40)).astype(np.float32)
    running = session(float_model(name, attributes_of(fmt, 1), domain=domain))
    assert_same_bits(running.run(None, feeds_of(x))[0], rounded(x, fmt, 1))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("axis", [None, 1])
def test_linear_quantization_runs_with_all_integers(rng, name, axis):
    qtype = QTYPES[name]
    kind = helper.np_dtype_to_tensor_dtype(qtype.dtype)
    scale = np.array([0.1, 0.02, 3.0] if axis else 0.1, np.float32)
    zero = np.resize(np.array([3, 0, 100], qtype.dtype), scale.shape)
    spec = QuantSpec(qtype=qtype, granularity=PerAxis(1)) if axis else QuantSpec(qtype=qtype)
    params = QuantParams(scale, zero, spec)
    constants = [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(zero, "zero")]
    x = (rng.normal(size=(2, 3, 50)) * 10.0 ** rng.integers(-3, 10, (2, 3, 50))).astype(np.float32)
    attributes = {"axis": 1}
    quantizing = session(
        custom_model("ExtendedQuantizeLinear", [(TensorProto.FLOAT, None)], kind, attributes, constants=constants)
    )
    codes = quantizing.run(None, feeds_of(x))[0]
    assert codes.dtype == qtype.dtype
    np.testing.assert_array_equal(codes, quantize(x, params))
    dequantizing = session(
        custom_model("ExtendedDequantizeLinear", [(kind, None)], TensorProto.FLOAT, attributes, constants=constants)
    )
    assert_same_bits(dequantizing.run(None, feeds_of(codes))[0], dequantize(codes, params))


def test_nan_becomes_the_zero_point():
    zero = np.array([7], np.int32)
    x = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    codes = bodies.quantize_linear(x, np.array([0.5], np.float32), zero, axis=1).tolist()
    np.testing.assert_array_equal(codes, [7, 2**31 - 1, -(2**31), 9])


def test_weights_are_rounded_once_when_the_session_is_made(rng):
    weight = rng.normal(size=(8, 40)).astype(np.float32)
    nodes = [
        helper.make_node(MICROSCALING.name, ["w"], ["r"], domain=DOMAIN, **attributes_of(MXFP4_E2M1, 1)),
        helper.make_node("MatMul", ["x0", "r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 40])],
        [numpy_helper.from_array(weight, "w")],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    running = session(helper.make_model(graph, opset_imports=imports, ir_version=10))
    x = rng.normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_allclose(
        running.run(None, {"x0": x})[0], x @ round_to_microscaling(weight, MXFP4_E2M1, 1), rtol=1e-5, atol=1e-5
    )


def test_operators_run_inside_subgraphs(rng):
    branch = helper.make_graph(
        [helper.make_node(BLOCK_FLOAT.name, ["x0"], ["then"], domain=DOMAIN, **attributes_of(BFP16, 1))],
        "then",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x0"], ["else"])],
        "else",
        [],
        [helper.make_tensor_value_info("else", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["a", "b"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    running = session(helper.make_model(graph, opset_imports=imports, ir_version=10))
    x = rng.normal(size=(3, 40)).astype(np.float32)
    assert_same_bits(running.run(None, {"c": np.array(True), "x0": x})[0], round_to_block_float(x, BFP16, 1))
    assert_same_bits(running.run(None, {"c": np.array(False), "x0": x})[0], x)


def test_sessions_in_several_threads_agree(rng):
    x = rng.normal(size=(4, 64, 1500)).astype(np.float32)
    running = session(float_model(BLOCK_FLOAT.name, attributes_of(MX6, 1)))
    expected, found = round_to_block_float(x, MX6, 1), []
    threads = [threading.Thread(target=lambda: found.append(running.run(None, feeds_of(x))[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for one in found:
        np.testing.assert_array_equal(one, expected)


def test_nothing_of_a_run_is_kept(rng, monkeypatch):
    kept = []

    def spy(x, fmt, axis):
        result = round_to_block_float(x, fmt, axis)
        kept.extend([weakref.ref(x), weakref.ref(result)])
        return result

    monkeypatch.setattr(bodies, "round_to_block_float", spy)
    running = session(float_model(BLOCK_FLOAT.name, attributes_of(BFP16, 1)))
    for _ in range(3):
        running.run(None, feeds_of(rng.normal(size=(3, 40)).astype(np.float32)))
    gc.collect()
    assert len(kept) == 6
    assert [one() for one in kept] == [None] * 6


def test_a_file_gets_the_operators_too(rng, tmp_path):
    extensions()
    path = tmp_path / "model.onnx"
    onnx.save(float_model(BLOCK_FLOAT.name, attributes_of(BFP16, 1)), path)
    x = rng.normal(size=(3, 40)).astype(np.float32)
    assert_same_bits(open_session(path).run(None, feeds_of(x))[0], round_to_block_float(x, BFP16, 1))


def test_registering_twice_is_as_good_as_once(rng):
    extensions()
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    register(options)
    register(options)
    model = float_model(BLOCK_FLOAT.name, attributes_of(BFP16, 1)).SerializeToString()
    x = rng.normal(size=(3, 40)).astype(np.float32)
    for _ in range(2):  # options serve any number of sessions
        running = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        assert_same_bits(running.run(None, feeds_of(x))[0], round_to_block_float(x, BFP16, 1))


def test_other_tensor_types_are_refused_by_onnxruntime():
    half = custom_model(BLOCK_FLOAT.name, [(TensorProto.FLOAT16, None)], TensorProto.FLOAT16, attributes_of(BFP16, 1))
    with pytest.raises(VerificationError, match="BFPQuantizeDequantize"):
        session(half)


def test_an_attribute_that_is_not_written_is_refused_by_onnxruntime():
    attributes = attributes_of(BFP16, 1)
    del attributes["bit_width"]
    with pytest.raises(VerificationError, match="bit_width"):
        session(float_model(BLOCK_FLOAT.name, attributes))


def test_the_checker_and_shape_inference_pass_over_the_operators():
    """Both know nothing of these domains: types behind a node are those that the model declares."""
    for op in CUSTOM_OPS.values():
        if op in (BLOCK_FLOAT, MICROSCALING):
            model = float_model(op.name, dict(op.defaults), ["a", 40])
            model.graph.output[0].type.tensor_type.shape.SetInParent()
            onnx.checker.check_model(model, full_check=True)
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
            assert inferred.graph.output[0].type == model.graph.output[0].type


def test_what_cannot_be_computed_is_nan_and_logged(caplog):
    x = np.ones((2, 3), np.float32)
    for body, attributes in (
        (bodies.block_float, attributes_of(BFP16, 5)),
        (bodies.block_float, {**attributes_of(BFP16, 1), "bfp_method": "to_nothing"}),
        (bodies.microscaling, {**attributes_of(MXFP4_E2M1, 1), "element_dtype": "fp3"}),
    ):
        assert np.isnan(body(x, **attributes).tolist()).all()
    assert "no axis 5" in caplog.text
    assert "unknown bfp_method 'to_nothing'" in caplog.text
    assert "unknown element_dtype 'fp3'" in caplog.text
    scales, zeros = np.ones(2, np.float32), np.ones(2, np.int8)
    assert not bodies.quantize_linear(x, scales, zeros, axis=1).tolist().any()
    assert np.isnan(bodies.dequantize_linear(x.astype(np.int8), scales, zeros, axis=1).tolist()).all()
    assert "do not lie along axis 1" in caplog.text


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(DependencyError, match=r"pip install vqonnx\[vitis\]") as caught:
        register(object())
    assert caught.value.package == "onnxruntime-extensions"


def test_everything_else_works_without_the_package():
    code = "import sys; sys.modules['onnxruntime_extensions'] = None; import vqonnx, vqonnx.ops, vqonnx.runtime.session"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
