"""All packed forms over odd models: they compute what their codes mean, and leave nothing behind."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from models.registry import load as load_cases
from tests.emitters.weights.packing import (
    HALF_SQNR,
    SQNR,
    Form,
    assert_computes,
    default_spec,
    pack_model,
    real,
    rounded,
    run,
    sqnr,
)
from tests.sampling import one_in
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import Reader
from vqonnx.emitters.weights.emit import emit_weights, read_blocks
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import initialized_values
from vqonnx.graph.walk import nodes, nodes_by_name
from vqonnx.planning.weights.layers import find_layers
from vqonnx.stages.weights.prepare import prepare_weights

CASES = {name: case for name, case in load_cases().items() if case.runnable}
OPSETS = {Form.MATMUL_NBITS: 0, Form.QDQ: 21, Form.CHANNEL_QDQ: 19, Form.BNB4: 0}
FORMS = list(OPSETS)


NO_LOOKUPS = (Form.CHANNEL_QDQ, Form.BNB4)
LAYERS = {name: find_layers(prepare_weights(load(case.build())).model)[0] for name, case in CASES.items()}
LAYERED = [name for name, layers in LAYERS.items() if layers]


def only_lookups(name: str) -> bool:
    return all(layer.reader is Reader.LOOKUP for layer in LAYERS[name])


@pytest.mark.parametrize(("name", "form"), one_in(3, itertools.product(LAYERED, FORMS)))
def test_every_odd_model_computes_what_the_codes_mean(name, form):
    case = CASES[name]
    if form in NO_LOOKUPS and only_lookups(name):
        with pytest.raises(UnsupportedModelError, match="a table has no packed form"):
            pack_model(case.build(), form, opset=OPSETS[form])
        return
    packed = pack_model(case.build(), form, opset=OPSETS[form])
    half = any(weight.dtype != "float32" for weight in packed.plan.weights.values())
    fusion = {"session.qdq_matmulnbits_accuracy_level": "1"}
    if not packed.model.functions:  # those that stay bring an older opset, which the checker does not like
        onnx.checker.check_model(packed.proto)
    for feed in case.feeds(2):
        expected, actual = run(packed.meant, feed), run(packed.model, feed, options=fusion)
        for output, wanted in expected.items():
            given = actual[output]
            assert (given.shape, given.dtype) == (wanted.shape, wanted.dtype)
            if np.issubdtype(wanted.dtype, np.floating):
                assert sqnr(wanted, given) > (HALF_SQNR if half else SQNR[0])
            else:
                np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_nodes_and_outputs_keep_their_names(form):
    case = CASES["networks/transformer"]
    before = load(case.build())
    packed = pack_model(case.build(), form, opset=OPSETS[form], op_types=("MatMul", "Gemm"))
    after = nodes_by_name(packed.model)
    for name in packed.plan.layers:
        assert after[name].outputs[0].name == nodes_by_name(before)[name].outputs[0].name
    names = [node.name for node in nodes(packed.model)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["weights/transpose", "weights/turned_flat", "gemm/alpha_beta", "matmuls/2d"])
def test_float_weights_and_what_stood_before_them_go(name, form):
    packed = pack_model(CASES[name].build(), form, opset=OPSETS[form])
    assert not [v for v, t in initialized_values(packed.model) if t.dtype == ir.DataType.FLOAT and len(t.shape) > 2]
    largest = max(t.nbytes for _, t in initialized_values(packed.model))
    for weight in packed.plan.weights.values():
        assert largest < weight.in_features * weight.out_features * 4
    assert {"Reshape", "Cast", "Mul"}.isdisjoint(packed.ops())


def test_a_weight_that_somebody_else_reads_stays():
    packed = pack_model(CASES["sharing/weight_and_value"].build())
    assert any(t.dtype == ir.DataType.FLOAT and t.size > 32 for _, t in initialized_values(packed.model))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_can_be_read_back(form, tmp_path):
    packed = pack_model(CASES["networks/transformer"].build(), form, opset=OPSETS[form])
    save(packed.model, tmp_path / "m.onnx", external=True)
    found = nodes_by_name(load(tmp_path / "m.onnx"))
    for name, layer in packed.plan.layers.items():
        weight = packed.weights[layer.weight]
        again = read_blocks(found[name])
        assert type(again) is type(weight)
        np.testing.assert_array_equal(real(again), real(weight))


def test_an_unpacked_node_has_no_blocks():
    model = load(CASES["matmuls/2d"].build())
    with pytest.raises(UnsupportedModelError, match=r"MatMul\) cannot be read: it is not packed"):
        read_blocks(next(node for node in nodes(model) if node.op_type == "MatMul"))


# --- one packed weight at a time is in memory


def test_large_tensors_are_computed_when_they_are_written_and_not_kept(rng, tmp_path):
    k = n = 256
    weights = {f"w{i}": rng.normal(size=(k, n)).astype(np.float32) for i in range(3)}
    body = " ".join(f"h{i + 1} = MatMul (h{i}, w{i})" for i in range(3))
    model = build(f"chain (float[N, {k}] h0) => (float[N, {n}] h3) {{ {body} }}", weights, opset=21)
    packed = pack_model(model, Form.QDQ)
    large = [tensor for _, tensor in initialized_values(packed.model) if tensor.nbytes >= k * n // 2]
    assert len(large) == 3
    assert all(isinstance(tensor, ir.LazyTensor) and not tensor.cache for tensor in large)
    assert large[0].tobytes() == large[0].tobytes()
    save(packed.model, tmp_path / "m.onnx", external=True)
    feed = {"h0": rng.normal(size=(2, k)).astype(np.float32)}
    assert sqnr(run(packed.meant, feed)["h3"], run(load(tmp_path / "m.onnx"), feed)["h3"]) > SQNR[4] - 6


def test_maps_of_files_are_written_as_they_are(rng, tmp_path):
    def mapped(layer):
        blocks = rounded(layer, BlockSpec())
        files = {}
        for part in ("codes", "scales", "zero_points"):
            path = tmp_path / f"{part}.npy"
            np.save(path, getattr(blocks, part))
            files[part] = np.load(path, mmap_mode="r")
        return replace(blocks, **files)

    weights = {"w": rng.normal(size=(64, 24)).astype(np.float32)}
    model = build("one (float[N, 64] x) => (float[N, 24] y) { y = MatMul (x, w) }", weights, opset=21)
    feed = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    for form in (Form.MATMUL_NBITS, Form.QDQ):
        packed = pack_model(model, form, weights=mapped)
        assert_computes(packed, [feed], SQNR[4])


# --- refusals


@pytest.mark.parametrize(
    ("form", "opset", "least"),
    [(Form.QDQ, 20, 21), (Form.CHANNEL_QDQ, 12, 13)],
)
def test_the_model_must_have_the_opset_of_the_form(rng, form, opset, least):
    weights = {"w": rng.normal(size=(64, 24)).astype(np.float32)}
    model = build("one (float[N, 64] x) => (float[N, 24] y) { y = MatMul (x, w) }", weights, opset=opset)
    with pytest.raises(UnsupportedModelError, match=rf"'w' needs opset {least} .* the model has {opset}"):
        pack_model(model, form)


def test_a_form_takes_only_its_own_kind_of_weight(rng):
    weights = {"w": rng.normal(size=(64, 24)).astype(np.float32)}
    model = build("one (float[N, 64] x) => (float[N, 24] y) { y = MatMul (x, w) }", weights, opset=21)
    for form, other in itertools.product(FORMS, FORMS):
        if (form is Form.BNB4) != (other is Form.BNB4):
            with pytest.raises(OptionError, match=f"which format='{form.value}' cannot hold"):
                pack_model(model, form, weights=lambda layer, other=other: rounded(layer, default_spec(other)))


@pytest.mark.parametrize("form", [Form.CHANNEL_QDQ, Form.BNB4])
def test_forms_without_lookups_say_so(form):
    packed = pack_model(CASES["sharing/tied_matmul"].build(), Form.MATMUL_NBITS)
    float_model = load(CASES["sharing/tied_matmul"].build())
    layers = {layer.name: layer for layer in find_layers(float_model)[0]}
    plans = {key: replace(plan, form=form) for key, plan in packed.plan.weights.items()}
    lookup = next(name for name, layer in layers.items() if layer.reader is Reader.LOOKUP)
    with pytest.raises(UnsupportedModelError, match=r"Gather.*looks rows up") as caught:
        emit_weights(float_model, replace(packed.plan, weights=plans), layers, packed.weights.__getitem__)
    assert caught.value.node == lookup
