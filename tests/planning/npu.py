"""A device in the manner of AMD's NPU, and plans for it: int8, symmetric, powers of two, one scale a tensor."""

from dataclasses import replace

import numpy as np
import onnx.parser
import onnx_ir as ir

from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.core.target import Kernel, OpSupport, Target
from vqonnx.planning.own_biases import with_own_bias_scales
from vqonnx.planning.rules import PlanRules
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import prepare

S8 = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
_MOVES = OpSupport(kernel=Kernel.MOVES, activations=(0,))
NPU = Target(
    name="npu",
    provider="CPUExecutionProvider",
    description="for tests",
    activation=S8,
    weight=S8,
    per_channel=False,
    ops={
        "Conv": OpSupport(activations=(0,), weight=1, weight_axis=0, bias=2, heavy_from=1),
        "Gemm": OpSupport(activations=(0,), weight=1, weight_axis=1, transposed="transB", bias=2, heavy_from=1),
        "MatMul": OpSupport(activations=(0,), weight=1, weight_axis=1, heavy_from=1),
        **dict.fromkeys(
            ("Add", "Sub", "Mul", "Concat", "HardSigmoid", "AveragePool", "GlobalAveragePool", "LeakyRelu", "MaxPool"),
            OpSupport(),
        ),
        **dict.fromkeys(("Slice", "Transpose", "Reshape"), _MOVES),
        "Pad": replace(_MOVES, kernel=Kernel.COMPUTE),
        "Relu": OpSupport(kernel=Kernel.CLIPS),
        "Clip": OpSupport(kernel=Kernel.CLIPS, activations=(0,)),
    },
)
RULES = PlanRules(activation=S8, weight=S8, per_channel=False, method=RangeMethod.MSE, everything=True)


def parsed(text, constants=None, *, inputs="float[1,4,8,8] x", outputs="float y"):
    """A prepared model of a graph's text and the constants that it names; opset 17."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({outputs}) {{ {text} }}')
    for name, array in (constants or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return prepare(ir.serde.deserialize_model(model)).model


def planned(model, rules=RULES, *, own_biases=True):
    """A plan for the device."""
    plan = make_plan(model, NPU, rules)
    return with_own_bias_scales(plan, S8) if own_biases else plan


def normal(*shape, scale=1.0, seed=0):
    """Normally distributed numbers."""
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)
