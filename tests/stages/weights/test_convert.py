"""Packed weights from one form to the other and back: the same bits, and what cannot go says why."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from models.registry import load as load_cases
from tests.emitters.weights.packing import SQNR, Form, fused, pack_model, real, rounded, run, sqnr
from tests.emitters.weights.test_block_qdq import foreign, two_bits
from tests.emitters.weights.test_matmul_nbits import NAMES, normal, product
from tests.versions import since
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import FLOAT16_IN_BODY
from vqonnx.emitters.weights.emit import read_blocks
from vqonnx.errors import OptionError, UnsupportedModelError, VerificationError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import initialized_values
from vqonnx.graph.walk import nodes, nodes_by_name
from vqonnx.kernels.blocks.packing import unpack_zero_points
from vqonnx.stages.weights.convert import check_converted, convert

CASES = load_cases()
TWO_WAYS = [Form.MATMUL_NBITS, Form.QDQ]


def equal_bits(left, right):
    return (
        np.array_equal(left.codes, right.codes)
        and left.scales.tobytes() == right.scales.tobytes()
        and np.array_equal(unpack_zero_points(left), unpack_zero_points(right))
    )


def packed_blocks(model):
    """The weight of every product, by the name of its node."""
    found = {}
    for node in nodes(model):
        if node.op_type in ("MatMulNBits", "MatMul", "Gemm"):
            found[node.name] = read_blocks(node)
    return found


def linear(rng, k, n, dtype=np.float32, *, in_body=True):
    """A MatMul, a Gemm with a bias, and two bodies with a product, or with none."""
    kind = NAMES[dtype]
    product = "MatMul (x, d)" if in_body else "Identity (y)"
    text = f"""linear ({kind}[A, {k}] x, bool flag) => ({kind}[A, {n}] y, {kind}[A, {n}] z, {kind}[A, {n}] v) {{
        y = MatMul (x, a)
        z = Gemm <transB = 1> (x, b, c)
        v = If (flag) <
            then_branch = yes () => ({kind}[A, {n}] p) {{ p = {product} }},
            else_branch = no () => ({kind}[A, {n}] q) {{ m = {product} q = Tanh (m) }}
        >
    }}"""
    weights = {"a": (k, n), "b": (n, k), "c": (n,)} | ({"d": (k, n)} if in_body else {})
    arrays = {name: normal(rng, *shape, dtype=dtype) for name, shape in weights.items()}
    return build(text, arrays, opset=21)


@given(
    k=st.integers(1, 150),
    n=st.integers(1, 30),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([32, 64, 128, 256]),
    symmetric=st.booleans(),
    first=st.sampled_from(TWO_WAYS),
    dtype=st.sampled_from(list(NAMES)),
)
def test_a_round_trip_changes_no_bit(k, n, bits, size, symmetric, first, dtype):
    rng = np.random.default_rng(k * 31 + n)
    n = 4 * n if bits == 2 else n
    size = min(size, 128) if bits == 2 else size
    source = linear(rng, k, n, dtype, in_body=dtype is not np.float16)
    spec = BlockSpec(bits=bits, block_size=size, symmetric=symmetric)
    packed = pack_model(two_bits(source) if bits == 2 else source, first, spec)
    before, model = packed_blocks(packed.model), packed.model
    second = Form.QDQ if first is Form.MATMUL_NBITS else Form.MATMUL_NBITS
    there = convert(model, second)
    assert not there.kept
    assert set(there.weights) == set(before)
    between = packed_blocks(model)
    convert(model, first)
    after = packed_blocks(model)
    for name, weight in before.items():
        assert equal_bits(weight, between[name])
        assert equal_bits(weight, after[name])


@pytest.mark.parametrize("first", TWO_WAYS)
@pytest.mark.parametrize(
    "name", ["networks/transformer", "weights/tied", "control/loop", "gemm/trans_a", "matmuls/bias"]
)
def test_both_forms_compute_the_same(name, first, tmp_path):
    case = CASES[name]
    packed = pack_model(case.build(), first, opset=21, op_types=("MatMul", "Gemm"))
    save(packed.model, tmp_path / "before.onnx")
    convert(packed.model, Form.QDQ if first is Form.MATMUL_NBITS else Form.MATMUL_NBITS, accuracy_level=0)
    save(packed.model, tmp_path / "after.onnx", external=True)
    onnx.checker.check_model(tmp_path / "after.onnx")
    exact = {"session.qdq_matmulnbits_accuracy_level": "1"}
    for feed in case.feeds(2):
        before = run(load(tmp_path / "before.onnx"), feed, options=exact)
        after = run(load(tmp_path / "after.onnx"), feed, options=exact)
        for output, wanted in before.items():
            assert sqnr(wanted, after[output]) > SQNR[0]


def test_what_becomes_qdq_is_fused_again(rng, tmp_path):
    since("1.31", "the fusion to MatMulNBits in bodies")
    packed = pack_model(linear(rng, 64, 12))
    before = fused(packed.model, tmp_path).count("MatMulNBits")
    convert(packed.model, Form.QDQ)
    assert "MatMulNBits" not in packed.ops()
    assert fused(packed.model, tmp_path).count("MatMulNBits") == before == 4


def test_what_would_be_fused_to_zeros_stays(rng):
    packed = pack_model(linear(rng, 64, 12, np.float16))
    converted = convert(packed.model, Form.QDQ)
    assert len(converted.weights) == 2
    assert [skip.reason for skip in converted.kept] == [f"{FLOAT16_IN_BODY}."] * 2


def test_the_opset_is_raised_for_qdq_alone(rng):
    packed = pack_model(product(normal(rng, 64, 8), opset=17))
    convert(packed.model, Form.QDQ)
    assert packed.model.opset_imports[""] == 21
    convert(packed.model, Form.MATMUL_NBITS)
    assert packed.model.opset_imports == {"": 21, "com.microsoft": 1}


@pytest.mark.parametrize("level", [0, 1, 4])
def test_the_accuracy_level_is_the_callers(rng, level):
    packed = pack_model(product(normal(rng, 64, 8), opset=21), Form.QDQ)
    convert(packed.model, Form.MATMUL_NBITS, accuracy_level=level)
    (node,) = (node for node in nodes(packed.model) if node.op_type == "MatMulNBits")
    attribute = node.attributes.get("accuracy_level")
    assert (attribute.as_int() if attribute else 0) == level


def test_nothing_of_the_old_form_is_left(rng):
    packed = pack_model(linear(rng, 64, 12))
    size = sum(tensor.nbytes for _, tensor in initialized_values(packed.model))
    convert(packed.model, Form.QDQ)
    convert(packed.model, Form.MATMUL_NBITS)
    assert sum(tensor.nbytes for _, tensor in initialized_values(packed.model)) <= size * 1.5  # bodies have copies
    assert set(packed.ops()) == {"MatMulNBits", "Add", "If", "Tanh"}
    assert all("_Q4_" not in node.name for node in nodes(packed.model))


def test_weights_are_read_when_they_are_written_and_one_is_kept(rng, tmp_path):
    weights = {f"w{i}": normal(rng, 128, 128) for i in range(4)}
    body = " ".join(f"h{i + 1} = MatMul (h{i}, w{i})" for i in range(4))
    source = build(f"chain (float[N, 128] h0) => (float[N, 128] h4) {{ {body} }}", weights, opset=21)
    packed = pack_model(source, Form.QDQ)
    before = packed_blocks(packed.model)
    converted = convert(packed.model, Form.MATMUL_NBITS)
    assert all(
        isinstance(t, ir.LazyTensor) and not t.cache for v, t in initialized_values(packed.model) if "_Q4" in v.name
    )
    first, second = list(converted.weights.values())[:2]
    assert first() is first()  # the last one read is kept
    kept = first()
    second()
    assert first() is not kept
    save(packed.model, tmp_path / "m.onnx", external=True)
    check_converted(tmp_path / "m.onnx", converted)
    after = packed_blocks(load(tmp_path / "m.onnx"))
    assert all(equal_bits(before[name], after[name]) for name in before)


# --- files of other tools


def with_dequantizer(dq, nodes_text, *, inputs="float[A, 70] x", output="float[A, 9] y"):
    """A graph behind a DequantizeLinear ``w`` of ``foreign``."""
    model = load(build(f"g ({inputs}) => ({output}) {{ w = Identity (x) {nodes_text} }}", opset=21, named=True))
    identity = next(node for node in model.graph if node.op_type == "Identity")
    inputs = [add_initializer(model.graph, value.name, value.const_value) for value in dq.inputs]
    made = ir.node("DequantizeLinear", inputs, {n: a.value for n, a in dq.attributes.items()}, name="dq")
    model.graph.insert_before(identity, made)
    for node, index in list(identity.outputs[0].uses()):
        node.replace_input_with(index, made.outputs[0])
    model.graph.remove(identity, safe=True)
    return model


def codes_of(rng, shape):
    return rng.integers(0, 16, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "grid", "attributes", "text"),
    [
        ((70, 9), (3, 9), {"axis": 0, "block_size": 32}, "y = MatMul (x, w)"),
        ((9, 70), (9, 3), {"axis": 1, "block_size": 32}, "y = Gemm <transB = 1> (x, w)"),
        ((9, 70), (9, 3), {"axis": 1, "block_size": 32}, "t = Transpose (w) y = MatMul (x, t)"),
        ((70, 9), (9,), {"axis": 1}, "y = MatMul (x, w)"),
        ((9, 70), (9,), {"axis": 0}, "y = Gemm <transB = 1> (x, w)"),
        ((70, 9), (), {}, "y = Gemm (x, w)"),
        ((70, 9), (3, 9), {"axis": 0, "block_size": 32}, "t = Transpose (w) y = Gemm <transB = 1> (x, t)"),
    ],
)
@pytest.mark.parametrize("with_zero_points", [False, True])
def test_every_layout_becomes_matmul_nbits(rng, shape, grid, attributes, text, with_zero_points):
    zeros = codes_of(rng, grid) if with_zero_points else None
    dq = foreign(codes_of(rng, shape), rng.normal(size=grid).astype(np.float32), zeros, **attributes)
    model = with_dequantizer(dq, text)
    feed = {"x": normal(rng, 3, 70)}
    expected = run(model, feed, optimize=False)["y"]
    converted = convert(model, Form.MATMUL_NBITS, accuracy_level=0)
    assert not converted.kept
    assert [node.op_type for node in model.graph] == ["MatMulNBits"]
    assert sqnr(expected, run(model, feed)["y"]) > SQNR[0]


def test_products_that_share_a_dequantizer_share_the_packed_weight(rng):
    dq = foreign(codes_of(rng, (70, 9)), np.ones((3, 9), np.float32), axis=0, block_size=32)
    model = with_dequantizer(dq, "p = MatMul (x, w) r = Tanh (x) q = MatMul (r, w) y = Mul (p, q)")
    convert(model, Form.MATMUL_NBITS)
    first, second = (node for node in model.graph if node.op_type == "MatMulNBits")
    assert first.inputs[1] is second.inputs[1]
    assert len(model.graph.initializers) == 3


def blocked(rng):
    return foreign(codes_of(rng, (70, 9)), np.ones((3, 9), np.float32), axis=0, block_size=32)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("t = Transpose (x) y = MatMul (w, t)", "the packed weight is not its second input"),
        ("y = Gemm <alpha = 0.5> (x, w)", "multiplied by alpha"),
        ("u = Unsqueeze (w, a) y = MatMul (x, u)", "Unsqueeze has no form with MatMulNBits"),
        ("y = Sin (w)", "Sin has no form with MatMulNBits"),
        ("s = ReduceSum <keepdims = 0> (x, a) y = MatMul (s, w)", "its input has one axis"),
    ],
)
def test_other_readers_of_a_weight_stay_and_say_why(rng, text, why):
    inputs = "float[A, 70] x, int64[1] a"
    model = with_dequantizer(blocked(rng), f"{text} z = MatMul (x, w)", inputs=inputs, output="float z, float y")
    if "one axis" in why:
        reduced = next(value for node in model.graph for value in node.outputs if value.name == "s")
        reduced.shape = ir.Shape([70])
    converted = convert(model, Form.MATMUL_NBITS)
    assert len(converted.weights) == 1
    (skip,) = converted.kept
    assert why in skip.reason


def test_statically_quantized_products_stay(rng):
    dq = blocked(rng)
    text = """s = Constant <value_float = 0.1> () q = QuantizeLinear (x, s) d = DequantizeLinear (q, s)
    y = MatMul (d, w) z = MatMul (x, w)"""
    model = with_dequantizer(dq, text, output="float z, float y")
    converted = convert(model, Form.MATMUL_NBITS)
    assert [skip.reason for skip in converted.kept] == [
        "its input is quantized too, for which ONNX Runtime has integer kernels."
    ]


def test_lookups_and_code_books_stay(rng):
    packed = pack_model(CASES["weights/tied"].build(), op_types=("Gather", "MatMul", "Gemm"))
    books = pack_model(product(normal(rng, 64, 8)), Form.BNB4)
    converted = convert(packed.model, Form.QDQ)
    assert {skip.op_type for skip in converted.kept} == {"GatherBlockQuantized"}
    with pytest.raises(UnsupportedModelError, match=r"can become 'qdq'\. Node 'MatMul_0': MatMulBnb4 has no form"):
        convert(books.model, Form.QDQ)


def test_2_bits_stay_where_qdq_would_be_wrong_or_unknown(rng):
    old = pack_model(product(normal(rng, 64, 8), opset=17), spec=BlockSpec(bits=2))
    with pytest.raises(UnsupportedModelError, match="2-bit codes need opset 25; the model has 21"):
        convert(old.model, Form.QDQ)
    ragged = pack_model(two_bits(product(normal(rng, 64, 7), opset=17)), spec=BlockSpec(bits=2))
    with pytest.raises(UnsupportedModelError, match="7 outputs cannot be 2-bit QDQ"):
        convert(ragged.model, Form.QDQ)


def test_float_zero_points_stay_and_the_rest_goes(rng):
    text = "two (float[A, 64] x) => (float[A, 8] y, float[A, 8] z) { y = MatMul (x, v) z = MatMul (x, w) }"
    packed = pack_model(build(text, {"v": normal(rng, 64, 8), "w": normal(rng, 64, 8)}))
    node = next(node for node in nodes(packed.model) if node.op_type == "MatMulNBits")
    node.inputs[3].const_value = ir.Tensor(np.ones((8, 2), np.float32))
    converted = convert(packed.model, Form.QDQ)
    assert [(skip.node, skip.reason) for skip in converted.kept] == [
        (node.name, "its zero points are float, not packed codes")
    ]


def test_a_model_without_packed_weights_is_an_error(rng):
    for to in TWO_WAYS:
        with pytest.raises(UnsupportedModelError, match=f"no packed weight that could become '{to.value}'"):
            convert(load(product(normal(rng, 64, 8))), to)


def test_there_are_two_forms(rng):
    with pytest.raises(OptionError, match="'bnb4' is no form to convert to"):
        convert(load(product(normal(rng, 64, 8))), Form.BNB4)


def test_one_scale_a_channel_is_split_and_still_the_same(rng, tmp_path):
    spec = BlockSpec(bits=8, block_size=-1, symmetric=True)
    packed = pack_model(
        product(normal(rng, 300, 8), opset=21), Form.CHANNEL_QDQ, weights=lambda one: rounded(one, spec)
    )
    converted = convert(packed.model, Form.MATMUL_NBITS)
    save(packed.model, tmp_path / "m.onnx")
    check_converted(tmp_path / "m.onnx", converted)
    (again,) = packed_blocks(load(tmp_path / "m.onnx")).values()
    np.testing.assert_array_equal(real(again), real(packed.weights["w"]))


@pytest.mark.parametrize("part", ["codes", "scales", "zero_points"])
def test_a_changed_bit_is_found(rng, tmp_path, part):
    packed = pack_model(product(normal(rng, 64, 8), opset=21), Form.QDQ)
    converted = convert(packed.model, Form.MATMUL_NBITS)
    save(packed.model, tmp_path / "m.onnx")
    check_converted(tmp_path / "m.onnx", converted)
    ((name, read),) = converted.weights.items()
    changed = read()
    array = getattr(changed, part).copy()
    array.view(np.uint8).reshape(-1)[0] ^= 1
    wrong = replace(converted, weights={name: lambda: replace(changed, **{part: array})})
    with pytest.raises(VerificationError, match=f"weight of node '{name}' is not what it was"):
        check_converted(tmp_path / "m.onnx", wrong)


def test_names_stay(rng):
    packed = pack_model(linear(rng, 64, 12))
    outputs = {name: node.outputs[0].name for name, node in nodes_by_name(packed.model).items()}
    convert(packed.model, Form.QDQ)
    after = nodes_by_name(packed.model)
    assert set(outputs) <= set(after)
    assert [value.name for value in packed.model.graph.outputs] == ["y", "z", "v"]
