"""Constants behind chains: what is found, that nothing is read for it, and that the numbers are those of the model."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from models.build import Array, build
from models.registry import load as load_cases
from vqonnx.graph.io import load
from vqonnx.graph.walk import values_by_name
from vqonnx.graph.weight_source import WeightSource, WeightSources
from vqonnx.runtime.session import add_outputs, open_session

CASES = {name: case for name, case in load_cases().items() if case.runnable}
HANDED_OUT = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def computed_constants(model: ir.Model) -> dict[str, WeightSource]:
    """Every value of the main graph that a node makes of constants alone."""
    sources = WeightSources()
    found = {output.name or "": sources.of(output) for node in model.graph for output in node.outputs}
    return {
        name: source for name, source in found.items() if source and source.value is not source.root and source.nbytes
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_numbers_are_those_that_onnx_runtime_computes(name: str) -> None:
    case = CASES[name]
    model = load(case.build())
    sources = {key: one for key, one in computed_constants(model).items() if one.dtype in HANDED_OUT}
    fresh = [key for key, one in sources.items() if not one.value.is_graph_output()]
    session = open_session(add_outputs(load(case.build()), fresh), threads=1, optimize=False)
    feed = next(case.feeds(1))
    for key, expected in zip(fresh, session.run(fresh, feed), strict=True) if fresh else ():
        array = sources[key].read()
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape) == (array.dtype, sources[key].shape)
        np.testing.assert_allclose(array, expected, rtol=1e-6 if array.dtype == np.float32 else 1e-3)


@pytest.mark.parametrize("name", sorted(name for name in CASES if name.startswith("weights/quantized_")))
def test_quantized_weights_are_found_as_such(name: str) -> None:
    dequantized = [one.dequantized for one in computed_constants(load(CASES[name].build())).values()]
    assert dequantized == ([] if name.endswith("packed") else [True])


@st.composite
def steps(draw: st.DrawFn, rank: int) -> tuple[str, int]:
    """A node's text, with {0} for its output and {1} for its input, and the rank behind it."""
    axis = draw(st.integers(0, rank - 1))
    perm = draw(st.permutations(range(rank)))
    kinds = [
        ("{0} = Identity ({1})", rank),
        (f"{{0}} = Transpose <perm = {list(perm)}> ({{1}})", rank),
        ("{0} = Cast <to = 10> ({1})", rank),
        (f"{{0}}a = Constant <value_ints = [{axis}]> () {{0}} = Unsqueeze ({{1}}, {{0}}a)", rank + 1),
        (f"{{0}} = Flatten <axis = {axis}> ({{1}})", 2),
        ("{0}s = Constant <value_ints = [0, -1]> () {0} = Reshape ({1}, {0}s)", 2),
        ("{0}s = Constant <value_ints = [-1, 6]> () {0} = Reshape ({1}, {0}s)", 2),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], str]:
    shape = draw(st.sampled_from([(6, 4), (4, 6), (2, 3, 4), (1, 6, 2), (3, 1, 4, 1)]))
    rank, nodes = len(shape), []
    for position in range(draw(st.integers(0, 5))):
        text, rank = draw(steps(rank))
        nodes.append(text.format(f"v{position + 1}", f"v{position}"))
    return shape, " ".join([*nodes, f"y = Identity (v{len(nodes)})"])


@given(chains())
@settings(max_examples=150)
def test_any_chain_gives_the_reference_s_numbers_and_knows_where_they_lie(chain: tuple[tuple[int, ...], str]) -> None:
    shape, nodes = chain
    weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    # The half type holds these integers exactly; a Cast back makes the declared type right.
    text = f"g () => (float16[a] y) {{ {nodes.replace('y = Identity', 'y = Cast <to = 10>')} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "v0"))
    (expected,) = ReferenceEvaluator(proto).run(None, {})
    source = WeightSources().of(load(proto).graph.outputs[0])
    assert source is not None
    np.testing.assert_array_equal(source.read(), expected)
    if source.in_root:
        places = sum(
            (index * stride for index, stride in zip(np.indices(source.shape), source.strides, strict=True)),
            start=np.zeros(source.shape, int),
        )
        np.testing.assert_array_equal(weight.reshape(-1)[places], expected)


def external_weight(folder: Path, offset: int = 0, nodes: str = "y = MatMul (x, w)") -> Path:
    """A model whose weight [48, 20] = 0, 1, 2 … lies ``offset`` bytes into a file of its own."""
    model = build(f"g (float[N, 48] x) => (float[N, 20] y) {{ {nodes} }}", {"w": np.zeros((48, 20), np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": str(offset), "length": "3840"}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(bytes(offset) + np.arange(960, dtype="<f4").tobytes())
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def weight_of(path: Path) -> WeightSource:
    source = WeightSources().of(list(load(path).graph)[-1].inputs[1])
    assert source is not None
    return source


def is_mapped(array: Array) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def stored(source: WeightSource) -> ir.ExternalTensor:
    assert isinstance(source.stored, ir.ExternalTensor)
    return source.stored


@pytest.mark.parametrize(
    "nodes", ["y = MatMul (x, w)", "i = Identity (w) a = Transpose (i) t = Transpose (a) y = MatMul (x, t)"]
)
def test_a_view_of_external_data_stays_mapped(tmp_path: Path, nodes: str) -> None:
    source = weight_of(external_weight(tmp_path, nodes=nodes))
    assert stored(source).raw is None  # finding it opened nothing
    array = source.read()
    assert is_mapped(array)
    np.testing.assert_array_equal(array, np.arange(960).reshape(48, 20))


def test_data_that_is_not_aligned_is_copied(tmp_path: Path) -> None:
    source = weight_of(external_weight(tmp_path, offset=3))
    array = source.read()
    assert array.flags.aligned
    np.testing.assert_array_equal(array, np.arange(960).reshape(48, 20))


def test_release_closes_the_map_and_reading_opens_it_again(tmp_path: Path) -> None:
    source = weight_of(external_weight(tmp_path))
    total = source.read().sum()
    first = stored(source).raw
    source.release()
    assert first is not None
    assert first.closed
    assert source.read().sum() == total


def test_arrays_outlive_release(tmp_path: Path) -> None:
    source = weight_of(external_weight(tmp_path))
    array = source.read()
    source.release()
    source.release()  # nothing left to do
    assert stored(source).raw is None
    assert array[-1, -1] == 959


def test_inline_constants_have_nothing_to_release() -> None:
    source = WeightSources().of(load(CASES["weights/transpose"].build()).graph[-1].inputs[1])
    assert source is not None
    before = source.read()
    source.release()
    np.testing.assert_array_equal(source.read(), before)


def test_nothing_is_computed_while_sources_are_found() -> None:
    model = load(CASES["weights/deep"].build())

    def refuse() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.LazyTensor(refuse, dtype=value.const_value.dtype, shape=ir.Shape([32, 32]))
    sources = WeightSources()
    found = [sources.of(node.inputs[1]) for node in model.graph if node.op_type == "MatMul"]
    assert None not in found


def test_what_a_run_may_change_is_no_constant() -> None:
    text = """g (float[4, 4] x, float[4, 4] w) => (float[4, 4] y) {
        t = Transpose (w)
        f = Mul (t, u)
        r = Relu (u)
        y = MatMul (x, f)
    }"""
    proto = build(text, {"u": np.zeros((4, 4), np.float32), "w": np.zeros((4, 4), np.float32)})
    model, sources = load(proto), WeightSources()
    found = {name: sources.of(value) is not None for name, value in values_by_name(model).items()}
    assert found == {"x": False, "w": False, "t": False, "u": True, "f": False, "r": False, "y": False}


def test_an_argument_of_a_function_is_no_constant() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[2] x) => (float[2] y) { y = local.f <number = 2.0> (x) }
    <domain: "local", opset_import: ["": 17]>
    f <number> (x) => (y) {
        c = Constant <value_float: float = @number> ()
        d = Constant <value_float = 2.0> ()
        e = Cast <to: int = @number> (d)
        h = Identity (d)
        m = Mul (x, c)
        n = Mul (m, e)
        y = Mul (n, h)
    }"""
    model, sources = load(onnx.parser.parse_model(text)), WeightSources()
    body = next(iter(model.functions.values())).graph
    found = {output.name: sources.of(output) is not None for node in body for output in node.outputs}
    assert found == {"c": False, "d": True, "e": False, "h": True, "m": False, "n": False, "y": False}


def test_the_way_to_a_source_is_told_apart() -> None:
    text = """g (float[4, 4] x) => (float[4, 4] y) {
        a = DequantizeLinear (q, s)
        b = DequantizeLinear (q, s)
        c = DequantizeLinear (q, u)
        d = Cast <to = 10> (w)
        e = Cast <to = 10> (w)
        f = Mul (w, s)
        h = Div (w, s)
        y = Identity (x)
    }"""
    arrays = {"q": np.ones((4, 4), np.int8), "w": np.ones((4, 4), np.float32)}
    arrays |= {name: np.float32(2) for name in "su"}
    values, sources = values_by_name(load(build(text, arrays))), WeightSources()
    found = {name: source for name in "abcdefhw" if (source := sources.of(values[name])) is not None}
    way = {name: source.arithmetic for name, source in found.items()}
    assert way["a"] == way["b"]
    assert way["d"] == way["e"]
    assert len({way[name] for name in "acdfhw"}) == 6
    assert [name for name, source in found.items() if source.dequantized] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("nodes", "strides"),
    [
        ("y = Transpose (w)", (1, 4)),
        ("s = Constant <value_ints = [2, 3, 4]> () y = Reshape (w, s)", (12, 4, 1)),
        ("t = Transpose (w) s = Constant <value_ints = [4, 1, 6]> () y = Reshape (t, s)", (1, 1, 4)),
        ("t = Transpose (w) s = Constant <value_ints = [24]> () y = Reshape (t, s)", None),
    ],
)
def test_strides_count_in_the_root_until_the_order_is_lost(nodes: str, strides: tuple[int, ...] | None) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g () => (float[a] y) {{ {nodes} }}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((6, 4), np.float32), "w"))
    source = WeightSources().of(load(proto).graph.outputs[0])
    assert source is not None
    assert (source.strides if source.in_root else None) == strides
