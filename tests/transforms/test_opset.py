import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph import walk
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.runtime.session import open_session
from vqonnx.transforms.opset import NEWEST, OLDEST, convert_opset, upgrade_opset
from vqonnx.transforms.opset_rules import RULES, rule

TARGET = 21


def parsed(text: str, opset: int, inputs: str = "float[2,3,4] x", imports: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}{imports}]> g ({inputs}) => (float[] y) {{ {text} }}'
    )


def unstated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The output's shape is left for inference: the texts below only name its type."""
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return open_session(model, optimize=False).run(None, feeds)


def upgraded_equal(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], minimum: int = TARGET, *, atol: float = 1e-6
) -> ir.Model:
    unstated(proto)
    model = load(proto)
    before = run(model, feeds)
    assert upgrade_opset(model, minimum)
    assert model.opset_imports[""] == minimum
    infer_missing(model)  # the checker wants the outputs' shapes
    onnx.checker.check_model(to_proto(model), full_check=True)
    for old, new in zip(before, run(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=atol)
    return model


X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
IMAGE = np.random.default_rng(1).normal(size=(1, 2, 6, 8)).astype(np.float32)

RULE_CASES = {
    "clip": (7, "y = Clip <min = -0.5, max = 0.25> (x)"),
    "clip, max only": (7, "y = Clip <max = 0.25> (x)"),
    "clip of an unstated type": (7, "a = Relu (x) y = Clip <max = 0.25> (a)"),
    "dropout": (7, "y = Dropout <ratio = 0.3> (x)"),
    "slice": (9, "y = Slice <starts = [1, 0], ends = [3, 2], axes = [1, 2]> (x)"),
    "slice without axes": (9, "y = Slice <starts = [0, 1], ends = [1, 3]> (x)"),
    "top k": (9, "y, i = TopK <k = 2, axis = 1> (x)"),
    "pad": (10, "y = Pad <pads = [0, 1, 0, 0, 0, 2], value = 1.5> (x)"),
    "pad by reflection": (10, "y = Pad <mode = 'reflect', pads = [0, 1, 0, 0, 0, 2]> (x)".replace("'", '"')),
    "squeeze": (11, "a = Unsqueeze <axes = [0, 2]> (x) y = Squeeze <axes = [2]> (a)"),
    "squeeze all": (11, "a = Unsqueeze <axes = [0]> (x) y = Squeeze (a)"),
    "reduce sum": (11, "y = ReduceSum <axes = [1], keepdims = 0> (x)"),
    "reduce sum of all": (11, "y = ReduceSum (x)"),
    "reduce mean": (13, "y = ReduceMean <axes = [-1], keepdims = 0> (x)"),
    "other reductions": (
        11,
        (
            "a = ReduceMax <axes = [0]> (x) b = ReduceMin <axes = [1]> (x) c = ReduceL1 <axes = [2]> (x) "
            "d = ReduceL2 <axes = [2]> (x) e = ReduceLogSumExp <axes = [2]> (x) f = ReduceSumSquare <axes = [2]> (x) "
            "h = ReduceProd <axes = [2]> (x) y = Sum (a, b, c, d, e, f, h)"
        ),
    ),
    "split": (11, "a, b = Split <axis = 2, split = [1, 3]> (x) y = Concat <axis = 2> (b, a)"),
    "even split": (11, "a, b = Split <axis = 2> (x) y = Concat <axis = 2> (b, a)"),
    "even split from 13": (13, "a, b = Split <axis = 2> (x) y = Concat <axis = 2> (b, a)"),
    "softmax over the rest": (11, "y = Softmax (x)"),
    "softmax over the last": (11, "y = Softmax <axis = 2> (x)"),
    "log softmax over all": (11, "y = LogSoftmax <axis = 0> (x)"),
    "hardmax": (12, "a = Relu (x) y = Hardmax <axis = 1> (a)"),
    "softmax inside": (11, "a = Softmax (x) y = Mul (a, x)"),
    "conv block": (9, "a = Relu (x) b = GlobalAveragePool (a) y = Flatten <axis = 1> (b)"),
}


@pytest.mark.parametrize("case", RULE_CASES)
def test_outputs_stay_equal(case):
    opset, text = RULE_CASES[case]
    upgraded_equal(parsed(text, opset), {"x": X})


@pytest.mark.parametrize("minimum", [9, 10, 11, 12, 13, 15, 18, 20, 23])
def test_each_step_on_the_way_is_valid(minimum):
    text = (
        "a = Clip <min = 0.0> (x) b = Slice <starts = [0], ends = [2]> (a) "
        "c = Unsqueeze <axes = [0]> (b) y = ReduceMean <axes = [1]> (c)"
    )
    upgraded_equal(parsed(text, 7), {"x": X}, minimum)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
def test_upsample_becomes_resize(opset, mode):
    if opset == 7:
        proto = parsed(f'y = Upsample <mode = "{mode}", scales = [1.0, 1.0, 2.0, 3.0]> (x)', 7, "float[1,2,6,8] x")
    else:
        proto = parsed(
            f's = Constant <value = float[4] {{1.0, 1.0, 2.0, 3.0}}> () y = Upsample <mode = "{mode}"> (x, s)',
            9,
            "float[1,2,6,8] x",
        )
    model = upgraded_equal(proto, {"x": IMAGE})
    assert "Resize" in {node.op_type for node in model.graph}


@pytest.mark.parametrize("scales", ["1.0, 1.0, 1.5, 2.5", "1.0, 1.0, 0.4, 0.6", "1.0, 1.0, 0.5, 1.0"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10_keeps_its_rounding(scales, mode):
    text = f's = Constant <value = float[4] {{{scales}}}> () y = Resize <mode = "{mode}"> (x, s)'
    upgraded_equal(parsed(text, 10, "float[1,2,6,8] x"), {"x": IMAGE})


def test_resize_10_that_cannot_be_said_later_is_refused():
    text = "s = Constant <value = float[4] {1.0, 1.0, 0.5, 2.0}> () y = Resize (x, s)"
    with pytest.raises(UnsupportedModelError, match=r"\(Resize\): it shrinks one axis and grows another") as caught:
        upgrade_opset(load(unstated(parsed(text, 10, "float[1,2,6,8] x"))), TARGET)
    assert caught.value.node == "y"


def test_resize_10_with_computed_scales_is_refused():
    proto = unstated(parsed("t = Relu (s) y = Resize (x, t)", 10, "float[1,2,6,8] x, float[4] s"))
    with pytest.raises(UnsupportedModelError, match="its scales are computed"):
        upgrade_opset(load(proto), TARGET)


def test_tensorflow_resize_of_opset_11():
    text = (
        "r = Constant <value = float[1] {0.0}> () s = Constant <value = float[4] {1.0, 1.0, 2.0, 1.5}> () "
        'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor"> (x, r, s)'
    )
    upgraded_equal(parsed(text, 11, "float[1,2,6,8] x"), {"x": IMAGE})


def test_scatter_becomes_scatter_elements():
    text = (
        "i = Constant <value = int64[1,1,2] {1, 0}> () u = Constant <value = float[1,1,2] {5.0, 6.0}> () "
        "y = Scatter <axis = 2> (x, i, u)"
    )
    upgraded_equal(parsed(text, 9), {"x": X})


@pytest.mark.parametrize("opset", [7, 9, 14])
def test_batch_normalization(opset):
    names = ["s", "b", "m", "v"]
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [2], [0.5, 1.5]) for n in names]
    attributes = {"spatial": 1} if opset == 7 else {}
    node = helper.make_node("BatchNormalization", ["x", *names], ["y"], **attributes)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, IMAGE.shape) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    upgraded_equal(proto, {"x": IMAGE})


def test_roi_align_keeps_its_old_grid():
    text = (
        "r = Constant <value = float[1,4] {0.3, 0.7, 5.2, 4.1}> () i = Constant <value = int64[1] {0}> () "
        "y = RoiAlign <output_height = 3, output_width = 3, sampling_ratio = 2> (x, r, i)"
    )
    upgraded_equal(parsed(text, 10, "float[1,2,6,8] x"), {"x": IMAGE})


@pytest.mark.parametrize("mode", ["", 'mode = "bicubic"', 'mode = "bilinear"', 'mode = "nearest"'])
def test_grid_sample_modes(mode):
    grid = np.random.default_rng(2).uniform(-1, 1, size=(1, 3, 3, 2)).astype(np.float32)
    text = f"y = GridSample {f'<{mode}>' if mode else ''} (x, grid)"
    upgraded_equal(parsed(text, 16, "float[1,2,6,8] x, float[1,3,3,2] grid"), {"x": IMAGE, "grid": grid})


@pytest.mark.parametrize("axis", ["", "<axis = 2>"])
def test_dft_axis(axis):
    model = upgraded_equal(
        parsed(f"y = DFT {axis} (x)", 17, "float[2,4,4,1] x"),
        {"x": X.reshape(2, 3, 4, 1)[:, :, :, :].repeat(2, 1)[:, :4]},
    )
    assert len(next(iter(model.graph)).inputs) == 3


def test_half_precision_clip_gets_half_bounds():
    proto = parsed("h = Cast <to = 10> (x) c = Clip <min = -0.5> (h) y = Cast <to = 1> (c)", 10)
    # ORT computes the old form in float32 between casts, so the two differ by half precision's rounding.
    model = upgraded_equal(proto, {"x": X}, atol=1e-3)
    (bound,) = model.graph.initializers.values()
    assert bound.dtype == ir.DataType.FLOAT16


def test_subgraphs_are_raised_too():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 11]> g (bool c, float[2,3,4] x) => (float[2,3,1,4] y) { y = If (c) <'
        "then_branch = t () => (float[2,3,1,4] a) { a = Unsqueeze <axes = [2]> (x) }, "
        "else_branch = e () => (float[2,3,1,4] b) { n = Neg (x) b = Unsqueeze <axes = [2]> (n) }> }"
    )
    for choice in (True, False):
        upgraded_equal(proto, {"c": np.array(choice), "x": X})


@pytest.mark.parametrize(("body", "opset"), [("Add (p, p)", TARGET), ("Unsqueeze <axes = [0]> (p)", 11)])
def test_custom_operators_and_functions_keep_their_nodes(body, opset):
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 11, "my": 1]> g (float[2,3,4] x) => (float[2,3,4] y) '
        "{ a = my.own (x) b = my.unknown (a) y = Identity (b) } "
        f'<domain: "my", opset_import: ["": 11]> own (p) => (q) {{ q = {body} }}'
    )
    model = load(proto)
    assert upgrade_opset(model, TARGET)
    assert [node.op_type for node in walk.nodes(model)] == ["own", "unknown", "Identity", body.split()[0]]
    assert next(iter(model.functions.values())).opset_imports[""] == opset


def test_ancient_models_go_through_the_converter():
    text = "a = Dropout <is_test = 1, ratio = 0.5> (x) y = Add (a, x)"
    model = load(unstated(parsed(text, OLDEST - 1)))
    assert upgrade_opset(model, TARGET)
    np.testing.assert_array_equal(run(model, {"x": X})[0], X + X)


def test_an_ancient_model_that_the_converter_refuses_is_named():
    proto = unstated(parsed("y = Add <broadcast = 1, axis = 1> (x, b)", OLDEST - 1, "float[2,3,4] x, float[3] b"))
    with pytest.raises(UnsupportedModelError, match="from opset 6 to 7: ONNX's version converter says"):
        upgrade_opset(load(proto), TARGET)


def test_nothing_happens_to_a_model_that_is_new_enough():
    model = load(parsed("y = Relu (x)", 17))
    assert not upgrade_opset(model, 13)
    assert model.opset_imports[""] == 17


def test_operators_without_a_later_form_are_refused():
    for opset, text, fact in [
        (7, "y = BatchNormalization <spatial = 0> (x, x, x, x, x)", "spatial=0"),
        (7, "a, m = Dropout (x) y = Relu (m)", "mask output"),
        (18, "y = GroupNormalization <num_groups = 1> (x, x, x)", "per channel"),
        (8, "y = Scan <num_scan_inputs = 1> (x)", "batch axis"),
        (
            11,
            'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn", mode = "linear"> (x, x, x)',
            "with interpolation",
        ),
    ]:
        with pytest.raises(UnsupportedModelError, match=fact):
            upgrade_opset(load(unstated(parsed(text, opset))), TARGET)


def test_training_statistics_are_refused():
    proto = parsed("a, m, v, sm, sv = BatchNormalization (x, x, x, x, x) y = Add (a, m)", 9)
    with pytest.raises(UnsupportedModelError, match="training statistics"):
        upgrade_opset(load(unstated(proto)), TARGET)


def test_a_change_without_a_rule_is_refused(monkeypatch):
    monkeypatch.delitem(RULES, ("Squeeze", 13))
    model = load(unstated(parsed("y = Squeeze <axes = [0]> (x)", 11)))
    with pytest.raises(UnsupportedModelError, match=r"\(Squeeze\) to opset 21: the operator has no attribute axes"):
        upgrade_opset(model, TARGET)


def test_a_removed_operator_without_a_rule_is_refused(monkeypatch):
    monkeypatch.delitem(RULES, ("Scatter", 11))
    model = load(unstated(parsed("y = Scatter (x, x, x)", 9)))
    with pytest.raises(UnsupportedModelError, match="was removed"):
        upgrade_opset(model, TARGET)


def test_too_many_inputs_are_refused():
    with pytest.raises(UnsupportedModelError, match="takes 1 to 1 inputs, not 2"):
        upgrade_opset(load(unstated(parsed("y = Relu (x, x)", 11))), TARGET)


def test_a_clip_of_unknown_type_is_refused():
    proto = unstated(parsed("a = my.op (x) y = Clip <min = 0.0> (a)", 10, imports=', "my": 1'))
    with pytest.raises(UnsupportedModelError, match="the type of its first input is not known"):
        upgrade_opset(load(proto), TARGET)


def test_the_unknown_future_is_refused():
    with pytest.raises(OptionError, match=f"opset {NEWEST + 1} is newer than {NEWEST}"):
        upgrade_opset(load(parsed("y = Relu (x)", 17)), NEWEST + 1)


def test_a_second_rule_for_one_change_is_refused():
    with pytest.raises(ValueError, match="Clip has a rule for opset 11 already"):
        rule(11, "Clip")(lambda site: None)


def test_upgrading_is_linear(count_calls):
    def upgrade_chain(count: int) -> None:
        steps = " ".join(f"v{i + 1} = Clip <min = -1.0> (v{i})" for i in range(count))
        upgrade_opset(load(unstated(parsed(f"v0 = Relu (x) {steps} y = Relu (v{count})", 10))), TARGET)

    assert count_calls(upgrade_chain, 800) < 4.4 * count_calls(upgrade_chain, 200)


def test_converting_goes_up_only():
    model = load(parsed("y = Clip <max = 0.25> (x)", 10))
    assert convert_opset(model, 13)
    assert not convert_opset(model, 13)
    with pytest.raises(OptionError, match="cannot lower the opset from 13 to 12"):
        convert_opset(model, 12)
    assert model.opset_imports[""] == 13
