import numpy as np
import onnx.parser
import pytest

from vqonnx.core.plan import Role
from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.graph.io import load
from vqonnx.graph.walk import values_by_name
from vqonnx.kernels.affine import dequantize, quantize
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.planning.rules import PlanRules
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.stages import sensitivity
from vqonnx.stages.observe import observe
from vqonnx.stages.pieces import piece_sqnr
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import prepare
from vqonnx.stages.sensitivity import sensitivities
from vqonnx.targets.cpu import CPU_X86_VNNI

CPU = ("CPUExecutionProvider",)
RULES = PlanRules(
    activation=QuantSpec(qtype=UINT8), weight=QuantSpec(qtype=INT8, symmetric=True), method=RangeMethod.MIN_MAX
)


def three_layers(outlier):
    """Three products; the input of the second has one column of ``outlier`` beside ones."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(16, 16)).astype(np.float32) for name in ("a", "b", "c")}
    weights["big"] = np.array([outlier] + [1] * 15, np.float32)
    weights["small"] = (1 / weights["big"]).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> g (float[4, 16] x) => (float[4, 16] y) {'
        " one = MatMul (x, a) t = Tanh (one) wide = Mul (t, big) narrow = Mul (wide, small)"
        " two = MatMul (wide, b) u = Tanh (narrow) sum = Add (two, u) three = MatMul (u, c) y = Add (sum, three) }"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return prepare(load(model)).model


@pytest.fixture(scope="module")
def planned():
    model = three_layers(500.0)
    plan = make_plan(model, CPU_X86_VNNI, RULES)
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(size=(4, 16)).astype(np.float32)} for _ in range(4)]
    quantizer = QDQQuantizer(model, extra_options={"Target": CPU_X86_VNNI})
    quantizer.plan = plan
    wanted = {tensor.tensor: tensor.method for tensor in plan.activations() if tensor.method}
    quantizer.tensors_range = dict(observe(model, wanted, feeds).tensors)
    return model, plan, quantizer.solve(), feeds


def product(model, weight):
    return next(node.name for node in model.graph if node.op_type == "MatMul" and node.inputs[1].name == weight)


def test_every_operator_is_asked_about_and_the_worst_comes_first(planned):
    model, plan, solutions, feeds = planned
    found = sensitivities(model, plan, solutions, feeds, providers=CPU)
    computing = [node for node in plan.nodes.values() if plan.tensors[node.inputs[0]].role is Role.ACTIVATION]
    assert set(found) == {node.node for node in computing}
    assert list(found.values()) == sorted(found.values())
    assert all(np.isfinite(db) for db in found.values())


def test_one_quantized_operator_is_better_than_all(planned):
    model, plan, solutions, feeds = planned
    everything = sensitivity._worst(
        sensitivity._outputs(model, feeds, CPU),
        sensitivity._outputs(sensitivity.emit(model, plan, solutions), feeds, CPU),
    )
    alone = sensitivities(model, plan, solutions, feeds, providers=CPU)
    assert min(alone.values()) >= everything - 0.5


def test_the_error_of_a_piece_is_that_of_its_quantized_inputs(planned):
    model, plan, solutions, feeds = planned
    node = product(model, "a")
    x_key, weight_key = plan.nodes[node].inputs
    params, constant = solutions.params(x_key), solutions.constants[weight_key]
    rounded = dequantize(constant.codes, constant.params).astype(np.float64)
    weight = values_by_name(model)["a"].const_value.numpy().astype(np.float64)
    sums = ErrorSums()
    for feed in feeds:
        x = feed["x"].astype(np.float64)
        sums = sums.merge(ErrorSums.of(x @ weight, dequantize(quantize(feed["x"], params), params) @ rounded))
    assert piece_sqnr(model, plan, solutions, feeds, CPU)[node] == pytest.approx(sums.sqnr_db, abs=1e-3)


def test_of_many_operators_only_the_worst_are_asked(planned, monkeypatch):
    model, plan, solutions, feeds = planned
    monkeypatch.setattr(sensitivity, "MOST_OPERATORS", 1)
    own = piece_sqnr(model, plan, solutions, feeds, CPU)
    found = sensitivities(model, plan, solutions, feeds, providers=CPU)
    assert list(found) == [min(own, key=own.get)]


def test_progress_is_told(planned):
    model, plan, solutions, feeds = planned
    told = []
    found = sensitivities(model, plan, solutions, feeds, providers=CPU, progress=lambda *step: told.append(step))
    assert told[-1] == ("find sensitive nodes", len(found), len(found))
