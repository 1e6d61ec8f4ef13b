"""Which operators become integer, and in which form, where onnxruntime.quantization has rules of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import vqonnx.compat as compat
from tests.compat.test_quantize import PRODUCTS, SHAPES, Reader, array, model, nodes
from tests.emitters.dynamic_models import embedding
from vqonnx.runtime.session import open_session

FOLLOWERS = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2,4,4] x, bool[1,2,1,1] c) => (float[1,2,1,1] y) <float[2,2,1,1] w = {1, -2, 3, 4}> {
        a = GlobalAveragePool (x)
        b = Conv (a, w)
        d = GlobalAveragePool (b)
        y = Where (c, b, d)
    }
"""
CLIPPED = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {1, -2, 3, 4}, float low = {-1}, float high = {1}> {
        a = MatMul (x, w) y = Clip (a, low, high)
    }
"""
PADDED = """
    <ir_version: 8, opset_import: ["" : OPSET]>
    g (float[1,2] x, float[1] f) => (float[1,4] y, float[1,2] a) <float[2,2] w = {1, -2, 3, 4}, float five = {5}> {
        a = MatMul (x, w) PADS
    }
"""
PADS_11 = 'p = Constant <value_ints = [0, 1, 0, 1]> () y = Pad <mode = "MODE"> (a, pFILL)'
IDS = {"i": np.array([[1, 4, 2]], np.int32), "k": np.array([[0, 1, 1]], np.int32)}


@pytest.mark.parametrize(("outputs", "expected"), [("y", "QEmbed"), ("y, m", "QEmbed"), ("y, m, e", "Embed")])
def test_an_embedding_is_integer_unless_it_gives_the_sum_of_its_rows(
    tmp_path: Path, outputs: str, expected: str
) -> None:
    """The integer operator has two outputs, always."""
    form: dict[str, Any] = {"quant_format": compat.QuantFormat.QOperator}
    made = embedding(outputs=outputs)
    onnx.save(made, tmp_path / "f.onnx")
    compat.quantize_static(made, tmp_path / "q.onnx", [IDS], **form)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {f"{expected}LayerNormalization": 1}
    for real, given in zip(
        *(open_session(tmp_path / name).run(None, IDS) for name in ("f.onnx", "q.onnx")), strict=True
    ):
        np.testing.assert_allclose(given, real, atol=0.05)


@pytest.mark.parametrize(("everything", "floats"), [(False, ["GlobalAveragePool"]), (True, [])])
def test_integer_operators_follow_only_what_is_quantized(tmp_path: Path, everything: bool, floats: list[str]) -> None:
    feed = {"x": np.linspace(-1, 2, 32, dtype=np.float32).reshape(1, 2, 4, 4), "c": np.array([[[[True]], [[False]]]])}
    compat.quantize_static(
        parser.parse_model(FOLLOWERS),
        tmp_path / "q.onnx",
        [feed],
        quant_format=compat.QuantFormat.QOperator,
        extra_options={"ForceQuantizeNoInputCheck": everything},
    )
    found = nodes(onnx.load(tmp_path / "q.onnx"))
    assert [name for name in ("GlobalAveragePool", "Conv", "Where") if name in found] == floats
    assert found["QLinearGlobalAveragePool"] == 2 - len(floats)
    assert found["QLinearWhere"] == 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_symmetric_activations_keep_a_clip_between_pairs(tmp_path: Path, symmetric: bool) -> None:
    feed = {"x": np.array([[1, -1]], np.float32)}
    made = parser.parse_model(CLIPPED)
    onnx.save(made, tmp_path / "f.onnx")
    options = {"ActivationSymmetric": symmetric}
    compat.quantize_static(made, tmp_path / "q.onnx", [feed], extra_options=options)
    found = nodes(onnx.load(tmp_path / "q.onnx"))
    assert (found["Clip"], found["QuantizeLinear"]) == ((1, 3) if symmetric else (0, 2))
    real, given = (open_session(tmp_path / name).run(None, feed)[0] for name in ("f.onnx", "q.onnx"))
    np.testing.assert_allclose(given, real, atol=0.02)


def test_float8_weights_spread_as_codes_do_and_biases_stay_float_behind_a_cast(tmp_path: Path) -> None:
    kind = compat.QuantType.QFLOAT8E4M3FN
    distribution = compat.CalibrationMethod.Distribution
    compat.quantize_static(
        model(PRODUCTS),
        tmp_path / "q.onnx",
        Reader(SHAPES[PRODUCTS]),
        activation_type=kind,
        weight_type=kind,
        calibrate_method=distribution,
    )
    made = onnx.load(tmp_path / "q.onnx")
    assert nodes(made)["Cast"] == 1
    assert array(made, "v_scale") == pytest.approx(array(model(PRODUCTS), "v").std() / 100.057, rel=1e-4)
    assert sorted(one.name for one in made.graph.initializer if one.name.startswith("v")) == [
        "v_quantized",
        "v_scale",
        "v_zero_point",
    ]


def padded(opset: int, pads: str) -> onnx.ModelProto:
    return parser.parse_model(PADDED.replace("OPSET", str(opset)).replace("PADS", pads))


@pytest.mark.parametrize("form", compat.QuantFormat)
@pytest.mark.parametrize(
    ("opset", "pads"),
    [
        (13, PADS_11.replace("MODE", "edge").replace("FILL", "")),
        (13, PADS_11.replace("MODE", "constant").replace("FILL", "")),
        (13, PADS_11.replace("MODE", "constant").replace("FILL", ", five")),
        (13, PADS_11.replace("MODE", "constant").replace("FILL", ", f")),
        (10, "y = Pad <pads = [0, 1, 0, 1], value = 5.0> (a)"),
        (10, "y = Pad <pads = [0, 1, 0, 1]> (a)"),
    ],
)
def test_what_a_pad_fills_with_lies_in_the_range_of_its_result(
    tmp_path: Path, form: compat.QuantFormat, opset: int, pads: str
) -> None:
    """Also where it is computed at run time, and in opset 10, where it is an attribute; integer Pads came with 11."""
    made = padded(opset, pads)
    feeds = [{"x": np.array([[1, -1]], np.float32) * k, "f": np.array([5], np.float32)} for k in (-1, 0.5, 1)]
    onnx.save(made, tmp_path / "f.onnx")
    compat.quantize_static(made, tmp_path / "q.onnx", feeds, quant_format=form)
    integer = form is compat.QuantFormat.QOperator
    found = onnx.load(tmp_path / "q.onnx")
    fills = pads.count(", f")
    assert nodes(found)["DequantizeLinear"] == ((2 if opset > 10 else 1) if integer else 4 + fills)
    for feed in feeds:
        results = [open_session(tmp_path / name).run(None, feed) for name in ("f.onnx", "q.onnx")]
        for real, given in zip(*results, strict=True):
            np.testing.assert_allclose(given, real, atol=0.06)


@pytest.mark.parametrize(("opset", "biases", "expected"), [(9, True, 11), (10, True, 10), (10, False, 11)])
def test_the_opset_is_raised_only_as_far_as_onnxruntime_needs_it(
    tmp_path: Path, opset: int, biases: bool, expected: int
) -> None:
    """ONNX Runtime rounds float biases with Round, which came with 11: with 10 the model would not load."""
    made = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1,2] x) => (float[1,2] y) <float[2,2] w = {{1, -2, 3, 4}}, float[2] b = {{1, 2}}>
            {{ y = Gemm (x, w, b) }}
    """)
    feeds = [{"x": np.array([[1, -1]], np.float32)}]
    compat.quantize_static(made, tmp_path / "q.onnx", feeds, extra_options={"QuantizeBias": biases})
    assert onnx.load(tmp_path / "q.onnx").opset_import[0].version == expected
    np.testing.assert_allclose(open_session(tmp_path / "q.onnx").run(None, feeds[0])[0], [[-1, -4]], atol=0.05)


@pytest.mark.parametrize(
    ("opset", "axis"), [(13, ""), (13, "<axis = 1>"), (12, ""), (11, "<axis = 2>"), (11, "<axis = 0>")]
)
def test_an_integer_softmax_normalizes_what_its_opset_says(tmp_path: Path, opset: int, axis: str) -> None:
    """One axis since 13, all from it on before."""
    made = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : {opset}]>
        g (float[2,3,4] x) => (float[2,3,4] y) {{ y = Softmax {axis} (x) }}
    """)
    feed = {"x": np.random.default_rng(0).normal(0, 2, (2, 3, 4)).astype(np.float32)}
    onnx.save(made, tmp_path / "f.onnx")
    form: dict[str, Any] = {"quant_format": compat.QuantFormat.QOperator}
    compat.quantize_static(made, tmp_path / "q.onnx", [feed], **form)
    assert nodes(onnx.load(tmp_path / "q.onnx"))["QLinearSoftmax"] == 1
    real, given = (open_session(tmp_path / name).run(None, feed)[0] for name in ("f.onnx", "q.onnx"))
    np.testing.assert_allclose(given, real, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "per_channel", "operator"),
    [((3, 2), False, "QGemm"), ((3, 1), False, "QGemm"), ((1, 2), True, "QGemm"), ((3, 2), True, "Gemm")],
)
def test_a_bias_that_is_no_vector_is_quantized_with_one_scale_only(
    tmp_path: Path, shape: tuple[int, ...], per_channel: bool, operator: str
) -> None:
    made = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[3,2] x) => (float[3,2] y) <float[2,2] w = {1, -2, 3, 4}> { y = Gemm (x, w, b) }
    """)
    random = np.random.default_rng(0)
    bias = random.normal(size=shape).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(bias, "b"))
    feed = {"x": random.normal(size=(3, 2)).astype(np.float32)}
    form: dict[str, Any] = {"quant_format": compat.QuantFormat.QOperator, "per_channel": per_channel}
    compat.quantize_static(made, tmp_path / "q.onnx", [feed], **form)
    assert nodes(onnx.load(tmp_path / "q.onnx"))[operator] == 1
    given = open_session(tmp_path / "q.onnx").run(None, feed)[0]
    np.testing.assert_allclose(given, feed["x"] @ [[1, -2], [3, 4]] + bias, atol=0.12)
