"""Functions are written out where that is safe."""

import onnx
import onnx_ir as ir
import pytest

from models.build import build
from models.registry import load as cases
from vqonnx.errors import ModelError
from vqonnx.graph.functions import obstacles
from vqonnx.graph.io import load
from vqonnx.transforms.functions import inline_functions


def test_calls_become_bodies(check):
    changed = check(cases()["control/function"].build(), inline_functions)
    assert changed.count == 1
    assert changed.ops == ["MatMul", "Add", "Relu"] * 2


@pytest.mark.parametrize(("domain", "opset"), [("com.microsoft", 17), ("local", 16)])
def test_functions_of_the_runtime_and_of_other_opsets_stay(domain, opset):
    functions = f'<opset_import: ["": {opset}], domain: "{domain}"> Own (a) => (b) {{ b = Relu (a) }}'
    text = f"g (float[2] x) => (float[2] y) {{ y = {domain}.Own (x) }}"
    model = load(build(text, functions=functions, domains={domain: 1}))
    assert inline_functions(model) == 0
    assert len(model.functions) == 1


def test_functions_inside_functions_and_bodies(check):
    functions = """
        <opset_import: ["": 17, "local": 1], domain: "local"> Outer (a) => (b) { c = local.Inner (a) b = Neg (c) }
        <opset_import: ["": 17, "local": 1], domain: "local"> Inner (a) => (b) { b = Relu (a) }"""
    text = """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] u) { u = local.Outer (x) },
                    else_branch = e () => (float[2] v) { v = local.Inner (x) }> }"""
    changed = check(build(text, functions=functions, domains={"local": 1}), inline_functions, samples=4)
    assert changed.ops == ["If", "Relu", "Neg", "Relu"]


def two_functions(first: int, second: int, imported: bool) -> ir.Model:
    functions = "".join(
        f"""<opset_import: ["": 17, "com.microsoft": {version}], domain: "local"> F{number} (a) => (b) {{
            b = com.microsoft.Gelu (a)
        }}"""
        for number, version in enumerate((first, second))
    )
    text = "g (float[2] x) => (float[2] y) { u = local.F0 (x) y = local.F1 (u) }"
    domains = {"local": 1, **({"com.microsoft": 1} if imported else {})}
    return load(build(text, functions=functions, domains=domains))


def test_what_only_functions_import_is_imported_with_them():
    model = two_functions(1, 1, imported=False)
    assert obstacles(model) == {}
    assert inline_functions(model) == 2
    assert model.opset_imports["com.microsoft"] == 1


def test_versions_that_contradict_each_other_keep_functions():
    reasons = obstacles(two_functions(1, 2, imported=False))
    assert set(reasons.values()) == {"another function was written for another version of 'com.microsoft'"}
    model = two_functions(1, 2, imported=True)
    assert obstacles(model) == {("local", "F1", ""): "it was written for opset 2 of 'com.microsoft', the model has 1"}
    assert inline_functions(model) == 1


def test_a_call_with_a_body_among_its_attributes_stays():
    model = two_functions(1, 1, imported=True)
    body = ir.Graph([], [], nodes=[], name="body")
    model.graph[0].attributes["body"] = ir.AttrGraph("body", body)
    assert obstacles(model) == {("local", "F0", ""): "a call has a body among its attributes"}


def test_only_the_functions_asked_for_are_written_out(check):
    proto = cases()["control/function"].build()
    assert check(proto, lambda model: inline_functions(model, ())).count == 0
    assert check(proto, lambda model: inline_functions(model, model.functions)).count == 1


def test_a_circle_is_an_error():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[2] x) => (float[2] y) { y = local.A (x) }
        <opset_import: ["": 17, "local": 1], domain: "local"> A (a) => (b) { b = local.B (a) }
        <opset_import: ["": 17, "local": 1], domain: "local"> B (a) => (b) { b = local.A (a) }"""
    with pytest.raises(ModelError, match="circle"):
        inline_functions(load(onnx.parser.parse_model(text)))
