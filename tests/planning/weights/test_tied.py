"""Tied weights: what is one weight, what only looks like it, and what is read to know."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.build import Array, build
from models.registry import load as load_cases
from models.sharing import both_ways, one_weight, tied_embedding, weight_and_value
from models.weights import decoder_with_cache, merged_decoder, quantized, tied_copies
from tests.planning.finding import found_in
from vqonnx.graph.io import load, save
from vqonnx.planning.weights.layers import find_layers
from vqonnx.planning.weights.tied import float_readers, tie

CASES = load_cases()


def tied_in(proto: onnx.ModelProto, *, requantize: bool = False) -> list[tuple[str, ...]]:
    return [tuple(layer.name for layer in group) for group in tie(found_in(proto, requantize=requantize)[1])]


@pytest.mark.parametrize(
    ("make", "groups"),
    [
        (lambda: tied_embedding("Gemm"), [("Gather_0", "Gemm_3"), ("Gemm_1",)]),
        (lambda: tied_embedding("MatMul"), [("Gather_0", "MatMul_4"), ("Gemm_1",)]),
        (both_ways, [("Gemm_0",), ("Gemm_2",)]),
        (weight_and_value, [("MatMul_0",)]),
        (
            tied_copies,
            [("Gather_0", "Gemm_4", "MatMul_7"), ("MatMul_1", "MatMul_3"), ("MatMul_5",)],
        ),
        (
            merged_decoder,
            [
                ("Gather_0",),
                ("If_1/then_branch/MatMul_0", "If_1/else_branch/MatMul_0"),
                ("If_1/then_branch/MatMul_2", "If_1/else_branch/MatMul_2"),
            ],
        ),
    ],
)
def test_one_weight_has_all_its_readers(make: object, groups: list[tuple[str, ...]]) -> None:
    assert tied_in(make()) == groups  # type: ignore[operator]


@pytest.mark.parametrize("name", sorted(CASES))
def test_groups_hold_equal_weights_and_no_two_groups_do(name: str) -> None:
    layers = found_in(CASES[name].build(), requantize=True)[1]
    groups = tie(layers)
    assert sorted(layer.name for group in groups for layer in group) == sorted(layer.name for layer in layers)
    seen = set()
    for group in groups:
        contents = {(layer.read().shape, layer.dtype, layer.read().tobytes()) for layer in group}
        assert len(contents) == 1
        seen |= contents
    assert len(seen) == len(groups)


def product(nodes: str, **arrays: Array) -> onnx.ModelProto:
    return build(f"g (float[N, 6] x) => (float[N, 4] y, float[N, 4] z) {{ {nodes} }}", arrays)


def test_the_same_constant_in_many_guises_is_one_weight() -> None:
    w = np.arange(24, dtype=np.float32).reshape(4, 6)
    nodes = """a = Transpose (w) b = Identity (a) p = MatMul (x, b) q = Gemm <transB = 1> (x, w)
    s = Constant <value_ints = [4, 1, 6]> () c = Reshape (w, s) d = Squeeze (c) r = Gemm <transB = 1> (x, d)
    t = MatMul (x, copy) u = Add (p, q) v = Add (r, t) y = Add (u, v) z = Identity (y)"""
    assert len(tied_in(product(nodes, w=w, copy=w.T.copy()))) == 1


@pytest.mark.parametrize(
    "second",
    [
        "z = Gemm <alpha = 2.0> (x, w)",
        "h = Cast <to = 10> (w) f = Cast <to = 1> (h) z = MatMul (x, f)",
        "two = Constant <value_float = 2.0> () f = Mul (w, two) z = MatMul (x, f)",
        "z = MatMul (x, near)",
        "z = MatMul (x, zero)",
    ],
)
def test_what_computes_otherwise_is_another_weight(second: str) -> None:
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    w[0, 0] = 0.0
    near, zero = w.copy(), w.copy()
    near[5, 3] = np.nextafter(near[5, 3], np.float32(9))
    zero[0, 0] = -0.0  # equal as a number, another bit pattern
    assert len(tied_in(product(f"y = MatMul (x, w) {second}", w=w, near=near, zero=zero))) == 2


def test_equal_arithmetic_on_equal_copies_is_one_weight() -> None:
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    nodes = """a = Cast <to = 1> (w) y = MatMul (x, a)
    b = Transpose (v) c = Cast <to = 1> (b) z = MatMul (x, c)"""
    assert len(tied_in(product(nodes, w=w, v=w.T.copy()))) == 1


def test_nan_is_equal_to_itself() -> None:
    w = np.full((6, 4), np.nan, np.float32)
    assert len(tied_in(product("y = MatMul (x, w) z = MatMul (x, v)", w=w, v=w.copy()))) == 1


def test_duplicate_dequantizations_of_one_constant_are_one_weight() -> None:
    proto = quantized("channels")
    second = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w2"], axis=1, name="again")
    proto.graph.node.extend([second, onnx.helper.make_node("MatMul", ["x", "w2"], ["y2"], name="other")])
    assert tied_in(proto, requantize=True) == [("MatMul_1", "other")]


def test_constants_of_unlike_shape_are_not_read() -> None:
    text = " ".join(f"y{i} = MatMul (x, w{i})" for i in range(3))
    proto = build(
        f"g (float[N, 8] x) => (float[N, 1] y0, float[N, 2] y1, float[N, 3] y2) {{ {text} }}",
        {f"w{i}": np.zeros((8, i + 1), np.float32) for i in range(3)},
    )

    def refuse() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = load(proto)
    for number, value in enumerate(model.graph.initializers.values()):
        value.const_value = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=ir.Shape([8, number + 1]))
    assert len(tie(find_layers(model)[0])) == 3


def transposed_copies(folder: Path, rows: int, columns: int) -> Path:
    """A model with a weight and its transpose in external data."""
    wide = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    text = f"""g (float[N, {rows}] x) => (float[N, {columns}] y, float[N, {columns}] z) {{
        y = MatMul (x, w)
        z = Gemm <transB = 1> (x, v)
    }}"""
    save(load(build(text, {"w": wide, "v": wide.T.copy()})), folder / "m.onnx", external=True)
    return folder / "m.onnx"


def test_maps_are_closed_after_comparing(tmp_path: Path) -> None:
    layers, _ = find_layers(load(transposed_copies(tmp_path, 600, 700)))
    assert len(tie(layers)) == 1
    tensors = [layer.weight.stored for layer in layers]
    assert all(isinstance(tensor, ir.ExternalTensor) and tensor.raw is None for tensor in tensors)


def test_copies_are_compared_without_being_held(tmp_path: Path) -> None:
    layers, _ = find_layers(load(transposed_copies(tmp_path, 2048, 2048)))  # 16 MiB each
    tracemalloc.start()
    try:
        assert len(tie(layers)) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21


@given(
    st.sampled_from([(1, 1), (1, 7), (513, 2), (5, 1030), (6, 6)]),
    st.sampled_from([np.float32, np.float16]),
    st.booleans(),
    st.integers(-1, 4),
)
@settings(max_examples=60)
def test_copies_are_tied_exactly_if_all_bits_agree(
    shape: tuple[int, int], dtype: type, transposed: bool, changed: int
) -> None:
    first = np.random.default_rng(2).normal(size=shape).astype(dtype)
    second = first.copy()
    if changed >= 0:
        second.reshape(-1)[changed * (second.size - 1) // 4] += 1
    arrays = {"w": first, "v": np.ascontiguousarray(second.T) if transposed else second}
    kind, (k, n) = ("float" if dtype is np.float32 else "float16"), shape
    text = f"""g ({kind}[N, {k}] x) => ({kind}[N, {n}] y, {kind}[N, {n}] z) {{
        y = MatMul (x, w)
        z = Gemm <transB = {int(transposed)}> (x, v)
    }}"""
    assert len(tied_in(build(text, arrays))) == (1 if changed < 0 else 2)


@pytest.mark.parametrize(
    ("make", "root", "readers"),
    [
        (weight_and_value, "w", ["Add_1"]),
        (both_ways, "a_w", []),
        (decoder_with_cache, "table", []),
        (one_weight, "c_w", ["Conv_0", "Conv_2"]),
    ],
)
def test_readers_that_stay_float_are_named(make: object, root: str, readers: list[str]) -> None:
    model, layers, _ = found_in(make())  # type: ignore[operator]
    packed = {(layer.node, layer.weight_index) for layer in layers}
    assert float_readers(model.graph.initializers[root], packed) == readers


def test_readers_behind_chains_outputs_and_other_inputs_count() -> None:
    w = np.eye(6, dtype=np.float32)
    text = """g (float[N, 6] x) => (float[N, 6] y, float[6, 6] t, float[6, 6] w) {
        t = Transpose (w)
        p = MatMul (x, t)
        q = Gemm (p, w, w)
        i = Identity (w)
        s = Softmax (i)
        y = MatMul (q, s)
    }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    model, layers, _ = found_in(proto)
    packed = {(layer.node, layer.weight_index) for layer in layers}
    names = float_readers(model.graph.initializers["w"], packed)
    assert sorted(names) == sorted(["output w", "output t", "Gemm_q", "Softmax_s"])
