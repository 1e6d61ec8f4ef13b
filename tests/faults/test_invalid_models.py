"""Faults that give invalid models, crash or never end; see the index."""

import logging
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from models.convolutions import conv_transpose
from models.gemm import COLUMNS, gemm
from models.gemm import ROWS as GEMM_ROWS
from models.sharing import tied_embedding
from tests.faults.flow import CASES, FORMS, dynamic, operators, packed, static, worst_db
from tests.faults.test_wrong_numbers import ROWS, two_layers
from tests.quantizers.flow import normals
from tests.versions import since
from vqonnx import MatMulNBitsQuantizer, Report
from vqonnx.errors import OptionError, QuantRangeError, UnsupportedModelError, VqonnxError


def quantized(model: onnx.ModelProto, path: Path, feeds: Any, least_db: float = 25, **arguments: Any) -> Report:
    """A valid and right result."""
    report = static(model, path, feeds, **arguments)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert worst_db(model, path, feeds) > least_db
    return report


def test_a_weight_from_a_dequantize_linear_with_two_readers_ends(tmp_path: Path) -> None:
    since("1.31", "the right product of this float model, whose two readers of one weight it mixes up")
    arrays = {
        "q": np.random.default_rng(0).integers(-127, 128, (8, 8), np.int8),
        "s": np.float32(0.05),
        "b": np.eye(8, 8, dtype="f"),
    }
    text = """g (float[N, 8] x) => (float[N, 8] y, float[N, 8] z) {
        w = DequantizeLinear (q, s)
        t = Transpose <perm = [1, 0]> (w)
        y = MatMul (x, w)
        m = MatMul (y, t)
        z = MatMul (m, b)
    }"""
    model = build(text, {name: np.asarray(array) for name, array in arrays.items()})
    quantized(model, tmp_path / "m.onnx", normals(8, {"x": (4, 8)}))


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_old_opsets_get_the_one_that_scales_of_channels_need(opset: int, tmp_path: Path) -> None:
    model = two_layers()
    model.opset_import[0].version, model.ir_version = opset, 4
    onnx.checker.check_model(model)
    quantized(model, tmp_path / "m.onnx", ROWS, per_channel=True)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_tied_weights_per_channel(operator: str, tmp_path: Path) -> None:
    feeds = list(CASES[f"sharing/tied_{operator.lower()}"].feeds(8))
    quantized(tied_embedding(operator), tmp_path / "m.onnx", feeds, per_channel=True)


@pytest.mark.parametrize("relu", ["c = Conv (x, c_w, c_b)\nh = Relu (c)", "h = Conv (x, c_w, c_b)"])
@pytest.mark.parametrize("form", FORMS)
def test_outputs_that_a_body_captures_keep_their_name_and_order(relu: str, form: str, tmp_path: Path) -> None:
    weights = Weights(910)
    weights.conv("c", 8, 4, 3, 3)
    text = f"""g (float[N, 4, 6, 6] x, bool f) => (float[N, 8, 4, 4] y) {{
        {relu}
        y = If (f) <then_branch = one () => (float[N, 8, 4, 4] a) {{ a = Mul (h, h) }},
                    else_branch = two () => (float[N, 8, 4, 4] b) {{ b = Neg (h) }}>
    }}"""
    feeds = [{**feed, "f": np.array(i % 2 == 0)} for i, feed in enumerate(normals(8, {"x": (2, 4, 6, 6)}))]
    report = quantized(build(text, weights.arrays), tmp_path / "m.onnx", feeds, quant_format=form)
    assert report.quantized["Conv"] == 1


@pytest.mark.parametrize("case", ["control/if", "control/loop", "control/nested"])
def test_bodies_are_quantized_or_told_to_stay_float(case: str, tmp_path: Path) -> None:
    model, feeds = CASES[case].build(), list(CASES[case].feeds(8))
    inner = sum(len(a.g.node) for node in model.graph.node for a in node.attribute if a.HasField("g"))
    assert inner
    for form in FORMS:
        report = static(model, tmp_path / "m.onnx", feeds, quant_format=form)
        assert worst_db(model, tmp_path / "m.onnx", feeds) > 20
        assert sum(report.quantized.values()) + len(report.skips) >= inner


@pytest.mark.parametrize("chain", ["constant", "identity", "transpose", "cast", "reshape", "mul"])
def test_weights_behind_other_nodes_are_weights(chain: str, tmp_path: Path) -> None:
    seeds = {
        "constant": ("w = Identity (k)", np.float32),
        "identity": ("w = Identity (s)", np.float32),
        "transpose": ("w = Transpose <perm = [1, 0]> (t)", np.float32),
        "cast": ("w = Cast <to = 1> (h)", np.float16),
        "reshape": ("w = Reshape (f, shape)", np.float32),
        "mul": ("w = Mul (s, two)", np.float32),
    }
    weight = np.random.default_rng(0).normal(0, 0.3, (16, 12)).astype(np.float32)
    given = {
        "k": weight,
        "s": weight,
        "t": weight.T.copy(),
        "h": weight.astype(np.float16),
        "f": weight.reshape(-1),
        "shape": np.array([16, 12]),
        "two": np.full(1, 2, np.float32),
    }
    line, _ = seeds[chain]
    model = build(f"g (float[N, 16] x) => (float[N, 12] y) {{ {line} y = MatMul (x, w) }}", given)
    quantized(model, tmp_path / "m.onnx", ROWS, 30, per_channel=True)
    written = onnx.load(tmp_path / "m.onnx")
    assert not any(t.data_type in (1, 10) and np.prod(t.dims) >= 16 * 12 for t in written.graph.initializer)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_transposed_convolutions_with_bias_per_channel(groups: int, tmp_path: Path) -> None:
    quantized(conv_transpose(groups), tmp_path / "m.onnx", normals(8, {"x": (2, 8, 5, 5)}), per_channel=True)


@pytest.mark.parametrize("shape", [(COLUMNS,), (1, COLUMNS), (1,), (), (GEMM_ROWS, COLUMNS), (GEMM_ROWS, 1)])
def test_gemm_biases_of_every_broadcast_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = gemm(shape)
    feeds = normals(8, {"x": [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]})
    quantized(model, tmp_path / "m.onnx", feeds, per_channel=True)


@pytest.mark.parametrize("shape", [(2, 16, 6), (1, 16, 6)])
def test_matmul_weights_of_three_axes_per_channel(shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    model = build("g (float[2, N, 16] x) => (float[2, N, 6] y) { y = MatMul (x, w) }", {"w": weight})
    quantized(model, tmp_path / "m.onnx", normals(8, {"x": (2, 5, 16)}), per_channel=True)


def test_forms_that_a_type_does_not_have_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="int4"):
        static(two_layers(), tmp_path / "m.onnx", ROWS, quant_format="QOperator", weight_type="QInt4")
    with pytest.raises(OptionError, match="int4"):
        dynamic(two_layers(), tmp_path / "m.onnx", weight_type="QInt4")
    assert not (tmp_path / "m.onnx").exists()


def test_importing_the_package_leaves_logging_alone() -> None:
    code = "import logging, vqonnx; vqonnx.MatMulNBitsQuantizer; print(logging.root.level, logging.root.handlers)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(logging.WARNING), "[]"]


@pytest.mark.parametrize("form", ["matmul_nbits", "qdq"])
def test_a_shared_weight_is_packed_once_at_any_opset(form: str, tmp_path: Path) -> None:
    weights = Weights(911)
    weights.normal("w", 32, 32)
    text = "g (float[N, 32] x) => (float[N, 32] y) { h = MatMul (x, w) r = Relu (h) y = MatMul (r, w) }"
    model = build(text, weights.arrays, opset=11)
    packed(model, tmp_path / "m.onnx", bits=8, format=form)
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"))
    names = [tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert len(names) == len(set(names))
    assert form == "qdq" or sum("Q8" in name for name in names) == 1  # ONNX Runtime fuses one reader of each pair
    assert worst_db(model, tmp_path / "m.onnx", normals(4, {"x": (3, 32)})) > 30


@pytest.mark.parametrize("size", [8, 48, 512])
def test_block_sizes_without_a_kernel_are_refused_at_once(size: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="block_size"):
        packed(two_layers(), tmp_path / "m.onnx", block_size=size)
    with pytest.raises(OptionError, match="block_size"):
        MatMulNBitsQuantizer(two_layers(), block_size=size).process()


def test_types_that_shape_inference_does_not_know_are_no_obstacle(tmp_path: Path) -> None:
    case = CASES["domains/contrib"]
    report = quantized(case.build(), tmp_path / "m.onnx", list(case.feeds(8)))
    assert report.quantized["MatMul"] == 1
    assert {skip.op_type for skip in report.skips} == {"BiasGelu", "FusedMatMul"}


@pytest.mark.parametrize("form", FORMS)
def test_a_bias_that_is_an_input_stays_one(form: str, tmp_path: Path) -> None:
    weights = Weights(912)
    weights.normal("w", 8, 4, 3, 3)
    text = "g (float[N, 4, 6, 6] x, float[8] b) => (float[N, 8, 4, 4] y) { y = Conv (x, w, b) }"
    feeds = normals(8, {"x": (2, 4, 6, 6), "b": (8,)})
    quantized(build(text, weights.arrays), tmp_path / "m.onnx", feeds, quant_format=form)


@pytest.mark.parametrize("quantize", [lambda *a: static(*a, ROWS), dynamic, packed])
def test_a_weight_with_nan_is_named(quantize: Any, tmp_path: Path) -> None:
    model = two_layers()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, model.graph.initializer[0].name))
    with pytest.raises(QuantRangeError, match=model.graph.initializer[0].name):
        quantize(model, tmp_path / "m.onnx")


def test_a_weight_without_elements_stays(tmp_path: Path) -> None:
    arrays = {"w": np.zeros((16, 0), np.float32), "v": np.eye(16, dtype=np.float32)}
    text = "g (float[N, 16] x) => (float[N, 0] y, float[N, 16] z) { y = MatMul (x, w) z = MatMul (x, v) }"
    model = build(text, arrays)
    for quantize in (lambda *a: static(*a, ROWS, per_channel=True), dynamic, partial(packed, bits=8, block_size=16)):
        quantize(model, tmp_path / "m.onnx")
        onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"))


def test_float64_models_are_kept_and_the_reason_told(tmp_path: Path) -> None:
    case = CASES["precision/double"]
    report = static(case.build(), tmp_path / "m.onnx", list(case.feeds(8)))
    assert not report.quantized
    assert any("double" in skip.reason.lower() or "float64" in skip.reason.lower() for skip in report.skips)
    assert worst_db(case.build(), tmp_path / "m.onnx", case.feeds(2)) > 200


def test_functions_are_quantized_inside(tmp_path: Path) -> None:
    case = CASES["control/function"]
    assert quantized(case.build(), tmp_path / "m.onnx", list(case.feeds(8))).quantized["MatMul"] == 2


def test_quantizing_twice_changes_nothing(tmp_path: Path) -> None:
    static(two_layers(), tmp_path / "a.onnx", ROWS)
    report = static(tmp_path / "a.onnx", tmp_path / "b.onnx", ROWS)
    assert not report.quantized
    assert operators(tmp_path / "b.onnx") == operators(tmp_path / "a.onnx")


def test_strings_sequences_and_optional_inputs_pass_through(tmp_path: Path) -> None:
    weights = Weights(913)
    weights.linear("a", 16, 8)
    text = """g (float[N, 16] x, string[K] words) => (float[N, 8] y, string[K] said, float[N, 4] first) {
        said = Identity (words)
        h = Gemm (x, a_w)
        y = Clip (h, "", top)
        parts = SplitToSequence <axis = 1> (y, four)
        zero = Constant <value = int64 {0}> ()
        first = SequenceAt (parts, zero)
    }"""
    text = text.replace('h, "", top', "h, , top")
    arrays = {"a_w": weights.arrays["a_w"], "top": np.float32(1), "four": np.array(4)}
    model = build(text, {name: np.asarray(array) for name, array in arrays.items()})
    feeds = [{**feed, "words": np.array(["a", "b"], object)} for feed in ROWS]
    for form in FORMS:
        assert quantized(model, tmp_path / "m.onnx", feeds, quant_format=form).quantized["Gemm"] == 1
    dynamic(model, tmp_path / "m.onnx")
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


@pytest.mark.parametrize("name", ["integers", "plain", "mixed"])
def test_a_model_with_nothing_to_quantize_is_kept_and_told(name: str, tmp_path: Path) -> None:
    models = {
        "integers": build("g (int64[N, 4] x) => (int64[N, 4] y) { y = Add (x, x) }"),
        "plain": build("g (float[N, 4] x) => (float[N, 4] y) { s = Sin (x) y = Exp (s) }"),
        "mixed": build(
            'g (float[N, 4] x) => (int64[N] y, float[N, 4] z) { z = Einsum <equation = "ij,ij->ij"> (x, x) '
            "y = ArgMax <axis = 1, keepdims = 0> (z) }"
        ),
    }
    model = models[name]
    dtype = np.int64 if name == "integers" else np.float32
    feeds = [{"x": np.ones((2, 4), dtype)} for _ in range(8)]
    for quantize in (lambda *a: static(*a, feeds), dynamic):
        report = quantize(model, tmp_path / "m.onnx")
        assert any("nothing was quantized" in warning for warning in report.warnings)
        onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
        assert operators(tmp_path / "m.onnx") == [node.op_type for node in model.graph.node]
    with pytest.raises(UnsupportedModelError, match="nothing to pack"):
        packed(model, tmp_path / "m.onnx")
    assert issubclass(UnsupportedModelError, VqonnxError)
