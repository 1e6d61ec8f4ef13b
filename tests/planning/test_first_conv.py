"""The first Conv of an image network has too few products to be worth integers by itself."""

import numpy as np
import onnx.parser
import pytest

import vqonnx


def network(second, pooled=False):
    """A Conv of 9 products an element, and behind its Relu a dense or a depthwise one."""
    rng = np.random.default_rng(0)
    groups, weight = {"dense": (1, (16, 16, 3, 3)), "depthwise": (16, (16, 1, 3, 3))}[second]
    pool = "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)" if pooled else "p = Identity (r)"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> g (float[N, 1, 16, 16] x) => (float[N, 8, A, B] y) {'
        f" [first] c = Conv (x, w) r = Relu (c) {pool} [second] d = Conv <group = {groups}> (p, v) e = Relu (d)"
        " [third] y = Conv (e, u) }"
    )
    shapes = {"w": (16, 1, 3, 3), "v": weight, "u": (8, 16, 3, 3)}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    )
    return model


@pytest.mark.parametrize("pooled", [False, True])
def test_it_is_quantized_where_a_dense_one_reads_it(pooled):
    nodes = vqonnx.plan(network("dense", pooled), target="cpu-x86-vnni").nodes
    assert {"first", "second", "third"} <= set(nodes)
    assert sum(node.op_type == "MaxPool" for node in nodes.values()) == pooled


def test_it_stays_float_where_a_depthwise_one_reads_it():
    plan = vqonnx.plan(network("depthwise"), target="cpu-x86-vnni")
    reasons = {skip.node: skip.reason for skip in plan.skips}
    assert "third" in plan.nodes
    assert reasons["first"] == "not worth a conversion to integers: an input comes from a float node"
    assert "second" in reasons


def test_what_depends_on_an_excluded_node_is_asked_again():
    plan = vqonnx.plan(network("dense", pooled=True), target="cpu-x86-vnni", nodes_to_exclude=["second"])
    assert set(plan.nodes) == {"third"}
