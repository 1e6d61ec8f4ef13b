import itertools

import numpy as np
import pytest

from tests.planning.npu import S8, normal, parsed, planned
from tests.quantizers.flow import normals, run
from vqonnx.core.plan import Role
from vqonnx.graph.io import load
from vqonnx.kernels.affine import affine_params, dequantize, quantize
from vqonnx.kernels.constants import constant_params
from vqonnx.kernels.positions import CANDIDATES
from vqonnx.kernels.scale_grid import at_position, position_of
from vqonnx.runtime.session import add_outputs
from vqonnx.stages.search_positions import searched_params

FEEDS = normals(4, {"x": (1, 4, 8, 8)})
HEAVY = np.random.default_rng(5).standard_t(2.5, (6, 4, 3, 3)).astype(np.float32)


def start_of(model, plan, constants):
    watched = add_outputs(load(model), [t.tensor for t in plan.activations() if t.tensor not in ("x", "y")])
    runs = [{**run(watched, feed), **feed} for feed in FEEDS]
    params = {}
    for key, tensor in plan.tensors.items():
        if tensor.role is Role.ACTIVATION:
            whole = np.concatenate([one[tensor.tensor].reshape(-1) for one in runs])
            params[key] = affine_params(whole.min(), whole.max(), S8)
        else:
            covering = constant_params(constants[key], S8)
            params[key] = at_position(covering, position_of(covering.scale) - 1)  # a bit is wasted
    return params


def searched(text, constants, **arguments):
    model = parsed(text, constants, **arguments)
    plan = planned(model)
    params = start_of(model, plan, constants)
    return model, plan, params, searched_params(model, plan, params, FEEDS)


def fake(values, params):
    return dequantize(quantize(values, params), params).astype(np.float32)


@pytest.mark.parametrize(
    ("conv", "behind", "weight"),
    [
        ("<pads=[1,1,1,1]>", "y = Relu (c)", HEAVY),
        ('<auto_pad="SAME_UPPER", strides=[2,3]>', "y = Clip (c, low, high)", HEAVY),
        ("<group=2>", "y = Identity (c)", HEAVY[:, :2]),
    ],
)
def test_the_choice_is_the_best_of_all_in_onnx_runtime(conv, behind, weight):
    bias = normal(6, scale=3.0, seed=1)
    constants = {"w": weight, "b": bias, "low": np.float32(-1), "high": np.float32(2)}
    text = f"c = Conv {conv} (x, w, b)\n {behind}"
    model, _, params, found = searched(text, constants)
    assert set(found) == {"w", "b"}
    expected = [run(model, feed)["y"] for feed in FEEDS]
    seen = [{"x": fake(feed["x"], params["x"])} for feed in FEEDS]
    errors = {}
    for steps in itertools.product(CANDIDATES, repeat=2):
        at = {
            key: at_position(params[key], int(position_of(params[key].scale)) + step)
            for key, step in zip("wb", steps, strict=True)
        }
        rounded = {key: fake(constants[key], at[key]) for key in "wb"}
        results = [run(parsed(text, {**constants, **rounded}), feed)["y"] for feed in seen]
        positions = tuple(int(position_of(at[key].scale)) for key in "wb")
        errors[positions] = sum(np.square(a - b).sum() for a, b in zip(results, expected, strict=True))
    chosen = tuple(int(position_of(found[key].scale)) for key in "wb")
    assert errors[chosen] <= min(errors.values()) * 1.02
    assert errors[chosen] < errors[tuple(int(position_of(params[key].scale)) for key in "wb")]


@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products_are_searched_with_their_bias(transposed):
    weight = np.random.default_rng(2).standard_t(2.5, (8, 5)).astype(np.float32)
    bias = normal(5)
    if transposed:
        text = "r = Reshape (x, shape)\n y = Gemm <transB=1> (r, w, b)"
        constants = {"w": np.ascontiguousarray(weight.T), "b": bias, "shape": np.array([32, 8], np.int64)}
    else:
        text = "m = MatMul (x, w)\n a = Add (m, b)\n y = Relu (a)"
        constants = {"w": weight, "b": bias}
    _, _, params, found = searched(text, constants)
    assert set(found) == {"w", "b"}
    x = np.concatenate([feed["x"].reshape(-1, 8) for feed in FEEDS])
    source = params["r" if transposed else "x"]
    hidden = (lambda y: y) if transposed else (lambda y: np.maximum(y, 0))
    wanted = hidden(x @ weight + bias)

    def error(at):
        rounded = [fake(part, at[key]) for key, part in (("w", weight), ("b", bias))]
        return np.square(hidden(fake(x, source) @ rounded[0] + rounded[1]) - wanted).sum()

    assert error(found) < error(params)


def test_two_windows_on_one_tensor_take_turns():
    constants = {"w": HEAVY, "v": normal(6, 4, 1, 1), "b": normal(6), "d": normal(6, seed=3)}
    text = "p = Conv <pads=[1,1,1,1]> (x, w, b)\n q = Conv (x, v, d)\n y = Add (p, q)"
    _, _, _, found = searched(text, constants)
    assert set(found) == {"w", "b", "v", "d"}


def test_a_weight_that_two_nodes_read_is_left():
    constants = {"w": HEAVY, "b": normal(6), "d": normal(6, seed=3)}
    text = "p = Conv (x, w, b)\n q = Conv (x, w, d)\n y = Add (p, q)"
    assert searched(text, constants)[3] == {}


def test_a_transposed_convolution_is_left():
    model = parsed("y = ConvTranspose (x, w)", {"w": normal(4, 6, 3, 3)})
    assert searched_params(model, planned(model), {}, FEEDS) == {}
