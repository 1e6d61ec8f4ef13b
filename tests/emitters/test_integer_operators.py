"""Every integer operator with every type: against numpy in float64, and against what ONNX Runtime has kernels for."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import build
from tests.emitters.operators import CASES, Case
from tests.quantizers.flow import constants, ops, quantizer, run, run_reference
from vqonnx import ONNXQuantizer
from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.target import Form, Kernel, OpSupport, Target
from vqonnx.emitters.integer_operators import RULES
from vqonnx.errors import OptionError, VerificationError
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.targets.cpu import CPU_X86_VNNI
from vqonnx.targets.registry import get_target, target_names

Array = Any
TABLE = CPU_X86_VNNI.other_ops[Form.QOPERATOR]
TYPES = ("uint8", "int8")


def eager(**changes: Any) -> Target:
    """The processor's operators, each alone worth a conversion."""
    table = {name: replace(one, heavy_from=1, on_request=False, **changes) for name, one in TABLE.items()}
    return replace(CPU_X86_VNNI, other_ops={Form.QOPERATOR: table})


def made(case: Case, activation: str, weight: str, target: Target, **arguments: Any) -> BaseQuantizer:
    types = {"activation_qType": f"Q{activation}", "weight_qType": f"Q{weight}"}
    return quantizer(case.model(), case.feeds(), kind=ONNXQuantizer, target=target, **types, **arguments)


def real(constant: QuantizedTensor) -> Array:
    """What codes stand for, float64."""
    params, shape = constant.params, constant.codes.shape
    granularity = params.spec.granularity
    axes = [i for i in range(len(shape)) if not (isinstance(granularity, PerAxis) and i == granularity.axis)]
    scale, zero = (np.asarray(part, np.float64) for part in (params.scale, params.zero_point))
    if scale.ndim:
        scale, zero = np.expand_dims(scale, axes), np.expand_dims(zero, axes)
    return (constant.codes.astype(np.float64) - zero) * scale


def code(x: Array, params: QuantParams) -> Array:
    """Codes as float64: saturate(round(x / scale) + zero)."""
    info = np.iinfo(params.zero_point.dtype)
    return np.clip(np.rint(x / float(params.scale)) + float(params.zero_point), info.min, info.max)


def rounded(x: Array, params: QuantParams) -> Array:
    return (code(x.astype(np.float64), params) - float(params.zero_point)) * float(params.scale)


def expected(case: Case, quantizer: BaseQuantizer, feed: dict[str, Array]) -> Array:
    """The result in numpy from rounded inputs and constants, before it is itself rounded."""
    solutions = quantizer.solutions
    assert solutions is not None
    inputs = [rounded(feed[name], solutions.params(name)) for name in case.names]
    stored = [
        real(solutions.constants[name]) if name in solutions.constants else array
        for name, array in case.constants.items()
    ]
    return case.numpy(*inputs, *stored)


SUPPORTED = [
    pytest.param(name, activation, weight, id=f"{name}-{activation}-{weight}")
    for name, case in CASES.items()
    for activation, weights in TABLE[case.op_type].types.items()
    for weight in (weights or ("int8",))
]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("name", "activation", "weight"), SUPPORTED)
def test_an_operator_computes_what_its_codes_stand_for(
    name: str, activation: str, weight: str, per_channel: bool
) -> None:
    case = CASES[name]
    options = {"WeightSymmetric": per_channel}  # where one zero point must do for all channels
    work = made(case, activation, weight, eager(), per_channel=per_channel, extra_options=options)
    model = work.quantize_model()
    onnx.checker.check_model(model, full_check=True)
    feed = case.feeds(5)[4]  # the ranges have not seen it
    wanted = expected(case, work, feed)
    key = next(iter(work.current_plan().nodes.values())).outputs[0]
    for optimize in (False, True):
        given = run(model, feed, optimize=optimize)["y"]
        assert given.shape == wanted.shape
        if case.result_type == "int64":
            np.testing.assert_array_equal(given, wanted)
        elif key is None:
            np.testing.assert_allclose(given, wanted, atol=2e-6 * np.abs(wanted).max() + 1e-7)
        else:
            params = work.solutions.params(key)  # type: ignore[union-attr]  # it is solved
            steps = np.abs(given / float(params.scale) - (code(wanted, params) - float(params.zero_point)))
            assert steps.max() < 1.01
            assert (steps > 0.5).mean() <= 0.25  # QLinearSoftmax looks exponentials up in a table


def test_every_operator_of_the_table_has_a_case() -> None:
    tried = {case.op_type for case in CASES.values()}
    assert tried == {name for name, one in TABLE.items() if one.kernel is not Kernel.CLIPS}


def runs(model: onnx.ModelProto, case: Case) -> bool:
    """Whether ONNX Runtime has kernels for the model; what else may go wrong is an error."""
    try:
        run(model, case.feeds(1)[0])
    except VerificationError as error:
        if "Could not find an implementation" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("name", CASES)
def test_the_table_has_exactly_the_types_that_onnx_runtime_has_kernels_for(name: str) -> None:
    case = CASES[name]
    support = TABLE[case.op_type]
    all_types = dict.fromkeys(TYPES, TYPES if support.weight is not None else ())
    target = eager(types=all_types)
    found: dict[str, tuple[str, ...]] = {}
    for activation in TYPES:
        for weight in TYPES if support.weight is not None else ("int8",):
            model = made(case, activation, weight, target, per_channel=False).quantize_model()
            if runs(model, case):
                found[activation] = (*found.get(activation, ()), weight)
    listed = {one: tuple(sorted(weights or ("int8",))) for one, weights in support.types.items()}
    newer = {"int8": ("int8",)} if case.op_type == "DepthToSpace" else {}  # ONNX Runtime 1.31 has it, 1.24 does not
    assert {one: tuple(sorted(weights)) for one, weights in found.items()} in (listed, listed | newer)


@pytest.mark.parametrize("target", [get_target(name) for name in target_names()], ids=lambda one: one.name)
def test_every_operator_that_a_target_lists_can_be_written(target: Target) -> None:
    for name, support in target.other_ops.get(Form.QOPERATOR, {}).items():
        assert name in RULES or support.kernel in (Kernel.MOVES, Kernel.CLIPS)
        assert support.types


def test_an_operator_without_an_integer_form_is_refused() -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y) {\ny = Tanh (x)\n}"
    table = {"Tanh": OpSupport(heavy_from=1)}
    target = replace(CPU_X86_VNNI, other_ops={Form.QOPERATOR: table})
    feeds = [{"x": np.ones((3, 4), np.float32)}]
    with pytest.raises(OptionError, match=r"Tanh 'Tanh_0' has no operator in QOperator form, though the target lists"):
        quantizer(build(text), feeds, kind=ONNXQuantizer, target=target).quantize_model()


def test_attention_without_a_bias_gets_zeros() -> None:
    case = CASES["attention"]
    plain = replace(case, text=case.text.replace(", b)", ")"), constants={"w": case.constants["w"]})
    work = ONNXQuantizer(onnx.shape_inference.infer_shapes(plain.model()), extra_options={"Target": eager()})
    work.tensors_range = {"x": (-3.0, 3.0)}  # ONNX Runtime's float Attention crashes without a bias
    model = work.quantize_model()
    feed = plain.feeds(1)[0]
    x, w = rounded(feed["x"], work.solutions.params("x")), real(work.solutions.constants["w"])  # type: ignore[union-attr]
    np.testing.assert_allclose(run(model, feed)["y"], case.numpy(x, w, np.zeros(24)), atol=1e-5)


@pytest.mark.parametrize("name", ["conv", "conv, no bias, groups", "conv, depthwise", "matmul, batched weight"])
@pytest.mark.parametrize("activation", TYPES)
def test_onnx_itself_defines_the_operators_of_its_own_domain(name: str, activation: str) -> None:
    case = CASES[name]
    target = eager(float_output=False)
    work = made(case, activation, "int8", target)
    model = work.quantize_model()
    assert {node.domain for node in model.graph.node} == {""}
    feed = case.feeds(5)[4]
    given, reference = run(model, feed)["y"], run_reference(model, feed)["y"]
    step = float(work.solutions.params("y").scale)  # type: ignore[union-attr]  # it is solved
    assert np.abs(given - reference).max() < 1.01 * step
    assert ops(model)[1] in ("QLinearConv", "QLinearMatMul")
    assert constants(model)["w_quantized"].dtype == np.int8
