import numpy as np
import pytest

from tests.planning.npu import S8, normal, parsed, planned
from vqonnx.core.plan import Role
from vqonnx.kernels.affine import affine_params, dequantize, quantize
from vqonnx.kernels.constants import constant_params, histogram_of
from vqonnx.kernels.scale_grid import at_position
from vqonnx.planning.position_nodes import position_key, position_nodes
from vqonnx.stages.position_losses import position_losses

W, B, Y = normal(6, 4, 3, 3), normal(6, seed=1), normal(20_000, scale=9.0)
RANGES = {"x": (-4.0, 4.0), "y": (-40.0, 40.0)}


def losses(histograms, constants):
    model = parsed("y = Conv (x, w, b)", {"w": W, "b": B})
    plan = planned(model)
    members = {position_key(plan, key): [tensor] for key, tensor in plan.tensors.items()}
    params = {
        key: affine_params(*RANGES[key], S8)
        if tensor.role is Role.ACTIVATION
        else constant_params({"w": W, "b": B}[key], S8)
        for key, tensor in plan.tensors.items()
    }
    return position_losses(position_nodes(model, plan), members, params, histograms, constants.__getitem__)


def noise(values, position):
    params = at_position(affine_params(-1.0, 1.0, S8), position)
    return np.square(dequantize(quantize(values, params), params).astype(np.float64) - values).sum()


def energy(values):
    return np.square(values.astype(np.float64)).sum()


@pytest.mark.parametrize("position", [1, 3, 5, 6, 8])
def test_a_loss_is_the_share_of_noise(position):
    found = losses({"y": histogram_of(Y)}, {"w": W, "b": B})
    assert found["w"](position) == pytest.approx(noise(W, position) / energy(W), rel=1e-6)
    assert found["y"](position) == pytest.approx(noise(Y, position) / energy(Y), rel=0.05)
    assert found["b"](position) == pytest.approx(noise(B, position) / B.size / (energy(Y) / Y.size), rel=0.01)


def test_without_a_histogram_a_tensor_is_spread_evenly_over_its_codes():
    found = losses({}, {"w": W, "b": B})
    even = np.linspace(-127, 127, 10_001) / 16
    assert found["x"](5) == pytest.approx(noise(even, 5) / energy(even), rel=0.05)
    assert found["x"](3) > found["x"](4) < found["x"](5)


def test_constants_are_read_when_they_are_asked_for_and_once_a_position():
    class Counting(dict):
        reads = 0

        def __getitem__(self, key):
            Counting.reads += 1
            return super().__getitem__(key)

    found = losses({"y": histogram_of(Y)}, Counting(w=W, b=B))
    assert Counting.reads == 0
    assert found["w"](3) == found["w"](3)
    assert Counting.reads == 1


def test_what_is_zero_costs_nothing():
    found = losses({"y": histogram_of(np.zeros(4, np.float32))}, {"w": np.zeros_like(W), "b": B})
    assert (found["w"](3), found["y"](3), found["b"](3)) == (0, 0, 0)
