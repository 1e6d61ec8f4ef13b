"""Shared constants become one for each reader."""

import numpy as np
import pytest

from models.build import Weights, build
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, nodes
from vqonnx.transforms.duplicates import merge_duplicate_initializers
from vqonnx.transforms.sharing import copy_shared_biases, copy_shared_initializers
from vqonnx.transforms.weights import set_constant

TEXT = """
g (float[1, 3, 5, 5] x, bool q) => (float[1, 3, 5, 5] y, float[3] b) {
  c = Conv (x, w, b)
  d = Conv (c, w, b)
  e = Add (d, k)
  f = Mul (e, k)
  y = If (q) <then_branch = s () => (float[1, 3, 5, 5] i) { i = Conv (f, w, b) },
              else_branch = t () => (float[1, 3, 5, 5] j) { j = Add (f, k) }>
}
"""


def proto():
    weights = Weights(0)
    weights.normal("w", 3, 3, 1, 1)
    weights.bias("b", 3)
    weights.arrays["k"] = np.float32([[1.5]])
    return build(TEXT, weights.arrays)


def readers(model):
    """How many inputs read each constant."""
    return [len(value.uses()) + value.is_graph_output() for value in model.graph.initializers.values()]


def test_every_reader_gets_its_own(check):
    changed = check(proto(), copy_shared_initializers)
    assert changed.count == 7  # w: 2 of 3 readers, b: 3 of 3, since it is an output too, k: 2 of 3
    assert readers(changed.model) == [1] * 10
    assert merge_duplicate_initializers(changed.model) == 6  # the output stays alone


@pytest.mark.parametrize(
    ("operators", "count"), [(["Conv"], 5), (["Mul"], 1), (["Gemm"], 0), (["Add", "Mul"], 2), (["Conv", "Add"], 7)]
)
def test_of_listed_operators(check, operators, count):
    changed = check(proto(), lambda model: copy_shared_initializers(model, operators))
    assert changed.count == count
    assert len(changed.model.graph.initializers) == 3 + count


def test_biases_alone(check):
    changed = check(proto(), copy_shared_biases)
    assert changed.count == 3
    biases = [node.inputs[2] for node in nodes(changed.model) if node.op_type == "Conv"]
    assert len(set(biases)) == 3
    assert copy_shared_biases(load(proto()), ["Gemm"]) == 0


def test_copies_share_memory_until_one_is_written():
    model = load(proto())
    assert copy_shared_initializers(model, ["Conv"]) == 5
    first, second = [node for node in model.graph if node.op_type == "Conv"]
    before = constant(second.inputs[1]).copy()
    set_constant(first, 1, np.zeros_like(before), NameAllocator.of(model), "w")
    np.testing.assert_array_equal(constant(second.inputs[1]), before)


def test_constants_that_may_be_fed_stay():
    shared = proto()
    shared.graph.input.append(shared.graph.value_info.add())
    shared.graph.input[-1].CopyFrom(shared.graph.output[1])
    shared.graph.input[-1].name = "b"
    assert copy_shared_biases(load(shared)) == 0
