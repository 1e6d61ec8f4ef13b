"""The functions' parameters are the peer's, then our own by keyword; ``plan`` tells without samples."""

import inspect
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from models.build import Weights, build
from models.matmuls import linear_bias
from models.opsets import versioned
from models.precision import half
from tests.quantizers.flow import EAGER, normals
from vqonnx import CalibrationMethod, ONNXQuantizer, QDQQuantizer, QuantType, plan, quantize_static
from vqonnx.errors import OptionError, VqonnxError
from vqonnx.report.figures import Level

FEEDS = normals(8, {"x": (2, 3, 8)})


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """``onnxruntime.quantization``, imported where it finds nothing else; its setting of the root logger is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("neutral"))
        module = pytest.importorskip("onnxruntime.quantization")
    root.handlers[:] = handlers
    root.setLevel(level)
    return module


def positional(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind in kinds]


@pytest.mark.peer
def test_quantize_static_takes_the_peers_parameters_in_its_order(peer: ModuleType) -> None:
    theirs = positional(peer.quantize_static)
    assert positional(quantize_static)[: len(theirs)] == theirs  # the last came with ONNX Runtime 1.25


@pytest.mark.peer
@pytest.mark.parametrize("ours", [QDQQuantizer, ONNXQuantizer])
def test_the_classes_take_the_peers_parameters_in_its_order(ours: type, peer: ModuleType) -> None:
    theirs = getattr(peer, ours.__name__, None) or getattr(
        pytest.importorskip("onnxruntime.quantization.onnx_quantizer"), ours.__name__
    )
    assert positional(ours) == positional(theirs)


@pytest.mark.peer
def test_the_peers_members_may_be_given(peer: ModuleType, tmp_path: Path) -> None:
    report = quantize_static(
        linear_bias(),
        tmp_path / "m.onnx",
        FEEDS,
        peer.QuantFormat.QDQ,
        activation_type=peer.QuantType.QInt8,
        weight_type=peer.QuantType.QInt8,
        calibrate_method=peer.CalibrationMethod.MinMax,
        target=EAGER,
    )
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 not in types
    assert report.verified


def test_our_own_parameters_go_by_keyword() -> None:
    signature = inspect.signature(quantize_static).parameters
    own = {name for name, one in signature.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {"target", "guard", "bias_correction", "min_sqnr_db", "verify", "quantizer", "executor", "progress"} <= own
    assert all(one.default is not inspect.Parameter.empty for name, one in signature.items() if name in own)


def test_arguments_reach_the_result(tmp_path: Path) -> None:
    report = quantize_static(
        linear_bias(),
        tmp_path / "m.onnx",
        FEEDS,
        per_channel=False,
        activation_type=QuantType.QUInt16,
        calibrate_method=CalibrationMethod.MinMax,
        min_sqnr_db=200.0,
        guard=False,
        bias_correction=False,
        verify=False,
        target=EAGER,
    )
    assert report.verification.level is Level.LOADED
    assert report.bias_correction is None
    assert report.min_sqnr_db == 200.0
    written = onnx.load(tmp_path / "m.onnx")
    scales = [tensor.dims for tensor in written.graph.initializer if tensor.name.endswith("_scale")]
    assert scales
    assert not any(list(dims) for dims in scales)
    assert [entry.version for entry in written.opset_import if entry.domain == ""] == [21]


@pytest.mark.parametrize("external", [True, False])
def test_weights_may_go_into_a_file_of_their_own(external: bool, tmp_path: Path) -> None:
    weights = Weights(0)
    weights.normal("w", 64, 64)
    model = build("g (float[N, 64] x) => (float[N, 64] y) {\ny = MatMul (x, w)\n}", weights.arrays)
    feeds = normals(8, {"x": (2, 64)})
    quantize_static(model, tmp_path / "m.onnx", feeds, use_external_data_format=external, target=EAGER)
    assert bool(list(tmp_path.glob("*.data"))) is external
    onnx.checker.check_model(str(tmp_path / "m.onnx"))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    quantize_static(
        linear_bias(), tmp_path / "m.onnx", FEEDS, progress=lambda what, *_: told.append(what), target=EAGER
    )
    assert told
    assert "verify" in told


def test_min_sqnr_decides_what_collapse_means(tmp_path: Path) -> None:
    report = quantize_static(linear_bias(), tmp_path / "m.onnx", FEEDS, min_sqnr_db=60.0, target=EAGER)
    assert report.guard
    assert report.verification.worst_db is not None
    assert report.verification.worst_db >= 60 or any("SQNR" in warning for warning in report.warnings)


# ---- plan ----


def test_plan_lists_what_would_be_done_and_why_not() -> None:
    model = linear_bias()
    before = model.SerializeToString()
    found = plan(model, target=EAGER)
    assert set(found.nodes) == {"MatMul_0", "Add_1", "Relu_2", "MatMul_3", "Add_4"}
    assert [(skip.node, skip.op_type) for skip in found.skips] == [("Add_5", "Add")]
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("arguments", "planned"),
    [
        ({"nodes_to_exclude": ["MatMul_3"]}, {"MatMul_0", "Add_1", "Relu_2"}),
        ({"nodes_to_quantize": ["*_0"]}, {"MatMul_0"}),
        ({"op_types_to_quantize": ["Relu"]}, set()),
        (
            {"extra_options": {"ForceQuantizeNoInputCheck": True}},
            {"MatMul_0", "Add_1", "Relu_2", "MatMul_3", "Add_4", "Add_5"},
        ),
    ],
)
def test_plan_hears_the_same_arguments(arguments: Any, planned: set[str]) -> None:
    assert set(plan(linear_bias(), target=EAGER, **arguments).nodes) == planned


def test_plan_is_what_quantize_static_does(tmp_path: Path) -> None:
    for model in (linear_bias(), versioned(9), half()):
        path = tmp_path / "m.onnx"
        shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
        feeds = normals(8, {"x": shape})
        if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            feeds = [{"x": feed["x"].astype("float16")} for feed in feeds]
        planned = plan(model, target=EAGER)
        report = quantize_static(model, path, feeds, guard=False, target=EAGER)
        assert sum(report.quantized.values()) == len(planned.nodes)
        assert {skip.node for skip in report.skips} == {skip.node for skip in planned.skips}


def test_a_folded_node_may_be_named() -> None:
    planned = plan(versioned(13), nodes_to_exclude=["BatchNormalization_*"], target=EAGER)
    assert any(name.startswith("Conv") for name in planned.nodes)


def test_errors_are_one_family() -> None:
    with pytest.raises(VqonnxError) as caught:
        plan(linear_bias(), nodes_to_quantize=["nothing"])
    assert isinstance(caught.value, OptionError)
    assert isinstance(caught.value, ValueError)
