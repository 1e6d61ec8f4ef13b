"""Packed embedding tables, alone and tied with a product, against the rows that their codes mean."""

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from tests.emitters.weights.packing import HALF_SQNR, SQNR, Form, Packed, pack_model, real, rounded, run, sqnr
from tests.versions import since
from vqonnx.core.blocks import BlockSpec
from vqonnx.emitters.weights import matmul_nbits
from vqonnx.emitters.weights.emit import emit_weights
from vqonnx.emitters.weights.gather_blocks import read, replace_lookup, store
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load, save
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import initialized_values
from vqonnx.graph.walk import nodes
from vqonnx.kernels.blocks.packing import unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.planning.rules import Selection
from vqonnx.planning.weights.layers import find_layers
from vqonnx.planning.weights.plan import plan_weights
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.runtime.session import open_session

V = 21
NAMES = {np.float32: "float", np.float16: "float16"}
INDICES = [np.array(3), np.array([0, V - 1]), np.array([[-1, 3, 3]]), np.arange(-V, V).reshape(3, 7, 2)]


def table(rng, k, dtype=np.float32):
    return rng.normal(0.1, 1, (V, k)).astype(dtype)


def lookup(weight, kind="int64"):
    text = f"look ({kind} i) => ({NAMES[weight.dtype.type]} y) {{ y = Gather (t, i) }}"
    return build(text, {"t": weight})


def tied(weight, *, opset=17):
    """Rows looked up, and multiplied by the same table's transpose."""
    kind, k = NAMES[weight.dtype.type], weight.shape[1]
    text = f"""tied (int64[A, B] i) => ({kind}[A, B, {k}] e, {kind}[A, B, {V}] y) {{
        e = Gather (t, i) w = Transpose (t) y = MatMul (e, w)
    }}"""
    return build(text, {"t": weight}, opset=opset)


def pack_tables(model, spec, form=Form.MATMUL_NBITS):
    """``pack_model``, also with widths for which the planner offers no table."""
    return pack_model(model, form, BlockSpec(), weights=lambda layer: rounded(layer, spec))


def node_of(packed: Packed) -> ir.Node:
    return next(node for node in nodes(packed.model) if node.op_type == "GatherBlockQuantized")


SPECS = [
    BlockSpec(bits=bits, block_size=size, symmetric=symmetric)
    for bits in (2, 4, 8)
    for size in (16, 32, 128)
    for symmetric in (False, True)
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [256, 80, 104])
def test_rows_are_exactly_what_the_codes_mean(rng, spec, dtype, k):
    if spec.bits == 2:
        since("1.28", "2-bit kernels")
    packed = pack_tables(lookup(table(rng, k, dtype)), spec)
    rows = real(packed.weights["t"]).T
    for indices in INDICES:
        given = run(packed.model, {"i": indices})["y"]
        np.testing.assert_array_equal(given, rows[indices])
        assert given.dtype == dtype


def test_int32_indices_are_taken(rng):
    packed = pack_tables(lookup(table(rng, 64), "int32"), BlockSpec())
    given = run(packed.model, {"i": INDICES[2].astype(np.int32)})["y"]
    np.testing.assert_array_equal(given, real(packed.weights["t"]).T[INDICES[2]])


def emitted_table(k, spec):
    """Any width: past the planner, which offers no table whose rows are no whole bytes."""
    rng = np.random.default_rng(k)
    model = load(lookup(table(rng, k)))
    graph, names = model.graph, NameAllocator.of(model)
    blocks = round_blocks(table(rng, k).T, spec)
    replace_lookup(graph[0], store(graph, names, "packed", blocks, tied=False), names)
    model.opset_imports["com.microsoft"] = 1
    return model, blocks


@given(
    k=st.integers(1, 300),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([16, 32, 64, 128, 256, -1]),
    symmetric=st.booleans(),
)
def test_any_width_is_looked_up_and_read_back(k, bits, size, symmetric):
    if bits == 2:
        since("1.28", "2-bit kernels")
    model, blocks = emitted_table(k, BlockSpec(bits=bits, block_size=size, symmetric=symmetric))
    given = run(model, {"i": INDICES[2]})["y"]
    np.testing.assert_array_equal(given, real(blocks).T[INDICES[2]])
    again = read(next(node for node in model.graph if node.op_type == "GatherBlockQuantized"))
    assert again.in_features == k
    np.testing.assert_array_equal(unpack_codes(again), unpack_codes(blocks))
    np.testing.assert_array_equal(real(again), real(blocks))
    if again.block_size == blocks.block_size:
        np.testing.assert_array_equal(again.codes, blocks.codes)
        np.testing.assert_array_equal(unpack_zero_points(again), unpack_zero_points(blocks))


@given(k=st.integers(1, 40), size=st.sampled_from([16, 32]))
def test_4_bit_zero_points_lie_alike_with_and_without_gaps_between_rows(k, size):
    # ONNX Runtime up to 1.26 reads them as one sequence, later ones row by row.
    model, blocks = emitted_table(8 * k, BlockSpec(block_size=size))
    value, scales = (
        next(v for n, v in model.graph.initializers.items() if n.endswith(end)) for end in ("points", "scales")
    )
    stored, groups = value.const_value.numpy(), scales.shape[1]
    assert groups in (blocks.blocks, blocks.blocks + 1)
    assert 2 * stored.shape[1] == groups
    assert groups == math.ceil(model.graph.initializers["packed_Q4"].shape[1] * 2 / size)


# --- tied embeddings


@pytest.mark.parametrize("spec", [spec for spec in SPECS if (spec.bits, spec.block_size) != (2, 16)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("k", [256, 96, 104])
def test_a_lookup_and_a_product_share_all_that_is_stored(rng, spec, dtype, k):
    if spec.bits == 2:
        since("1.28", "2-bit kernels")
    packed = pack_tables(tied(table(rng, k, dtype)), spec)
    (blocks,) = packed.weights.values()
    given = run(packed.model, {"i": INDICES[2]})
    rows = real(blocks).T[INDICES[2]]
    np.testing.assert_array_equal(given["e"], rows)
    expected = rows.astype(np.float64) @ real(blocks).astype(np.float64)
    assert sqnr(expected, given["y"]) > (HALF_SQNR if dtype is np.float16 else SQNR[0])
    stored = [tensor for _, tensor in initialized_values(packed.model)]
    extra = 128 + V * (1 + 4)  # shapes, and what pads an odd number of blocks
    assert sum(tensor.nbytes for tensor in stored) <= blocks.nbytes + extra
    product = next(node for node in nodes(packed.model) if node.op_type == "MatMulNBits")
    for again in (read(node_of(packed)), matmul_nbits.read(product)):
        np.testing.assert_array_equal(again.codes, blocks.codes)
        np.testing.assert_array_equal(again.scales, blocks.scales)
        np.testing.assert_array_equal(unpack_zero_points(again), unpack_zero_points(blocks))


def test_the_products_codes_are_constants_when_onnx_runtime_runs(rng, tmp_path):
    packed = pack_tables(tied(table(rng, 96)), BlockSpec())
    open_session(packed.model, optimized_path=tmp_path / "m.onnx")
    optimized = load(tmp_path / "m.onnx")
    product = next(node for node in optimized.graph if node.op_type == "MatMulNBits")
    assert all(value is None or value.is_initializer() for value in product.inputs[1:])
    assert {"Reshape", "DequantizeLinear"}.isdisjoint(node.op_type for node in optimized.graph)


def test_bodies_get_the_nodes_that_they_need(rng):
    text = """tied (int64[A] i, bool flag) => (float[A, 24] y) {
        e = Gather (t, i)
        w = Transpose (t)
        y = If (flag) <
            then_branch = yes () => (float[A, 24] a) { a = MatMul (e, w) },
            else_branch = no () => (float[A, 24] b) { f = Gather (t, i) m = MatMul (f, w) b = Tanh (m) }
        >
    }"""
    model = build(text, {"t": rng.normal(size=(24, 96)).astype(np.float32)})
    packed = pack_tables(model, BlockSpec())  # J is 3: the product reads through Slice and Reshape
    for flag in (True, False):
        feed = {"i": np.array([5, 0, 23]), "flag": np.array(flag)}
        assert sqnr(run(packed.meant, feed)["y"], run(packed.model, feed)["y"]) > SQNR[0]
    for node in nodes(packed.model):
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            makers = [value.producer() for value in node.inputs[1:] if value is not None and value.producer()]
            assert all(maker.graph is node.graph for maker in makers if maker.op_type == "Reshape")


def test_a_saved_tied_model_is_as_small_as_its_codes(rng, tmp_path):
    weight = rng.normal(size=(2000, 128)).astype(np.float32)
    text = """tied (int64[A] i) => (float[A, 2000] y) { e = Gather (t, i) w = Transpose (t) y = MatMul (e, w) }"""
    packed = pack_tables(build(text, {"t": weight}), BlockSpec())
    saved = save(packed.model, tmp_path / "m.onnx")
    (blocks,) = packed.weights.values()
    assert saved.size < blocks.nbytes + 2000
    feed = {"i": np.array([1999, 0])}
    assert sqnr(run(packed.meant, feed)["y"], run(load(tmp_path / "m.onnx"), feed)["y"]) > SQNR[0]


@pytest.mark.parametrize("spec", [BlockSpec(), BlockSpec(bits=8), BlockSpec(symmetric=True)], ids=str)
def test_a_table_beside_a_qdq_product_has_codes_of_its_own(rng, spec):
    weight = rng.normal(size=(24, 96)).astype(np.float32)
    text = """tied (int64[A] i) => (float[A, 96] e, float[A, 24] y) {
        e = Gather (t, i) w = Transpose (t) y = MatMul (e, w)
    }"""
    packed = pack_tables(build(text, {"t": weight}, opset=21), spec, Form.QDQ)
    feed = {"i": np.array([5, 0, -1])}
    expected, given = run(packed.meant, feed), run(packed.model, feed)
    np.testing.assert_array_equal(given["e"], expected["e"])
    assert sqnr(expected["y"], given["y"]) > SQNR[4]


# --- refusals


def test_slices_need_opset_10(rng):
    model = load(build("look (int64 i) => (float y) { y = Gather (t, i) }", {"t": table(rng, 64)}, opset=9))
    layers, skips = find_layers(model)
    plan = plan_weights(layers, skips, WeightRules(selection=Selection(op_types=("Gather",))))
    with pytest.raises(UnsupportedModelError, match=r"needs opset 10 .* has 9"):
        emit_weights(model, plan, {one.name: one for one in layers}, lambda _: rounded(layers[0], BlockSpec()))


def foreign(rng, change):
    blocks = round_blocks(table(rng, 64).T, BlockSpec())
    arrays = {"codes": blocks.codes.reshape(V, -1), "i": np.zeros(1, np.int64), "scales": blocks.scales}
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": 32, "bits": 4}
    change(arrays, attributes)
    values = [ir.Value(name=name, const_value=ir.Tensor(array)) for name, array in arrays.items()]
    graph = ir.Graph([], [], nodes=[], initializers=values, name="g")
    graph.append(ir.node("GatherBlockQuantized", values, attributes, domain="com.microsoft", name="m"))
    return graph[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda a, _: a.update(codes=a["codes"].reshape(V, 2, 16)), "not a constant of packed rows"),
        (lambda a, _: a.update(codes=a["codes"].view(np.int8)), "not a constant of packed rows"),
        (lambda _, attributes: attributes.update(gather_axis=1, quantize_axis=0), "not a constant of packed rows"),
        (lambda a, _: a.update(scales=a["scales"].reshape(-1)), r"scales are no constant \[N, J\]"),
    ],
)
def test_tables_of_another_layout_are_refused(rng, change, why):
    with pytest.raises(UnsupportedModelError, match=why):
        read(foreign(rng, change))
    assert read(foreign(rng, lambda *_: None)).in_features == 64


def test_only_a_cut_at_the_end_of_a_row_tells_its_length(rng):
    model, _ = emitted_table(33, BlockSpec())
    (cut,) = [node for node in model.graph if node.op_type == "Slice"]
    node = next(node for node in model.graph if node.op_type == "GatherBlockQuantized")
    assert read(node).in_features == 33
    cut.inputs[1].const_value = ir.Tensor(np.array([1]))
    assert read(node).in_features > 33
