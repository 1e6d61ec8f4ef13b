"""Weights behind DequantizeLinear against ONNX's definition and ONNX Runtime, which must fuse them to MatMulNBits."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from tests.emitters.weights.packing import (
    HALF_SQNR,
    SQNR,
    Form,
    assert_computes,
    default_spec,
    fused,
    fused_since,
    pack_model,
    real,
    rounded,
    run,
    run_reference,
    sqnr,
)
from tests.emitters.weights.test_matmul_nbits import NAMES, normal, product
from tests.versions import since
from vqonnx.core.blocks import BlockSpec
from vqonnx.emitters.weights.block_qdq import in_blocks
from vqonnx.emitters.weights.channel_qdq import per_channel
from vqonnx.emitters.weights.dequantize import find, read
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import to_proto
from vqonnx.graph.walk import nodes
from vqonnx.kernels.blocks.packing import pack, unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.runtime.session import open_session

EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}


def node_of(model):
    return next(node for node in nodes(model) if node.op_type == "DequantizeLinear")


def two_bits(model):
    """At opset 25, which this model needs nothing new of."""
    model.opset_import[0].version, model.ir_version = 25, 13
    return model


CASES = [
    pytest.param(bits, size, symmetric, dtype, id=f"{bits}bit-{size}-{'sym' if symmetric else 'asym'}-{NAMES[dtype]}")
    for bits in (2, 4, 8)
    for size in (16, 32, 64, 128, 256, -1)
    for symmetric in (False, True)
    for dtype in (np.float32, np.float16)
    if (bits, size) != (2, 16)
]


@pytest.mark.parametrize(("bits", "size", "symmetric", "dtype"), CASES)
def test_onnx_and_onnx_runtime_compute_with_the_weight_that_is_meant(rng, tmp_path, bits, size, symmetric, dtype):
    spec = BlockSpec(bits=bits, block_size=size, symmetric=symmetric)
    fused_since(spec, dtype)
    for k, n in ((256, 24), (203, 12 if bits == 2 else 7)):
        model = product(normal(rng, k, n, dtype=dtype), opset=21)
        packed = pack_model(two_bits(model) if bits == 2 else model, Form.QDQ, spec)
        onnx.checker.check_model(packed.proto, full_check=True)
        feed = {"x": normal(rng, 2, 30, k, dtype=dtype)}
        expected = feed["x"].astype(np.float64) @ real(packed.weights["w"]).astype(np.float64)
        exact = min(SQNR[0], HALF_SQNR if dtype is np.float16 else 99)
        assert "MatMulNBits" in fused(packed.model, tmp_path)
        assert "DequantizeLinear" not in fused(packed.model, tmp_path)
        assert sqnr(expected, run(packed.model, feed)["y"]) > SQNR[4]
        assert sqnr(expected, run(packed.model, feed, options=EXACT)["y"]) > exact
        assert sqnr(expected, run(packed.model, feed, optimize=False)["y"]) > exact
        assert sqnr(expected, run_reference(packed.proto, feed)["y"]) > exact


@given(
    k=st.integers(1, 150),
    n=st.integers(1, 40),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([32, 64, 128, 256, -1]),
    symmetric=st.booleans(),
)
def test_any_shape_computes_and_is_read_back_bit_by_bit(k, n, bits, size, symmetric):
    rng = np.random.default_rng(k * 41 + n)
    n = 4 * n if bits == 2 else n
    model = product(normal(rng, k, n), opset=21)
    spec = BlockSpec(bits=bits, block_size=size, symmetric=symmetric)
    packed = pack_model(two_bits(model) if bits == 2 else model, Form.QDQ, spec)
    assert_computes(packed, [{"x": rng.integers(-1, 2, (1, 4, k)).astype(np.float32) * 127}], 85)
    blocks, again = packed.weights["w"], read(node_of(packed.model))
    np.testing.assert_array_equal(unpack_codes(again), unpack_codes(blocks))
    np.testing.assert_array_equal(real(again), real(blocks))
    if again.block_size == blocks.block_size:
        np.testing.assert_array_equal(again.codes, blocks.codes)
        np.testing.assert_array_equal(again.scales, blocks.scales)
        np.testing.assert_array_equal(unpack_zero_points(again), unpack_zero_points(blocks))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_int8_a_channel_needs_no_new_opset(rng, tmp_path, dtype, symmetric):
    spec = replace(default_spec(Form.CHANNEL_QDQ), symmetric=symmetric)
    fused_since(spec)
    opset = 13 if dtype is np.float32 else 19
    model = product(normal(rng, 203, 7, dtype=dtype), opset=opset)
    packed = pack_model(model, Form.CHANNEL_QDQ, weights=lambda layer: rounded(layer, spec))
    assert node_of(packed.model).inputs[0].dtype == (ir.DataType.INT8 if symmetric else ir.DataType.UINT8)
    onnx.checker.check_model(packed.proto, full_check=True)
    assert "MatMulNBits" in fused(packed.model, tmp_path)
    feed = {"x": normal(rng, 2, 3, 203, dtype=dtype)}
    exact = HALF_SQNR if dtype is np.float16 else SQNR[0]
    expected = run(packed.meant, feed)["y"]
    assert sqnr(expected, run(packed.model, feed, options=EXACT)["y"]) > exact
    proto = packed.proto
    proto.opset_import[0].version = max(opset, 19)  # onnx evaluates DequantizeLinear from there on
    assert sqnr(expected, run_reference(proto, feed)["y"]) > exact


def test_bfloat16_is_standard_onnx_if_nothing_that_the_cpu_runs(rng):
    weight = normal(rng, 64, 8).astype(ml_dtypes.bfloat16)
    model = build("m (bfloat16[A, 64] x) => (bfloat16[A, 8] y) { y = MatMul (x, w) }", {"w": weight}, opset=21)
    packed = pack_model(model, Form.QDQ)
    onnx.checker.check_model(packed.proto, full_check=True)
    again = read(node_of(packed.model))
    np.testing.assert_array_equal(real(again), real(packed.weights["w"]))
    dequantized = run_reference(_dequantizer(packed.model), {})
    np.testing.assert_array_equal(*(np.asarray(one, np.float32) for one in (dequantized["w"], real(again))))


def _dequantizer(model):
    """The DequantizeLinear alone."""
    node = node_of(model)
    node.outputs[0].name = "w"
    constants = [value for value in node.inputs if value is not None]
    graph = ir.GraphView([], node.outputs, nodes=[node], initializers=constants, opset_imports={"": 21}, name="g")
    return to_proto(ir.Model(graph.clone(), ir_version=10))


# --- what ONNX Runtime fuses


@pytest.mark.parametrize("form", [Form.QDQ, Form.CHANNEL_QDQ])
def test_two_products_with_one_weight_are_fused_both(rng, tmp_path, form):
    fused_since(default_spec(form))
    # An Add of the two would become a Gemm with a computed bias, which is not fused.
    text = (
        "two (float[A, 40] x) => (float[A, 12] y) { p = MatMul (x, w) q = Tanh (x) r = MatMul (q, w) y = Mul (p, r) }"
    )
    packed = pack_model(build(text, {"w": normal(rng, 40, 12)}, opset=21), form)
    assert fused(packed.model, tmp_path).count("MatMulNBits") == 2
    assert_computes(packed, [{"x": normal(rng, 30, 40)}], 37)


def test_data_of_a_shared_weight_is_stored_once(rng, tmp_path):
    text = "two (float[A, 256] x) => (float[A, 256] y) { p = MatMul (x, w) y = MatMul (p, w) }"
    packed = pack_model(build(text, {"w": normal(rng, 256, 256)}, opset=21), Form.QDQ)
    saved = save(packed.model, tmp_path / "m.onnx", external=True)
    (blocks,) = packed.weights.values()
    assert saved.size < 1.2 * blocks.nbytes
    assert fused(load(tmp_path / "m.onnx"), tmp_path).count("MatMulNBits") == 2


@pytest.mark.parametrize("form", [Form.QDQ, Form.CHANNEL_QDQ])
def test_products_in_bodies_are_fused(rng, tmp_path, form):
    fused_since(default_spec(form))
    text = """branches (float[N, 40] x, bool flag) => (float[N, 12] y) {
        y = If (flag) <
            then_branch = yes () => (float[N, 12] a) { m = MatMul (x, w) a = Tanh (m) },
            else_branch = no () => (float[N, 12] b) { b = MatMul (x, w) }
        >
    }"""
    packed = pack_model(build(text, {"w": normal(rng, 40, 12)}, opset=21), form)
    x = normal(rng, 3, 40)
    assert_computes(packed, [{"x": x, "flag": np.array(flag)} for flag in (True, False)], SQNR[4])
    assert fused(packed.model, tmp_path).count("MatMulNBits") == 2


@pytest.mark.parametrize("biased", [False, True])
def test_a_gemm_stays_one_and_is_fused_with_its_bias(rng, tmp_path, biased):
    since("1.25", "fusing Gemm")
    text = f"g (float[A, 40] x) => (float[A, 12] y) {{ y = Gemm <transB = 1> (x, w{', b' if biased else ''}) }}"
    weights = {"w": normal(rng, 12, 40)} | ({"b": normal(rng, 12)} if biased else {})
    packed = pack_model(build(text, weights, opset=21), Form.QDQ)
    assert packed.ops() == ["DequantizeLinear", "Gemm"]
    assert fused(packed.model, tmp_path) == ["MatMulNBits"]
    assert_computes(packed, [{"x": normal(rng, 3, 40)}], SQNR[4])


# --- refusals


@pytest.mark.parametrize("outputs", [5, 6, 7])
@pytest.mark.parametrize(("size", "write"), [(32, in_blocks), (-1, per_channel)])
def test_2_bits_that_would_be_fused_wrongly_are_refused(rng, outputs, size, write):
    blocks = round_blocks(normal(rng, 64, outputs), BlockSpec(bits=2, block_size=size))
    with pytest.raises(UnsupportedModelError, match=rf"{outputs} outputs cannot be 2-bit QDQ: .* multiple of 4"):
        write("w", blocks)


@pytest.mark.peer
def test_onnx_runtime_still_fuses_such_2_bits_wrongly(rng):
    """If this fails, the refusal above can go for newer versions."""
    since("1.28", "2-bit kernels")
    weight = normal(rng, 64, 6)
    codes = np.ascontiguousarray(rng.integers(0, 4, (64, 6), dtype=np.uint8))
    model = two_bits(product(weight, opset=21))
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(
        [
            onnx.helper.make_tensor(
                "q", onnx.TensorProto.UINT2, [64, 6], pack(codes.reshape(-1), 2).tobytes(), raw=True
            ),
            onnx.numpy_helper.from_array(np.ones((2, 6), np.float32), "s"),
        ]
    )
    proto.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32))
    feed = {"x": normal(rng, 1, 3, 64)}
    expected = feed["x"] @ codes.astype(np.float32)
    assert sqnr(expected, run(load(proto), feed, optimize=False)["y"]) > SQNR[0]
    assert sqnr(expected, run(load(proto), feed)["y"]) < 20


def test_2_bits_in_blocks_of_16_are_refused(rng):
    with pytest.raises(OptionError, match="no fast kernel for 2-bit codes in blocks of 16"):
        in_blocks("w", round_blocks(normal(rng, 64, 8), BlockSpec(bits=2, block_size=16)))


@pytest.mark.parametrize(("bits", "opset"), [(4, 20), (2, 24)])
def test_few_bits_need_new_opsets(rng, bits, opset):
    model = product(normal(rng, 64, 8), opset=20)
    model.opset_import[0].version = opset
    with pytest.raises(UnsupportedModelError, match=f"needs opset {opset + 1} as 'qdq', and the model has {opset}"):
        pack_model(model, Form.QDQ, BlockSpec(bits=bits, block_size=-1))


def test_one_scale_a_channel_means_one_block(rng):
    blocks = round_blocks(normal(rng, 64, 8), BlockSpec(bits=8, symmetric=True))
    with pytest.raises(OptionError, match="weight 'w' has 2 of 32: use block_size=-1"):
        per_channel("w", blocks)


# --- files of other tools


def foreign(codes, scales, zero_points=None, *, kind="UINT4", **attributes):
    """DequantizeLinear over these arrays; codes and zero points one a byte."""
    dtype = ir.DataType[kind]

    def constant(name, array):
        if dtype.bitwidth >= 8:
            return ir.Value(name=name, const_value=ir.Tensor(array))
        low_bits = np.ascontiguousarray(array).view(np.uint8).reshape(-1) & ((1 << dtype.bitwidth) - 1)
        tensor = ir.PackedTensor(pack(low_bits, dtype.bitwidth), dtype, shape=array.shape)
        return ir.Value(name=name, const_value=tensor)

    inputs = [constant("q", codes), ir.Value(name="s", const_value=ir.Tensor(scales))]
    inputs += [] if zero_points is None else [constant("z", zero_points)]
    graph = ir.Graph([], [], nodes=[], initializers=inputs, name="g")
    graph.append(ir.node("DequantizeLinear", inputs, attributes, name="dq"))
    return graph[0]


@pytest.mark.parametrize("kind", ["UINT4", "INT4", "INT8", "UINT8"])
@pytest.mark.parametrize("with_zero_points", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("spread", ["block", "channel", "tensor"])
def test_every_layout_is_read_as_onnx_means_it(rng, kind, with_zero_points, transposed, spread):
    k, n, bits = 70, 9, int(kind[-1])
    low = 0 if kind.startswith("U") else -(1 << (bits - 1))
    dtype = np.uint8 if kind.startswith("U") else np.int8
    shape = (n, k) if transposed else (k, n)
    codes = rng.integers(low, low + (1 << bits), shape).astype(dtype)
    along = 1 if transposed else 0
    grid = {"block": (n, 3) if transposed else (3, n), "channel": (n,), "tensor": ()}[spread]
    scales = rng.normal(size=grid).astype(np.float32)
    zeros = rng.integers(low, low + (1 << bits), grid).astype(dtype)
    attributes = {"block": {"axis": along, "block_size": 32}, "channel": {"axis": along - 1}, "tensor": {}}[spread]
    node = foreign(codes, scales, zeros if with_zero_points else None, kind=kind, **attributes)

    def wide(parameter):
        if spread == "block":
            return np.repeat(parameter, 32, axis=along)[:n, :k] if transposed else np.repeat(parameter, 32, axis=0)[:k]
        return parameter[:, None] if spread == "channel" and transposed else parameter

    meant = codes.astype(np.float32) - (wide(zeros.astype(np.float32)) if with_zero_points else 0)
    meant = meant * wide(scales)
    np.testing.assert_array_equal(real(find(node, transposed=transposed).read()), meant.T if transposed else meant)


def test_zero_points_that_are_all_zero_are_left_out(rng):
    codes, scales = rng.integers(-8, 8, (64, 5)).astype(np.int8), np.ones((2, 5), np.float32)
    node = foreign(codes, scales, np.zeros((2, 5), np.int8), kind="INT4", axis=0, block_size=32)
    assert read(node).symmetric


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"codes": np.zeros((2, 64, 5), np.uint8)}, r"uint4 \[2, 64, 5\], no matrix"),
        ({"kind": "INT16", "codes": np.zeros((64, 5), np.int16)}, "no matrix of 2, 4 or 8 bits"),
        ({"axis": 1}, "blocks run along the outputs"),
        ({"block_size": 16}, r"scales have shape \[2, 5\] instead of \[4, 5\]"),
        ({"scales": np.ones(64, np.float32), "block_size": 0}, "scales run along the sums"),
        ({"output_dtype": 10}, "output has another type"),
    ],
)
def test_other_weights_are_refused(change, why):
    given = {"codes": np.zeros((64, 5), np.uint8), "scales": np.ones((2, 5), np.float32), "axis": 0, "block_size": 32}
    with pytest.raises(UnsupportedModelError, match=why):
        read(foreign(**{**given, **change}))


def test_computed_parameters_are_refused(rng):
    given = rng.integers(0, 16, (64, 5), dtype=np.uint8), np.ones((2, 5), np.float32), np.zeros((2, 5), np.uint8)
    for index in (0, 1, 2):
        node = foreign(*given, axis=0, block_size=32)
        node.replace_input_with(index, ir.Value(name="computed"))
        with pytest.raises(UnsupportedModelError, match="computed at run time"):
            read(node)


def test_sessions_open_on_arrays_in_memory(rng):
    packed = pack_model(product(normal(rng, 512, 512), opset=21), Form.QDQ)
    assert open_session(packed.model).get_inputs()[0].name == "x"
