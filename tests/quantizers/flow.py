"""The stages from a model to its QDQ form, one call each, and a target that takes what it can get."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.core.plan import Plan
from vqonnx.core.spec import RangeMethod
from vqonnx.core.target import Form, OpSupport, Target
from vqonnx.graph.io import load
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.opset import needed_opset
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.runtime.session import open_session
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import prepare
from vqonnx.targets.cpu import CPU_X86_VNNI

_REFERENCE_OPSET = 19

Feed = Mapping[str, Any]
Outputs = dict[str, Any]

_QOPERATOR = CPU_X86_VNNI.other_ops[Form.QOPERATOR]
_PRODUCTS = ("Conv", "Gemm", "MatMul")

EAGER = replace(
    CPU_X86_VNNI,
    name="eager",
    ops={
        **CPU_X86_VNNI.ops,
        **{name: replace(CPU_X86_VNNI.ops[name], heavy_from=1) for name in _PRODUCTS},
        "ConvTranspose": OpSupport(activations=(0,), weight=1, weight_axis=1, bias=2, heavy_from=1),
        "Concat": OpSupport(same_scale=True),
        "Softmax": OpSupport(output_bounds=(0.0, 1.0)),
    },
    other_ops={
        Form.QOPERATOR: {
            **{name: replace(support, on_request=False) for name, support in _QOPERATOR.items()},
            **{name: replace(_QOPERATOR[name], heavy_from=1) for name in _PRODUCTS},
        }
    },
)
"""Not the processor's: small weights count as heavy, and rules that no shipped target has are in force."""


def prepared(model: onnx.ModelProto, options: QuantizerOptions) -> ir.Model:
    """The float model that the plan is made for."""
    loaded = load(model)
    return prepare(loaded, opset=needed_opset(loaded, options)).model


def plan_of(model: onnx.ModelProto, target: Target | str = EAGER, **arguments: Any) -> Plan:
    """The plan, without samples."""
    options = QuantizerOptions.of(target=target, **arguments)
    return make_plan(prepared(model, options), options.target, options.rules)


def reasons(plan: Plan) -> dict[str, str]:
    """Why each skipped node was skipped, by node name."""
    return {skip.node: skip.reason for skip in plan.skips}


def quantizer(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    kind: type[BaseQuantizer] = QDQQuantizer,
    target: Target | str = EAGER,
    extra_options: Mapping[str, object] | None = None,
    **arguments: Any,
) -> BaseQuantizer:
    """A quantizer of the prepared model, with the smallest and largest values of the samples as ranges."""
    extra = {"Target": target, **(extra_options or {})}
    names = {"activation_qType": "activation_type", "weight_qType": "weight_type"}
    options = QuantizerOptions.of(
        form=kind.form, extra_options=extra, **{names.get(name, name): value for name, value in arguments.items()}
    )
    made = kind(prepared(model, options), extra_options=extra, **arguments)
    wanted = {one.tensor: RangeMethod.MIN_MAX for one in made.current_plan().activations() if one.method is not None}
    found = observe(made.model, wanted, [dict(feed) for feed in feeds], ObserveOptions()).tensors
    made.tensors_range = {name: (one.low, one.high) for name, one in found.items() if isinstance(one, MinMax)}
    return made


def quantized(model: onnx.ModelProto, feeds: Sequence[Feed], **arguments: Any) -> onnx.ModelProto:
    """The QDQ form, checked."""
    made = quantizer(model, feeds, **arguments).quantize_model()
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model: onnx.ModelProto | ir.Model, feed: Feed, *, optimize: bool = False) -> Outputs:
    """Outputs by ONNX Runtime, by default of the graph as it is."""
    session = open_session(load(model), optimize=optimize, threads=1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feed)), strict=True))


def run_reference(model: onnx.ModelProto, feed: Feed) -> Outputs:
    """Outputs by ONNX's own definition of the operators.

    It knows QuantizeLinear from opset 19 on; none of the others here means anything else there than from 13 on.
    """
    newer = onnx.ModelProto.FromString(model.SerializeToString())
    for entry in newer.opset_import:
        entry.version = max(entry.version, _REFERENCE_OPSET) if entry.domain == "" else entry.version
    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(newer).run(None, dict(feed)), strict=True))


def sqnr(expected: Any, actual: Any) -> float:
    """Signal over noise in dB, in float64."""
    signal, noise = np.asarray(expected, np.float64), np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
    return float(10 * np.log10((signal**2).sum() / max(float((noise**2).sum()), 1e-300)))


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Initializers by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def ops(model: onnx.ModelProto) -> list[str]:
    """Operators in graph order."""
    return [node.op_type for node in model.graph.node]


def maker(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    """The node that computes a value."""
    return next(node for node in model.graph.node if value in node.output)


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of that name."""
    return next(one for one in model.graph.node if one.name == name)


def normals(count: int, shapes: Mapping[str, Iterable[int]], seed: int = 0) -> list[Feed]:
    """Samples of normal numbers, by input."""
    rng = np.random.default_rng(seed)
    return [{k: rng.normal(size=tuple(s)).astype(np.float32) for k, s in shapes.items()} for _ in range(count)]
