"""Emit works on a copy: what stays float is shared, what it writes down is the target."""

import numpy as np
import onnx_ir as ir

from models.matmuls import linear_bias
from tests.quantizers.flow import normals, quantizer, run
from vqonnx.graph.proto import to_proto
from vqonnx.stages.emit import TARGET_KEY, emit

FEEDS = normals(2, {"x": (2, 3, 8)})


def test_the_model_stays_as_it_is_and_the_copy_is_quantized() -> None:
    made = quantizer(linear_bias(), FEEDS)
    before = to_proto(made.model).SerializeToString()
    plan, solutions = made.current_plan(), made.solve()
    copy = emit(made.model, plan, solutions)
    assert to_proto(made.model).SerializeToString() == before
    assert TARGET_KEY not in made.model.metadata_props
    assert copy.metadata_props[TARGET_KEY] == plan.target
    again = emit(made.model, plan, solutions)
    assert to_proto(copy).SerializeToString() == to_proto(again).SerializeToString()


def test_weights_that_stay_float_are_shared_with_the_model() -> None:
    made = quantizer(linear_bias(), FEEDS, nodes_to_exclude=["MatMul_3"])
    array = made.float_array("b_w").copy()
    made.model.graph.initializers["b_w"].const_value = ir.Tensor(array, name="b_w")
    copy = emit(made.model, made.current_plan(), made.solve())
    kept = copy.graph.initializers["b_w"].const_value
    assert kept is not None
    assert np.shares_memory(kept.numpy(), array)
    assert "a_w" not in copy.graph.initializers
    assert np.isfinite(run(copy, FEEDS[0])["y"]).all()
