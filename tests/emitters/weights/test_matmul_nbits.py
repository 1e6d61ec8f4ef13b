"""MatMulNBits in ONNX Runtime against the weight that its codes mean; what it must not be written as; other writers."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from tests.emitters.weights.packing import HALF_SQNR, SQNR, Form, assert_computes, pack_model, real, rounded, run, sqnr
from tests.versions import since
from vqonnx.core.blocks import BlockSpec
from vqonnx.emitters.weights.matmul_nbits import fast_block_size, read, store
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes
from vqonnx.kernels.blocks.packing import dequantize_blocks, pack_blocks, unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.rounding import round_blocks

NAMES = {np.float32: "float", np.float16: "float16"}


def product(weight, opset=17):
    """y = x W with x [.., K]."""
    kind, (k, n) = NAMES[weight.dtype.type], weight.shape
    text = f"product ({kind}[A, B, {k}] x) => ({kind}[A, B, {n}] y) {{ y = MatMul (x, w) }}"
    return build(text, {"w": weight}, opset=opset)


def normal(rng, *shape, dtype=np.float32):
    return rng.normal(0.1, 1, shape).astype(dtype)


def node_of(packed):
    return next(node for node in nodes(packed.model) if node.op_type == "MatMulNBits")


CASES = [
    pytest.param(bits, size, symmetric, dtype, id=f"{bits}bit-{size}-{'sym' if symmetric else 'asym'}-{NAMES[dtype]}")
    for bits in (2, 4, 8)
    for size in (16, 32, 64, 128, 256)
    for symmetric in (False, True)
    for dtype in (np.float32, np.float16)
    if (bits, size) != (2, 16)
]


@pytest.mark.parametrize(("bits", "size", "symmetric", "dtype"), CASES)
def test_it_computes_with_the_weight_that_is_meant(rng, bits, size, symmetric, dtype):
    if bits == 2 and dtype is np.float16:
        since("1.28", "2-bit kernels")
    for k, n in ((256, 24), (203, 7)):
        feed = {"x": normal(rng, 2, 3, k, dtype=dtype)}
        model = product(normal(rng, k, n, dtype=dtype))
        for level, decibels in SQNR.items():
            packed = pack_model(model, spec=BlockSpec(bits=bits, block_size=size, symmetric=symmetric), level=level)
            expected = feed["x"].astype(np.float64) @ real(packed.weights["w"]).astype(np.float64)
            assert sqnr(expected, run(packed.model, feed)["y"]) > min(
                decibels, HALF_SQNR if dtype is np.float16 else 99
            )


@given(
    k=st.integers(1, 150),
    n=st.integers(1, 40),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([32, 64, 128, 256]),
    symmetric=st.booleans(),
    level=st.sampled_from([0, 4]),
)
def test_any_shape_computes_and_is_read_back_bit_by_bit(k, n, bits, size, symmetric, level):
    rng = np.random.default_rng(k * 41 + n)
    packed = pack_model(
        product(normal(rng, k, n)), spec=BlockSpec(bits=bits, block_size=size, symmetric=symmetric), level=level
    )
    # Inputs that 8 bits hold exactly, so that level 4 rounds nothing.
    feed = {"x": rng.integers(-1, 2, (1, 4, k)).astype(np.float32) * 127}
    assert_computes(packed, [feed], 85)
    blocks, again = packed.weights["w"], read(node_of(packed))
    np.testing.assert_array_equal(unpack_codes(again), unpack_codes(blocks))
    np.testing.assert_array_equal(dequantize_blocks(again), dequantize_blocks(blocks))
    if fast_block_size(blocks) == size:
        np.testing.assert_array_equal(again.codes, blocks.codes)
        np.testing.assert_array_equal(again.scales, blocks.scales)
        np.testing.assert_array_equal(unpack_zero_points(again), unpack_zero_points(blocks))


@pytest.mark.parametrize("level", [0, 4])
def test_the_accuracy_level_is_written_where_it_is_not_the_default(rng, level):
    attributes = node_of(pack_model(product(normal(rng, 64, 8)), level=level)).attributes
    assert ("accuracy_level" in attributes) == (level > 0)
    assert {name: attributes[name].as_int() for name in ("K", "N", "bits", "block_size")} == {
        "K": 64, "N": 8, "bits": 4, "block_size": 32
    }  # fmt: skip


# --- sizes of blocks


@pytest.mark.parametrize(
    ("bits", "size", "k", "fast"),
    [
        (4, 16, 64, 16),
        (4, 256, 512, 256),
        (2, 256, 512, 128),
        (2, 16, 16, 32),  # one block may grow
        (8, 200, 200, 256),
        (8, 700, 700, 256),
        (2, 700, 700, 128),
        (4, 3, 3, 16),
        (4, 1, 1, 16),
        (8, 96, 960, 32),
        (4, 512, 2048, 256),
    ],
)
def test_blocks_get_a_size_that_is_fast(rng, bits, size, k, fast):
    codes = rng.integers(0, 1 << bits, (3, k), dtype=np.uint8)
    blocks = pack_blocks(codes, np.ones((3, -(-k // size)), np.float32), None, bits=bits, block_size=size)
    assert fast_block_size(blocks) == fast


@pytest.mark.parametrize(("bits", "size"), [(2, 16), (4, 8), (8, 40)])
def test_blocks_without_a_fast_kernel_are_refused(rng, bits, size):
    codes = rng.integers(0, 1 << bits, (3, 80), dtype=np.uint8)
    blocks = pack_blocks(codes, np.ones((3, 80 // size), np.float32), None, bits=bits, block_size=size)
    with pytest.raises(OptionError, match=f"no fast kernel for {bits}-bit codes in blocks of {size}") as caught:
        fast_block_size(blocks)
    assert caught.value.option == "block_size"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_scale_a_channel_is_repeated(rng, bits, symmetric):
    weight = normal(rng, 300, 12)
    spec = BlockSpec(bits=bits, block_size=-1, symmetric=symmetric)
    packed = pack_model(product(weight), weights=lambda layer: rounded(layer, spec))
    assert_computes(packed, [{"x": normal(rng, 1, 5, 300)}], SQNR[0])
    assert real(read(node_of(packed))).shape == (300, 12)


def test_bfloat16_can_be_written_for_other_providers(rng):
    blocks = round_blocks(normal(rng, 64, 8).astype(ml_dtypes.bfloat16), BlockSpec())
    stored = store(ir.Graph([], [], nodes=[], name="g"), NameAllocator(), "w", blocks)
    assert stored.scales.dtype == ir.DataType.BFLOAT16
    node = ir.node("MatMulNBits", [None, stored.codes, stored.scales, stored.zero_points], stored.attributes)
    np.testing.assert_array_equal(real(read(node)), real(blocks))


# --- biases, and what stands before and behind

GEMMS = [
    (shape, trans_a, beta)
    for shape in (None, (), (1,), (7,), (1, 1), (1, 7), (5, 1), (5, 7))
    for trans_a in (0, 1)
    for beta in (1.0, 0.5, 0.0)
]


@pytest.mark.parametrize("form", [Form.MATMUL_NBITS, Form.QDQ, Form.BNB4])
@pytest.mark.parametrize(("shape", "trans_a", "beta"), GEMMS)
def test_a_gemm_keeps_its_bias_and_transposition(rng, form, shape, trans_a, beta):
    rows = "37, 5" if trans_a else "5, 37"
    text = f"""gemm (float[{rows}] x) => (float[5, 7] y) {{
        y = Gemm <transA = {trans_a}, transB = 1, alpha = 0.5, beta = {beta}> (x, w{"" if shape is None else ", c"})
    }}"""
    weights = {"w": normal(rng, 7, 37)} | ({} if shape is None else {"c": normal(rng, *shape)})
    packed = pack_model(build(text, weights, opset=21), form)
    feed = {"x": normal(rng, *((37, 5) if trans_a else (5, 37)))}
    assert_computes(packed, [feed], SQNR[4] if form is Form.QDQ else SQNR[0])
    behind = {"Add", "Mul"} & set(packed.ops())
    one_row = shape is None or beta == 0 or shape in ((), (1,), (7,), (1, 1), (1, 7))
    if form is not Form.BNB4:
        assert behind == (set() if one_row else {"Add", "Mul"} if beta != 1 else {"Add"})


def test_a_bias_that_fits_is_shared_not_copied(rng):
    text = """two (float[N, 32] x) => (float[N, 7] y, float[N, 7] z) {
        y = Gemm (x, v, c) z = Gemm (x, w, c)
    }"""
    weights = {"v": normal(rng, 32, 7), "w": normal(rng, 32, 7), "c": normal(rng, 7)}
    packed = pack_model(build(text, weights))
    assert [node.inputs[5].name for node in nodes(packed.model)] == ["c", "c"]


@pytest.mark.parametrize("beta", [1.0, -2.0])
def test_a_computed_bias_is_added_behind(rng, beta):
    text = f"""gemm (float[5, 37] x, float[7] c) => (float[5, 7] y) {{ y = Gemm <beta = {beta}> (x, w, c) }}"""
    packed = pack_model(build(text, {"w": normal(rng, 37, 7)}))
    assert_computes(packed, [{"x": normal(rng, 5, 37), "c": normal(rng, 7)}], SQNR[0])
    assert packed.ops() == ["MatMulNBits", "Add"] if beta == 1 else {"Mul", "Add"} < set(packed.ops())


@pytest.mark.parametrize("form", [Form.MATMUL_NBITS, Form.QDQ, Form.BNB4])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("places", [(9,), (4, 5), (3, 2, 4)])
def test_a_pointwise_convolution_multiplies_channels(rng, form, biased, places):
    shape, ones = ", ".join(map(str, places)), (1,) * len(places)
    text = (
        f"""conv (float[2, 35, {shape}] x) => (float[2, 6, {shape}] y) {{ y = Conv (x, w{", b" if biased else ""}) }}"""
    )
    weights = {"w": normal(rng, 6, 35, *ones)} | ({"b": normal(rng, 6)} if biased else {})
    packed = pack_model(build(text, weights, opset=21), form)
    assert "Conv" not in packed.ops()
    assert_computes(packed, [{"x": normal(rng, 2, 35, *places)}], SQNR[4] if form is Form.QDQ else SQNR[0])


@pytest.mark.parametrize("places", ["37", "2, 37", "1, 2, 3, 37"])
def test_inputs_of_every_rank_are_taken(rng, places):
    text = f"m (float[N, {places}] x) => (float[N, {places.replace('37', '6')}] y) {{ y = MatMul (x, w) }}"
    packed = pack_model(build(text, {"w": normal(rng, 37, 6)}))
    shape = (2, *(int(size) for size in places.split(", ")))
    assert_computes(packed, [{"x": normal(rng, *shape)}], SQNR[0])


def test_branches_read_one_packed_weight(rng):
    text = """branches (float[N, 40] x, bool flag) => (float[N, 12] y) {
        y = If (flag) <
            then_branch = yes () => (float[N, 12] a) { m = MatMul (x, w) a = Tanh (m) },
            else_branch = no () => (float[N, 12] b) { b = MatMul (x, w) }
        >
    }"""
    packed = pack_model(build(text, {"w": normal(rng, 40, 12)}))
    x = normal(rng, 3, 40)
    assert_computes(packed, [{"x": x, "flag": np.array(flag)} for flag in (True, False)], SQNR[0])
    assert sorted(packed.model.graph.initializers) == ["w_Q4", "w_scales", "w_zero_points"]
    first, second = [node for node in nodes(packed.model) if node.op_type == "MatMulNBits"]
    assert first.inputs[1] is second.inputs[1]


# --- files of other tools


def foreign(rng, change, bits=4, n=5, k=48):
    """A MatMulNBits node, with its inputs changed by ``change``."""
    blocks = round_blocks(normal(rng, k, n), BlockSpec(bits=bits, block_size=16))
    arrays = {
        "codes": blocks.codes, "scales": blocks.scales, "zero_points": blocks.zero_points, "g_idx": None, "bias": None
    }  # fmt: skip
    attributes = {"K": k, "N": n, "bits": bits, "block_size": 16}
    change(arrays, attributes)
    values = [
        None if array is None else ir.Value(name=name, const_value=ir.Tensor(array)) for name, array in arrays.items()
    ]
    graph = ir.Graph([], [], nodes=[], initializers=[v for v in values if v is not None], name="g")
    inputs = [ir.Value(name="x"), *values]
    graph.append(ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft", name="m"))
    return blocks, graph[0]


def test_flat_parameters_and_absent_zero_points_are_read(rng):
    def flatten(arrays, attributes):
        del attributes
        arrays |= {"scales": arrays["scales"].reshape(-1), "zero_points": arrays["zero_points"].reshape(-1)}

    blocks, node = foreign(rng, flatten)
    again = read(node)
    for part in ("codes", "scales", "zero_points"):
        np.testing.assert_array_equal(getattr(again, part), getattr(blocks, part))
    _, node = foreign(rng, lambda arrays, _: arrays.update(zero_points=None))
    assert read(node).symmetric


def test_zero_points_that_are_all_in_the_middle_are_left_out(rng):
    _, node = foreign(rng, lambda arrays, _: arrays.update(zero_points=np.full((5, 2), 0x88, np.uint8)))
    assert read(node).symmetric
    # J is 3: the last four bits of a row belong to no block.
    _, node = foreign(rng, lambda arrays, _: arrays.update(zero_points=np.tile(np.uint8([0x88, 0x08]), (5, 1))))
    assert read(node).symmetric


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a, _: a.update(zero_points=np.zeros((5, 3), np.float32)), "zero points are float, not packed codes"),
        (lambda a, _: a.update(zero_points=np.zeros(8, np.uint8)), "8 bytes of zero points instead of 10"),
        (lambda a, _: a.update(g_idx=np.zeros(48, np.int32)), "rows are permuted"),
        (lambda a, _: a.update(scales=a["scales"][:, :2]), "scales are no constant of the size"),
        (lambda a, _: a.update(codes=a["codes"][:, :2]), "codes are no constant of the size"),
        (lambda a, _: a.update(codes=a["codes"].view(np.int8)), "codes are no constant of the size"),
        (lambda _, attributes: attributes.update(bits=3), "codes of 3 bits"),
        (lambda _, attributes: attributes.update(weight_prepacked=1), "as one device wants them"),
    ],
)
def test_weights_that_are_no_blocks_of_codes_are_refused(rng, change, why):
    _, node = foreign(rng, change)
    with pytest.raises(UnsupportedModelError, match=why) as caught:
        read(node)
    assert caught.value.node == "m"


def test_a_computed_weight_is_refused(rng):
    _, node = foreign(rng, lambda *_: None)
    node.replace_input_with(1, ir.Value(name="computed"))
    with pytest.raises(UnsupportedModelError, match="codes are no constant"):
        read(node)
    _, node = foreign(rng, lambda *_: None)
    node.replace_input_with(3, ir.Value(name="computed"))
    with pytest.raises(UnsupportedModelError, match="zero points are computed"):
        read(node)
