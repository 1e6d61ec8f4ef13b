"""AWQ from the activation to the written constants: the model then errs as the solver said."""

import numpy as np
import onnx
import pytest

from vqonnx.calibration.moments import InputMoments
from vqonnx.core.weight_plan import BlockSpec, WeightForm, WeightPlan
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator, ensure_unique_names
from vqonnx.graph.walk import constant, nodes_by_name, values_by_name
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.runtime.session import open_session
from vqonnx.stages.weights.solve import scale_outputs, solve_group
from vqonnx.transforms.fold_scales import foldable
from vqonnx.transforms.weights import set_constant

K, N = 64, 24
NORM = "x = LayerNormalization (h, gamma, beta)"
MLP = "g = MatMul (h, w_gate)\n s = Sigmoid (g)\n a = Mul (g, s)\n u = MatMul (h, w_up)\n x = Mul (a, u)"


@pytest.fixture
def model(request, rng):
    text = f"""<ir_version: 10, opset_import: ["": 17]>
        graph (float[R, {K}] h) => (float[R, {N}] y, float[R, {N}] z)
        {{ {request.param}\n y = MatMul (x, w_y)\n z = MatMul (x, w_z) }}"""
    proto = onnx.parser.parse_model(text)
    shapes = {"gamma": K, "beta": K, "w_gate": (K, K), "w_up": (K, K), "w_y": (K, N), "w_z": (K, N)}
    read = {name for node in proto.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in read:
            array = rng.normal(size=shape).astype(np.float32)
            loud = np.where(np.arange(array.shape[-1]) % 13 == 0, 20, 1).astype(np.float32)
            array *= loud if name in ("gamma", "w_up") else 1
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    loaded = load(proto)
    ensure_unique_names(loaded)
    return loaded


def run(model, rows, *wanted):
    session = open_session(model, threads=1, optimize=False)
    return session.run(list(wanted), {"h": rows})


def maker_of(model, value):
    return values_by_name(model)[value].producer()


def plan_of(node, algorithm, inputs):
    k, n = node.inputs[1].shape.numpy()
    return WeightPlan(
        key=node.name,
        readers=(node.name,),
        in_features=k,
        out_features=n,
        dtype="float32",
        form=WeightForm.MATMUL_NBITS,
        spec=BlockSpec(),
        algorithm=algorithm,
        inputs=(inputs,),
    )


def solved_together(nodes, rows, algorithm, **options):
    moments = InputMoments(calibration=(rows.T @ rows).astype(np.float64), rows=len(rows))
    plans = [plan_of(node, algorithm, node.inputs[0].name) for node in nodes]
    return list(solve_group(plans, [constant(node.inputs[1]) for node in nodes], moments, **options))


def write(model, solved, names):
    set_constant(nodes_by_name(model)[solved.key], 1, dequantize_blocks(solved.packed), names, "packed")


@pytest.mark.parametrize("model", [NORM], indirect=True)
@pytest.mark.parametrize("algorithm", ["awq", "gptq"])
def test_a_norm_undoes_the_channel_scales(model, rng, algorithm):
    rows = rng.normal(size=(500, K)).astype(np.float32)
    layers, names = [maker_of(model, name) for name in "yz"], NameAllocator.of(model)
    fold = foldable(values_by_name(model)["x"], layers, K, planned={node.name for node in layers})
    floats = dict(zip("yz", run(model, rows, "y", "z"), strict=True))
    model.graph.outputs.append(values_by_name(model)["x"])
    (activation,) = run(model, rows, "x")
    model.graph.outputs.pop()
    found = solved_together(layers, activation, algorithm, scalable=True)
    assert (found[0].channel_scales != 1).any()
    assert fold.apply(1 / found[0].channel_scales.astype(np.float64), names)
    for solved in found:
        write(model, solved, names)
    for name, solved, after in zip("yz", found, run(model, rows, "y", "z"), strict=True):
        error = np.square(after - floats[name]).sum() / np.square(floats[name]).sum()
        assert error == pytest.approx(solved.error, rel=1e-3)
        assert solved.error < 0.7 * solved.rtn_error


@pytest.mark.parametrize("model", [MLP], indirect=True)
def test_a_packed_layer_undoes_the_channel_scales(model, rng):
    """``up`` was packed before; its scales change and its codes do not, so nothing but the layers behind errs more."""
    rows = rng.normal(size=(500, K)).astype(np.float32)
    layers, up, names = [maker_of(model, name) for name in "yz"], maker_of(model, "u"), NameAllocator.of(model)
    planned = {node.name for node in (*layers, up)}
    fold = foldable(values_by_name(model)["x"], layers, K, planned=planned, scalable=planned)
    (packed_up,) = solved_together([up], rows, "rtn")
    write(model, packed_up, names)
    floats = dict(zip("yz", run(model, rows, "y", "z"), strict=True))
    model.graph.outputs.append(values_by_name(model)["x"])
    (activation,) = run(model, rows, "x")
    model.graph.outputs.pop()
    found = solved_together(layers, activation, "awq", scalable=True)
    factors = 1 / found[0].channel_scales.astype(np.float64)
    assert fold.packed == (up.name,)
    assert fold.apply(factors, names)
    for solved in (scale_outputs(packed_up, factors), *found):
        write(model, solved, names)
    for name, solved, after in zip("yz", found, run(model, rows, "y", "z"), strict=True):
        error = np.square(after - floats[name]).sum() / np.square(floats[name]).sum()
        assert error == pytest.approx(solved.error, rel=1e-3)
        assert solved.error < 0.8 * solved.rtn_error
