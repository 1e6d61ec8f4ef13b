"""The tables of targets are consistent in themselves and with ONNX's operators."""

from collections.abc import Mapping

import onnx
import pytest

from vqonnx.core.qtype import QTYPES, Kind
from vqonnx.core.target import Form, Kernel, OpSupport, Target
from vqonnx.targets.cpu import CPU_ARM, CPU_X86_AVX2, CPU_X86_VNNI
from vqonnx.targets.registry import get_target, target_names

TARGETS = [get_target(name) for name in target_names()]
TABLES = [
    pytest.param(target, ops, id=f"{target.name}-{form.value}")
    for target in TARGETS
    for form, ops in target.forms.items()
]


def float_inputs(schema: onnx.defs.OpSchema) -> list[int]:
    """Inputs that can be float32."""
    floats = {str(c.type_param_str) for c in schema.type_constraints if "tensor(float)" in c.allowed_type_strs}
    return [i for i, one in enumerate(schema.inputs) if one.type_str in floats | {"tensor(float)"}]


@pytest.mark.parametrize(("target", "ops"), TABLES)
def test_the_rows_fit_the_operators_schemas(target: Target, ops: Mapping[str, OpSupport]) -> None:
    for name, support in ops.items():
        if "::" not in name:
            check_schema(target, name, support)


def check_schema(target: Target, name: str, support: OpSupport) -> None:
    schema = onnx.defs.get_schema(name, target.max_opset)
    most = schema.max_input
    floats = float_inputs(schema)
    for index in (*support.activations, support.weight, support.bias):
        assert index is None or (index < most and (index in floats or index >= len(schema.inputs) - 1))
    assert support.transposed is None or support.transposed in schema.attributes
    assert set(support.attributes) <= set(schema.attributes)
    assert schema.since_version >= support.opset or onnx.defs.get_schema(name, support.opset).name == name


@pytest.mark.parametrize(("target", "ops"), TABLES)
def test_the_parts_of_the_rows_fit_together(target: Target, ops: Mapping[str, OpSupport]) -> None:
    del target
    for support in ops.values():
        check_parts(support)


def check_parts(support: OpSupport) -> None:
    apart = {index for index in (support.weight, support.bias) if index is not None}
    assert support.weight != support.bias or support.weight is None
    assert support.dynamic_weight or not apart & set(support.activations)
    assert (support.weight_axis is None and support.transposed is None) or support.weight is not None
    assert support.bias is None or support.weight is not None
    assert support.heavy_from is None or support.heavy_from >= 1
    assert support.kernel is Kernel.COMPUTE or (support.weight, support.heavy_from) == (None, None)
    assert not set(support.absent) & {*support.activations, *apart}
    for activation, weights in support.types.items():
        assert bool(weights) is (support.weight is not None)
        assert {activation, *weights} <= set(QTYPES)
    assert support.output_bounds is None or support.output_bounds[0] <= 0 <= support.output_bounds[1]
    assert support.weight_spec is None or support.weight is not None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_has_what_the_stages_read(target: Target) -> None:
    assert target.provider.endswith("ExecutionProvider")
    assert target.description
    assert target.sources
    for spec in (target.activation, target.weight):
        assert QTYPES[spec.qtype.name] is spec.qtype
        assert spec.qtype.kind is Kind.INTEGER
        assert spec.qtype.qmin <= spec.qmin <= 0 <= spec.qmax <= spec.qtype.qmax
    assert target.weight.symmetric


def test_a_target_that_quantizes_no_biases_has_no_form_that_needs_them() -> None:
    for target in TARGETS:
        assert target.bias or not any(support.bias for ops in target.other_ops.values() for support in ops.values())


def test_without_vnni_pairs_of_products_fit_int16() -> None:
    most = 2 * CPU_X86_AVX2.activation.qmax * max(-CPU_X86_AVX2.weight.qmin, CPU_X86_AVX2.weight.qmax)
    assert most <= 32767
    assert 2 * CPU_X86_VNNI.activation.qmax * CPU_X86_VNNI.weight.qmax > 32767
    assert CPU_ARM.weight.qmax == CPU_X86_VNNI.weight.qmax == 127


def test_processors_differ_in_nothing_else() -> None:
    assert CPU_X86_AVX2.forms == CPU_ARM.forms == CPU_X86_VNNI.forms


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_operators_of_the_qoperator_form_name_the_types_of_their_kernels(target: Target) -> None:
    assert target.forms[Form.QDQ] is target.ops
    for support in target.other_ops.get(Form.QOPERATOR, {}).values():
        assert target.activation.qtype.name in support.types
        if support.weight is not None:
            assert target.weight.qtype.name in support.types[target.activation.qtype.name]
