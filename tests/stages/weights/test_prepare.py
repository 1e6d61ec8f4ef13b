"""Prepare for weight-only quantization: outputs stay to the bit, nothing is read, weights can be found."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.control import local_function
from models.external import external, huge
from models.registry import load as load_cases
from models.weights import foreign_names, in_constant_nodes
from vqonnx.graph.external import external_tensors
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes, values
from vqonnx.planning.weights.layers import find_layers
from vqonnx.runtime.session import open_session
from vqonnx.stages.weights.prepare import prepare_weights

CASES = load_cases()


@pytest.mark.parametrize("name", sorted(CASES))
def test_odd_models_give_the_same_numbers(name: str) -> None:
    case = CASES[name]
    original, model = load(case.build()), load(case.build())
    stored = {tensor.name for tensor in case.build().graph.initializer}
    prepared = prepare_weights(model)
    assert prepared.model is model
    assert [value.name for value in model.graph.outputs] == [value.name for value in original.graph.outputs]
    assert [v.name for v in model.graph.inputs] == [v.name for v in original.graph.inputs if v.name not in stored]
    assert model.opset_imports == original.opset_imports
    names = [node.name for node in nodes(model)]
    assert len(set(names)) == len(names)
    assert max(Counter(value.name for value in values(model)).values()) == 1
    if not case.runnable:
        return
    before, after = (open_session(one, threads=1, optimize=False) for one in (original, model))
    for feed in case.feeds(2):
        kept = {key: array for key, array in feed.items() if key not in stored}
        for expected, found in zip(before.run(None, feed), after.run(None, kept), strict=True):
            if name == "control/carried":  # ONNX Runtime packs a weight that it sees to be constant
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(found, expected)


def test_functions_with_products_are_written_out_and_others_stay() -> None:
    weights = Weights(0)
    weights.normal("w", 8, 8)
    functions = """<domain: "local", opset_import: ["": 17, "local": 1]>
    Outer (x, w) => (y) { i = local.Inner (x, w) y = local.Soft (i) }
    <domain: "local", opset_import: ["": 17]>
    Inner (x, w) => (y) { y = MatMul (x, w) }
    <domain: "local", opset_import: ["": 17]>
    Soft (x) => (y) { y = Softmax (x) }"""
    text = "g (float[N, 8] x) => (float[N, 8] y) { y = local.Outer (x, w) }"
    model = load(build(text, weights.arrays, domains={"local": 1}, functions=functions))
    prepared = prepare_weights(model)
    assert [function.name for function in model.functions.values()] == ["Soft"]
    assert [node.op_type for node in model.graph] == ["MatMul", "Soft"]
    assert prepared.notes == ()


def test_a_weight_given_to_a_function_is_found() -> None:
    model = load(local_function())
    prepared = prepare_weights(model)
    assert sorted(layer.weight.root.name or "" for layer in find_layers(model)[0]) == ["one_w", "two_w"]
    assert prepared.folded >= {"Dense_0", "Dense_1"}


def test_a_function_of_another_opset_stays() -> None:
    model = load(foreign_names())
    prepare_weights(model)
    assert [function.name for function in model.functions.values()] == ["Gemm"]


def test_large_constants_become_initializers_of_the_main_graph() -> None:
    model = load(in_constant_nodes())
    prepared = prepare_weights(model)
    assert not [node for node in nodes(model) if node.op_type == "Constant"]
    assert set(model.graph.initializers) == {"w", "v"}
    assert prepared.folded == {"Constant_0", "If_2/then_branch/Constant_0"}


def test_the_caller_s_message_is_not_changed() -> None:
    proto = in_constant_nodes()
    before = proto.SerializeToString(deterministic=True)
    prepare_weights(load(proto))
    assert proto.SerializeToString(deterministic=True) == before


def test_ranks_behind_known_operators_become_known() -> None:
    model = load(CASES["networks/transformer"].build())
    for value in values(model):
        if value.producer() is not None and not value.is_graph_output():
            value.shape = None
    prepare_weights(model)
    assert not [value.name for value in values(model) if value.shape is None]


def test_inference_that_fails_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_options: object) -> onnx.ModelProto:
        raise onnx.shape_inference.InferenceError("types differ")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    model = load(local_function())
    note = prepare_weights(model).notes[-1]
    assert note.startswith("ONNX's shape inference: the types of graph 'local_function' contradict each other")
    assert len(find_layers(model)[0]) == 2


def test_no_external_weight_is_opened(tmp_path: Path) -> None:
    model = load(external(tmp_path))
    prepare_weights(model)
    find_layers(model)
    tensors = list(external_tensors(model))
    assert tensors
    assert all(isinstance(tensor, ir.ExternalTensor) and tensor.raw is None for tensor in tensors)


@pytest.mark.slow
def test_weights_beyond_two_gib_take_no_memory(tmp_path: Path) -> None:
    model = load(huge(tmp_path))
    tracemalloc.start()
    try:
        prepare_weights(model)
        layers, _ = find_layers(model)
        assert layers[0].read().shape[0] == 1024
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layers[0].weight.nbytes > 2**31
    assert peak < 1 << 24
