from tests.planning.npu import S8, normal, parsed, planned
from vqonnx.core.plan import Role
from vqonnx.planning.own_biases import with_own_bias_scales


def test_only_biases_change_and_stay_biases():
    model = parsed("c = Conv (x, w, b)\n y = Relu (c)", {"w": normal(6, 4, 3, 3), "b": normal(6)})
    plain, own = planned(model, own_biases=False), planned(model)
    assert own.tensors["b"].role is Role.BIAS
    assert own.tensors["b"].own_scale
    assert own.tensors["b"].spec == S8
    assert own.tensors["b"].scale_of == ("x", "w")
    unchanged = with_own_bias_scales(plain, S8)
    assert all(unchanged.tensors[key] is plain.tensors[key] for key in ("x", "w", "y"))
    assert own.nodes == plain.nodes
