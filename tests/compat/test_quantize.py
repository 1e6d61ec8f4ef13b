"""vqonnx.compat.quantize: the peer's defaults, placement of pairs, options and errors.

Expected nodes were found by running onnxruntime.quantization 1.31 on the same graphs; where it is wrong, tests say so.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import vqonnx.compat as compat
from vqonnx.errors import OptionError, UnsupportedOptionError
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantType
from vqonnx.runtime.session import open_session

CONVS = """
    <ir_version: 8, opset_import: ["" : 12]>
    g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
        c = Conv (x, w, b)
        r = Relu (c)
        m = MaxPool <kernel_shape = [1, 1]> (r)
        y = Conv (m, v)
    }
"""
PRODUCTS = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[2,8] x) => (float[2,4] y) {
        h = MatMul (x, w)
        a = Add (h, b)
        s = Sigmoid (a)
        y = Gemm (s, v, d)
    }
"""
RELUS = PRODUCTS.replace("Sigmoid", "Relu")
WEIGHTS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    CONVS: {"w": (5, 3, 1, 1), "b": (5,), "v": (4, 5, 1, 1)},
    **{key: {"w": (8, 6), "b": (6,), "v": (6, 4), "d": (4,)} for key in (PRODUCTS, RELUS)},
}
SHAPES = {CONVS: (1, 3, 6, 6), PRODUCTS: (2, 8), RELUS: (2, 8)}
PAIRS = {"QuantizeLinear": 4, "DequantizeLinear": 7, "Conv": 2, "MaxPool": 1}


def model(text: str) -> onnx.ModelProto:
    random = np.random.default_rng(5)
    made = parser.parse_model(text)
    for index, node in enumerate(made.graph.node):
        node.name = f"{node.op_type}_{index}"
    made.graph.initializer.extend(
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in WEIGHTS.get(text, {}).items()
    )
    return made


class Reader(compat.CalibrationDataReader):
    """Samples; a part of them where asked."""

    def __init__(self, shape: tuple[int, ...], count: int = 4) -> None:
        self.feeds = [{"x": np.random.default_rng(i).normal(size=shape).astype(np.float32)} for i in range(count)]
        self.left: Iterator[dict[str, Any]] = iter(self.feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)

    def __len__(self) -> int:
        return len(self.feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.feeds[start_index:end_index])


def quantized(folder: Path, text: str = CONVS, **arguments: Any) -> onnx.ModelProto:
    compat.quantize_static(model(text), folder / "q.onnx", Reader(SHAPES[text]), **arguments)
    return onnx.load(folder / "q.onnx")


def with_option(folder: Path, text: str = CONVS, /, per_channel: bool = False, **options: Any) -> onnx.ModelProto:
    return quantized(folder, text, activation_type=QuantType.QUInt8, per_channel=per_channel, extra_options=options)


def nodes(found: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in found.graph.node)


def array(found: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(one) for one in found.graph.initializer if one.name == name)


def error(folder: Path, text: str, found: onnx.ModelProto) -> float:
    """Largest difference to the float model on a sample, as a share of its largest output."""
    feed = Reader(SHAPES[text]).feeds[0]
    onnx.save(model(text), folder / "float.onnx")
    onnx.save(found, folder / "given.onnx")
    expected, given = (open_session(folder / name).run(None, feed)[0] for name in ("float.onnx", "given.onnx"))
    return float(np.abs(expected - given).max() / np.abs(expected).max())


# ---- defaults and placement ----


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, PAIRS),
        ({"op_types_to_quantize": ["Conv"]}, {**PAIRS, "Relu": 1}),
        (
            {"extra_options": {"ActivationSymmetric": True}},
            {**PAIRS, "QuantizeLinear": 5, "DequantizeLinear": 8, "Relu": 1},
        ),
        (
            {"extra_options": {"QDQKeepRemovableActivations": True}},
            {**PAIRS, "QuantizeLinear": 5, "DequantizeLinear": 8, "Relu": 1},
        ),
        ({"extra_options": {"QuantizeBias": False}}, {**PAIRS, "DequantizeLinear": 6}),
        ({"extra_options": {"AddQDQPairToWeight": True}}, {**PAIRS, "QuantizeLinear": 6}),
        (
            {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv"]}},
            {"QuantizeLinear": 2, "DequantizeLinear": 5, "Conv": 2, "Relu": 1, "MaxPool": 1},
        ),
        (
            {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
            {"QuantizeLinear": 1, "QLinearConv": 2, "MaxPool": 1, "DequantizeLinear": 1},
        ),
    ],
)
def test_nodes_are_those_of_the_peer(tmp_path: Path, arguments: dict[str, Any], expected: dict[str, int]) -> None:
    found = quantized(tmp_path, **arguments)
    assert nodes(found) == expected
    assert error(tmp_path, CONVS, found) < 0.03


def test_types_names_and_scales_are_those_of_the_peers_defaults(tmp_path: Path) -> None:
    found = quantized(tmp_path)
    assert (array(found, "w_quantized").dtype, array(found, "w_scale").shape) == (np.int8, ())
    assert array(found, "b_quantized").dtype == np.int32
    feeds = [feed["x"] for feed in Reader(SHAPES[CONVS]).feeds]
    low, high = min(x.min() for x in feeds), max(x.max() for x in feeds)
    assert array(found, "x_scale") == np.float32((float(high) - float(low)) / 255)
    assert array(found, "x_zero_point").dtype == np.int8
    assert found.opset_import[0].version == 12
    named = {node.name: node for node in found.graph.node}
    assert named["y_QuantizeLinear"].input[0] == "y_QuantizeLinear_Input"
    assert named["x_DequantizeLinear"].output[0] == "x_DequantizeLinear_Output"
    scale = next(one for one in found.graph.initializer if one.name == "x_scale")
    assert scale.float_data[0] == array(found, "x_scale")


def test_followers_are_quantized_only_behind_something_quantized(tmp_path: Path) -> None:
    alone = model('<ir_version: 8, opset_import: ["" : 13]> g (float[1,2,4,4] x) => (y) {y = Transpose (x)}')
    reader = [{"x": np.ones((1, 2, 4, 4), np.float32)}]
    compat.quantize_static(alone, tmp_path / "a.onnx", reader)
    assert nodes(onnx.load(tmp_path / "a.onnx")) == {"Transpose": 1}
    forced = {"ForceQuantizeNoInputCheck": True}
    compat.quantize_static(alone, tmp_path / "b.onnx", reader, extra_options=forced)
    assert nodes(onnx.load(tmp_path / "b.onnx")) == {"Transpose": 1, "QuantizeLinear": 2, "DequantizeLinear": 2}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("Gather (w, i)", {"Gather": 1, "DequantizeLinear": 2, "QuantizeLinear": 1}),
        ("Flatten <axis = 0> (w)", {"Flatten": 1}),
    ],
)
def test_of_what_moves_constants_only_lookups_are_quantized(
    tmp_path: Path, node: str, expected: dict[str, int]
) -> None:
    made = model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        g (int64[2] i) => (float[a,b] y) <float[3, 2] w = {{1, -2, 3, 4, 5, 6}}> {{ y = {node} }}
    """)
    compat.quantize_static(made, tmp_path / "q.onnx", [{"i": np.array([0, 2])}])
    assert nodes(onnx.load(tmp_path / "q.onnx")) == expected


def test_operators_that_the_user_names_get_pairs(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[4] x) => (float[4] y) {y = Tanh (x)}'
    compat.quantize_static(
        model(text), tmp_path / "q.onnx", [{"x": np.ones(4, np.float32)}], op_types_to_quantize=["Tanh"]
    )
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {"Tanh": 1, "QuantizeLinear": 2, "DequantizeLinear": 2}


def test_a_relu_that_others_read_past_keeps_its_zeros(tmp_path: Path) -> None:
    """The peer's QOperator form drops it: 2.1 instead of 0.08 of the largest output."""
    text = """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[1,3,6,6] x) => (float[1,3,6,6] y) {c = Conv (x, w) r = Relu (c) y = Add (c, r)}
    """
    made = model(text)
    made.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "w"))
    reader = Reader(SHAPES[CONVS])
    for form in QuantFormat:
        reader.set_range(0, 4)
        compat.quantize_static(made, tmp_path / "q.onnx", reader, quant_format=form, activation_type=QuantType.QUInt8)
        feed = reader.feeds[0]
        given = open_session(tmp_path / "q.onnx").run(None, feed)[0]
        np.testing.assert_allclose(given, feed["x"] + np.maximum(feed["x"], 0), atol=0.1)


def test_symmetric_codes_leave_clips_to_float(tmp_path: Path) -> None:
    found = quantized(tmp_path, quant_format=QuantFormat.QOperator, extra_options={"ActivationSymmetric": True})
    assert nodes(found) == {"QuantizeLinear": 2, "QLinearConv": 2, "Relu": 1, "MaxPool": 1, "DequantizeLinear": 2}


def test_a_clip_whose_bounds_lie_half_way_between_codes_goes(tmp_path: Path) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[3] x) => (float[3] y)
        <float[3] w = {1, 2, 3}, float low = {-1}, float high = {1}> {a = Add (x, w) y = Clip (a, low, high)}
    """
    feeds = [{"x": np.array([-9, -2.5, 9], np.float32)}]
    compat.quantize_static(model(text), tmp_path / "q.onnx", feeds, activation_type=QuantType.QUInt8)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {"QuantizeLinear": 2, "DequantizeLinear": 3, "Add": 1}
    given = open_session(tmp_path / "q.onnx").run(None, feeds[0])[0]
    np.testing.assert_allclose(given, [-1, -0.5, 1], atol=0.04)


def test_embeddings_become_one_integer_operator(tmp_path: Path) -> None:
    made = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>
        g (int32[1,3] x, int32[1,3] s) => (float[1,3,4] y, int32[1] m) {
            y, m = com.microsoft.EmbedLayerNormalization (x, s, word, position, segment, gamma, beta)
        }
    """)
    random = np.random.default_rng(0)
    shapes = {"word": (5, 4), "position": (4, 4), "segment": (2, 4), "gamma": (4,), "beta": (4,)}
    for name, shape in shapes.items():
        made.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    feed = {"x": np.array([[1, 4, 2]], np.int32), "s": np.array([[0, 1, 1]], np.int32)}
    form = {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8}
    compat.quantize_static(made, tmp_path / "q.onnx", [feed], **form)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {"QEmbedLayerNormalization": 1}
    onnx.save(made, tmp_path / "f.onnx")
    expected, given = (open_session(tmp_path / name).run(None, feed)[0] for name in ("f.onnx", "q.onnx"))
    np.testing.assert_allclose(given, expected, atol=0.05)


def test_factors_of_a_gemm_are_folded(tmp_path: Path) -> None:
    """The peer multiplies the bias's scale by beta and drops beta: -4.8 dB."""
    text = PRODUCTS.replace("Gemm (s", "Gemm <alpha = 0.5, beta = 0.25> (s")
    made = model(PRODUCTS)
    made.graph.node[-1].CopyFrom(model(text).graph.node[-1])
    reader = Reader(SHAPES[PRODUCTS])
    compat.quantize_static(made, tmp_path / "q.onnx", reader, activation_type=QuantType.QUInt8)
    onnx.save(made, tmp_path / "f.onnx")
    expected, given = (open_session(tmp_path / name).run(None, reader.feeds[0])[0] for name in ("f.onnx", "q.onnx"))
    np.testing.assert_allclose(given, expected, atol=0.03 * np.abs(expected).max())


# ---- options ----


def test_each_reader_has_a_pair_of_its_own(tmp_path: Path) -> None:
    text = PRODUCTS.replace("y = Gemm (s, v, d)", "t = Sigmoid (a) z = Add (s, t) y = Gemm (z, v, d)")
    made = model(PRODUCTS)
    del made.graph.node[:]
    made.graph.node.extend(model(text).graph.node)
    options = {"DedicatedQDQPair": True}
    compat.quantize_static(made, tmp_path / "q.onnx", Reader(SHAPES[PRODUCTS]), extra_options=options)
    found = onnx.load(tmp_path / "q.onnx")
    readers = {node.input[0] for node in found.graph.node if node.op_type == "Sigmoid"}
    assert readers == {"a_DequantizeLinear_Output_1", "a_DequantizeLinear_Output_2"}


def test_an_axis_by_operator_counts_where_weights_have_one(tmp_path: Path) -> None:
    axes = {"MatMul": 0}
    assert array(with_option(tmp_path, PRODUCTS, per_channel=True), "w_scale").shape == (6,)
    found = with_option(tmp_path, PRODUCTS, per_channel=True, QDQOpTypePerChannelSupportToAxis=axes)
    assert array(found, "w_scale").shape == (8,)
    found = with_option(tmp_path, PRODUCTS, QDQOpTypePerChannelSupportToAxis=axes)
    assert array(found, "w_scale").shape == ()


def test_restricted_zero_points_are_the_middle_or_the_end(tmp_path: Path) -> None:
    found = with_option(tmp_path, PRODUCTS, ActivationRestrictedAsymmetric=True)
    assert {int(array(found, f"{name}_zero_point")) for name in ("x", "h", "a", "y")} == {128}
    assert int(array(found, "s_zero_point")) == 0
    assert error(tmp_path, PRODUCTS, found) < 0.03


def test_weights_in_blocks_run_in_onnxruntime(tmp_path: Path) -> None:
    """The peer's model is fused to a product that refuses blocks when it runs."""
    found = with_option(tmp_path, PRODUCTS, BlockSize=4)
    assert found.opset_import[0].version == 21
    assert (array(found, "w_scale").shape, array(found, "v_scale").shape) == ((2, 6), (2, 4))
    assert error(tmp_path, PRODUCTS, found) < 0.02
    with pytest.raises(UnsupportedOptionError, match="weight of Conv 'Conv_0' has rank 4") as caught:
        with_option(tmp_path, CONVS, BlockSize=4)
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize(("text", "divisions"), [(RELUS, 1), (PRODUCTS, 2), (CONVS, 2)])
def test_smoothing_divides_by_nodes_where_no_constant_can(tmp_path: Path, text: str, divisions: int) -> None:
    found = with_option(tmp_path, text, SmoothQuant=True)
    plain = nodes(with_option(tmp_path, text, SmoothQuant=True, SmoothQuantFolding=False))
    assert (nodes(found)["Mul"], plain["Mul"]) == (divisions, 2)
    assert error(tmp_path, text, found) < 0.03


def test_smoothing_helps_outliers(tmp_path: Path) -> None:
    class Outliers(Reader):
        def __init__(self) -> None:
            super().__init__(SHAPES[PRODUCTS])
            for feed in self.feeds:
                feed["x"][:, 3] *= 100

    made, errors = model(PRODUCTS), []
    for node in list(made.graph.node)[1:]:
        made.graph.node.remove(node)
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [2, 6]))
    weight = next(one for one in made.graph.initializer if one.name == "w")
    small = numpy_helper.to_array(weight).copy()
    small[3] /= 100
    weight.CopyFrom(numpy_helper.from_array(small, "w"))
    expected = Outliers().feeds[0]["x"] @ small
    for wanted in (False, True):
        options = {"SmoothQuant": wanted, "OpTypesToExcludeOutputQuantization": ["MatMul"]}
        compat.quantize_static(
            made, tmp_path / "q.onnx", Outliers(), activation_type=QuantType.QUInt8, extra_options=options
        )
        given = open_session(tmp_path / "q.onnx").run(None, Outliers().feeds[0])[0]
        errors.append(float(np.abs(given - expected).max()))
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize(
    ("activation", "weight", "opset", "most"),
    [
        (QuantType.QUInt16, QuantType.QInt8, 21, 0.02),
        (QuantType.QInt16, QuantType.QInt16, 21, 1e-3),
        (QuantType.QUInt8, QuantType.QInt4, 21, 0.3),
        (QuantType.QFLOAT8E4M3FN, QuantType.QFLOAT8E4M3FN, 19, 0.2),
    ],
)
def test_other_types_get_the_opset_that_has_them(
    tmp_path: Path, activation: QuantType, weight: QuantType, opset: int, most: float
) -> None:
    found = quantized(tmp_path, PRODUCTS, activation_type=activation, weight_type=weight)
    assert found.opset_import[0].version == opset
    assert {one.data_type for one in found.graph.initializer if one.name.endswith("_zero_point")} == {
        activation.tensor_type, weight.tensor_type, *([] if opset == 19 else [onnx.TensorProto.INT32])
    }  # fmt: skip
    assert error(tmp_path, PRODUCTS, found) < most


def test_nnapi_wants_sigmoids_in_steps_of_a_256th(tmp_path: Path) -> None:
    found = quantized(
        tmp_path,
        PRODUCTS,
        quant_format=QuantFormat.QOperator,
        activation_type=QuantType.QUInt8,
        extra_options={"extra.Sigmoid.nnapi": True},
    )
    assert (array(found, "s_scale"), array(found, "s_zero_point")) == (1 / 256, 0)


def test_the_smallest_range_holds_for_all_tensors(tmp_path: Path) -> None:
    found = with_option(tmp_path, PRODUCTS, MinimumRealRange=1000.0)
    assert array(found, "x_scale") == pytest.approx(1000 / 255, rel=1e-2)
    assert array(found, "w_scale") == pytest.approx(1000 / 127, rel=1e-2)


def test_strides_read_what_the_reader_gives_in_parts(tmp_path: Path) -> None:
    whole, parts = (with_option(tmp_path, PRODUCTS, **more) for more in ({}, {"CalibStridedMinMax": 2}))
    assert array(whole, "x_scale") == array(parts, "x_scale")
    with pytest.raises(OptionError, match="4 samples cannot be read 3 at a time"):
        with_option(tmp_path, PRODUCTS, CalibStridedMinMax=3)


def test_untyped_tensors_get_the_type_that_the_user_names(tmp_path: Path) -> None:
    made = model("""
        <ir_version: 8, opset_import: ["" : 13, "other" : 1]>
        g (float[4] x) => (float[4] y) {u = other.Op (x) y = Sigmoid (u)}
    """)
    given = dict.fromkeys(("x", "u", "y"), (-1.0, 1.0))
    arguments = (False, False, QuantType.QInt8, QuantType.QInt8, given, [], [], [])
    plain = compat.QDQQuantizer(made, *arguments).quantize_model()
    typed = compat.QDQQuantizer(made, *arguments, {"DefaultTensorType": onnx.TensorProto.FLOAT}).quantize_model()
    assert (nodes(plain)["QuantizeLinear"], nodes(typed)["QuantizeLinear"]) == (0, 2)


def test_an_override_by_channel_may_give_ranges(tmp_path: Path) -> None:
    entries = [{"axis": 1, "rmin": -1.0, "rmax": 1.0}, *[{"rmin": -2.0, "rmax": 2.0}] * 5]
    found = with_option(tmp_path, PRODUCTS, TensorQuantOverrides={"w": entries})
    np.testing.assert_allclose(array(found, "w_scale"), [1 / 127, *[2 / 127] * 5])


def test_an_overridden_bias_is_a_weight(tmp_path: Path) -> None:
    found = with_option(tmp_path, PRODUCTS, TensorQuantOverrides={"d": [{"quant_type": QuantType.QInt8}]})
    assert array(found, "d_quantized").dtype == np.int8
    assert error(tmp_path, PRODUCTS, found) < 0.03


def test_an_activation_is_converted_for_the_nodes_that_are_named(tmp_path: Path) -> None:
    convert = {"quant_type": QuantType.QUInt8, "recv_nodes": {"Gemm_3"}}
    overrides = {"s": [{"quant_type": QuantType.QUInt16, "convert": convert}]}
    found = with_option(tmp_path, PRODUCTS, TensorQuantOverrides=overrides)
    makers = {name: node for node in found.graph.node for name in node.output}
    gemm = next(node for node in found.graph.node if node.op_type == "Gemm")
    chain = [makers[gemm.input[0]]]
    while chain[-1].op_type != "Sigmoid":
        chain.append(makers[chain[-1].input[0]])
    assert [node.op_type for node in chain] == [
        "DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "QuantizeLinear", "Sigmoid"
    ]  # fmt: skip
    assert array(found, chain[1].input[2]).dtype == np.uint8
    assert array(found, chain[3].input[2]).dtype == np.uint16


# ---- configurations, cache, errors ----


def test_configurations_do_what_the_functions_do(tmp_path: Path) -> None:
    config = compat.get_qdq_config(
        model(CONVS), Reader(SHAPES[CONVS]), nodes_to_exclude=lambda _, node: node.name == "Conv_3"
    )
    assert (config.activation_type, config.nodes_to_exclude) == (QuantType.QUInt8, ["Conv_3"])
    compat.quantize(model(CONVS), tmp_path / "q.onnx", config)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {
        "QuantizeLinear": 3,
        "DequantizeLinear": 5,
        "Conv": 2,
        "MaxPool": 1,
    }
    compat.quantize(model(PRODUCTS), tmp_path / "d.onnx", compat.DynamicQuantConfig())
    assert nodes(onnx.load(tmp_path / "d.onnx"))["MatMulInteger"] == 2
    theirs = pytest.importorskip("onnxruntime.quantization")
    config = theirs.StaticQuantConfig(Reader(SHAPES[CONVS]), activation_type=theirs.QuantType.QUInt8)
    compat.quantize(model(CONVS), tmp_path / "q.onnx", config)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == PAIRS
    with pytest.raises(TypeError, match="quant_config is a dict"):
        compat.quantize(model(CONVS), tmp_path / "q.onnx", {})


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ({"MatMul", "Relu"}, 2),  # Gemm with it
        ({"Gemm"}, 1),
        ({"Transpose", "Sigmoid"}, 0),
    ],
)
def test_dynamic_quantization_leaves_what_has_no_dynamic_form(tmp_path: Path, named: set[str], found: int) -> None:
    options = {"ActivationSymmetric": True, "MatMulConstBOnly": False}
    compat.quantize_dynamic(model(PRODUCTS), tmp_path / "q.onnx", op_types_to_quantize=named, extra_options=options)
    assert nodes(onnx.load(tmp_path / "q.onnx"))["MatMulInteger"] == found


def test_ranges_in_a_file_need_no_samples(tmp_path: Path) -> None:
    first = quantized(tmp_path, calibration_cache_path=tmp_path / "ranges.json")
    compat.quantize_static(model(CONVS), tmp_path / "again.onnx", calibration_cache_path=tmp_path / "ranges.json")
    assert onnx.load(tmp_path / "again.onnx").graph == first.graph
    plain = quantized(tmp_path)
    for name in ("x_scale", "r_scale", "y_scale"):
        assert array(first, name) == pytest.approx(array(plain, name))
    with pytest.raises(OptionError, match=r"calibrate_method is CalibrationMethod\.Entropy"):
        quantized(
            tmp_path,
            calibrate_method=CalibrationMethod.Entropy,
            calibration_cache_path=tmp_path / "ranges.json",
        )
    with pytest.raises(OptionError, match="samples are needed"):
        compat.quantize_static(model(CONVS), tmp_path / "n.onnx", calibration_cache_path=tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_type": QuantType.QUInt8}, "int8 activations with uint8 weights"),
        ({"weight_type": QuantType.QFLOAT8E4M3FN}, "float8 must be the type of activations and weights"),
        (
            {"activation_type": QuantType.QInt16, "quant_format": QuantFormat.QOperator},
            "only QuantFormat.QDQ has 16-bit",
        ),
        (
            {"extra_options": {"TensorQuantOverrides": {"ww": [{"symmetric": True}]}}},
            "'ww' is not present in the model",
        ),
    ],
)
def test_what_makes_no_sense_is_a_value_error(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantized(tmp_path, **arguments)
    assert not (tmp_path / "q.onnx").exists()
