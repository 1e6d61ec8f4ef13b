"""Why nodes with weights are no layers, and which nodes are not even mentioned."""

from functools import partial

import numpy as np
import onnx
import pytest

from models.build import Array, build
from models.matmuls import matmul, two_activations, weight_first
from models.precision import double
from models.weights import foreign_names, leading_ones, pointwise, quantized
from tests.planning.finding import found_in
from vqonnx.graph.io import load
from vqonnx.planning.weights.layers import find_layers


def model_of(nodes: str, inputs: str = "float[N, 8] x", opset: int = 17, **arrays: Array) -> onnx.ModelProto:
    """A model with free rank and type of its output ``y``."""
    domains = {"com.microsoft": 1} if "com.microsoft" in nodes else {}
    model = build(f"g ({inputs}) => (float[a] y) {{ {nodes} }}", arrays, opset=opset, domains=domains)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


W = np.ones((8, 4), np.float32)
OLD_FUNCTION = (
    "in function old::Gemm, which is not written out: it was written for opset 16 of 'ai.onnx', the model has 17"
)


@pytest.mark.parametrize(
    ("make", "node", "reason"),
    [
        (weight_first, "MatMul_0", "its constant operand is the left one"),
        (two_activations, "MatMul_0", "its weight is an input"),
        (partial(matmul, "vector"), "MatMul_0", "its weight is a vector"),
        (partial(matmul, "3d"), "MatMul_0", "its weight is a batch of matrices"),
        (leading_ones, "MatMul_1", "its weight has 4 axes, and the result is given axes of size 1 by it"),
        (double, "MatMul_0", "its weight is double, not float32, float16 or bfloat16"),
        (pointwise, "Conv_1", "it pads its input"),
        (pointwise, "Conv_2", "it has strides"),
        (pointwise, "Conv_3", "it has groups"),
        (pointwise, "Conv_4", "its kernel is 3x3, not 1x1"),
        (partial(quantized, "packed"), "MatMulNBits_0", "quantized already"),
        (foreign_names, "FusedMatMul_1", "com.microsoft::FusedMatMul has no packed form"),
        (
            foreign_names,
            "MatMul_m_1",
            OLD_FUNCTION,
        ),
        (partial(model_of, "y = MatMul (x, w)", "float[8] x", w=W), "MatMul_0", "its input has one axis"),
        (
            partial(model_of, "y = MatMul (x, w)", w=np.ones((8, 0), np.float32)),
            "MatMul_0",
            "its weight has no elements",
        ),
        (
            partial(model_of, "y = MatMul (x, w)", "int32[N, 8] x", w=np.ones((8, 4), np.int32)),
            "MatMul_0",
            "its weight is int32, not float32, float16 or bfloat16",
        ),
        (
            partial(model_of, "y = Gemm <alpha = 0.0> (x, w)", w=W),
            "Gemm_0",
            "alpha is 0, so its weight counts for nothing",
        ),
        (
            partial(model_of, "t = Tanh (w) f = Transpose (t) y = Gemm <transB = 1> (x, f)", w=W),
            "Gemm_2",
            "its weight is computed at run time, by Tanh",
        ),
        (
            partial(model_of, "a, b = Split <axis = 1> (w) y = MatMul (x, b)", w=W),
            "MatMul_1",
            "its weight is computed at run time, by Split",
        ),
        (
            partial(model_of, "y = Gather <axis = 1> (w, i)", "int64[N] i", w=W),
            "Gather_0",
            "it gathers columns, not rows",
        ),
        (
            partial(model_of, "y = Gather (w, i)", "int64[N] i", w=np.ones((8, 4, 2), np.float32)),
            "Gather_0",
            "its table has 3 axes",
        ),
        (
            partial(model_of, 'y = Einsum <equation = "nk,kj->nj"> (x, w)', w=W),
            "Einsum_0",
            "Einsum has no packed form",
        ),
        (
            partial(
                model_of, "w = DequantizeLinear (q, s) y = Add (x, w)", q=np.ones((3, 8), np.int8), s=np.float32(1)
            ),
            "Add_1",
            "Add has no packed form, and its weight is quantized already",
        ),
    ],
)
def test_a_node_is_no_layer_for_a_reason(make: partial[onnx.ModelProto], node: str, reason: str) -> None:
    _, layers, reasons = found_in(make())
    assert reasons[node] == reason
    assert node not in {layer.name for layer in layers}


def test_an_unknown_rank_matters_to_a_weight_with_axes_of_size_one_only() -> None:
    nodes = "u = com.microsoft.Gelu (x) a = MatMul (u, w) v = com.microsoft.Gelu (a) y = MatMul (v, o)"
    model = model_of(nodes, w=W, o=np.ones((1, 4, 4), np.float32))
    _, layers, reasons = found_in(model)
    assert [layer.name for layer in layers] == ["MatMul_1"]
    assert reasons == {"MatMul_3": "its weight has 3 axes, and the result may be given axes of size 1 by it"}


def test_reads_that_are_no_weights_go_without_saying() -> None:
    nodes = """s = Shape (x) n = Gather (s, zero) r = Gather (x, zero) a = Add (r, bias) c = Cast <to = 10> (w)
    d = Cast <to = 1> (c) p = Slice (mask, zeros, ends) b = Add (a, p) y = MatMul (b, d)"""
    arrays: dict[str, Array] = {"zero": np.array(0), "bias": np.ones((1, 8), np.float32), "w": W}
    arrays |= {"mask": np.ones((6, 8), np.float32), "zeros": np.array([0]), "ends": np.array([1])}
    _, layers, reasons = found_in(model_of(nodes, **arrays))
    assert [layer.name for layer in layers] == ["MatMul_8"]
    assert reasons == {}


def test_a_weight_that_a_loop_carries_may_change() -> None:
    text = """g (float[2, 4] x, bool c) => (float[2, 4] y) {
        n = Constant <value_int = 2> ()
        y, z = Loop (n, c, x, w) <
            body = step (int64 i, bool go, float[2, 4] h, float[4, 4] v) => (bool on, float[2, 4] p, float[4, 4] u) {
                on = Identity (go)
                p = MatMul (h, v)
                u = Identity (v)
            }
        >
    }"""
    arrays = {"w": np.ones((4, 4), np.float32)}
    assert [layer.name for layer in found_in(build(text, arrays))[1]] == ["Loop_1/body/MatMul_1"]  # none changes it
    _, layers, reasons = found_in(build(text.replace("u = Identity", "u = Neg"), arrays))
    assert layers == []
    assert reasons == {"Loop_1": "Loop has no packed form", "Loop_1/body/MatMul_1": "its weight is an input"}


def test_an_input_with_a_default_may_change_while_it_is_one() -> None:
    proto = model_of("y = MatMul (x, w)", "float[N, 8] x, float[8, 4] w", w=W)
    model = load(proto)
    (skip,) = find_layers(model)[1]
    assert skip.reason == "its weight is an input with a default, which a caller may change"
    assert [layer.name for layer in found_in(proto)[1]] == ["MatMul_0"]  # prepared, it is a constant
