import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from vqonnx.kernels.patches import Window, patches, row_count


@pytest.mark.parametrize(
    ("space", "kernel", "strides", "dilations", "pads", "groups"),
    [
        ((7, 8), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
        ((9, 8), (3, 2), (2, 3), (2, 1), (0, 1, 2, 0), 2),
        ((6, 6), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 4),
        ((11,), (4,), (2,), (3,), (2, 1), 2),
        ((4, 5, 6), (2, 2, 3), (1, 2, 1), (1, 1, 2), (0, 0, 0, 1, 1, 1), 1),
    ],
)
def test_rows_times_the_weight_are_onnxs_convolution(rng, space, kernel, strides, dilations, pads, groups):
    x = rng.normal(size=(2, 4, *space)).astype(np.float32)
    weight = rng.normal(size=(8, 4 // groups, *kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=strides, dilations=dilations, pads=pads, group=groups, kernel_shape=kernel
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "w")],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "w": weight})
    half = len(space)
    window = Window(shape=kernel, strides=strides, dilations=dilations, begins=pads[:half], ends=pads[half:])
    rows = patches(x, window)
    assert rows.shape == (row_count(x.shape, window), 4, *kernel) == (expected.size // 8, 4, *kernel)
    grouped = rows.reshape(rows.shape[0], groups, -1).transpose(1, 0, 2)
    found = grouped @ weight.reshape(groups, 8 // groups, -1).transpose(0, 2, 1)
    found = found.reshape(groups, 2, -1, 8 // groups).transpose(1, 0, 3, 2).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    some = np.array([rows.shape[0] - 1, 0])
    np.testing.assert_array_equal(patches(x, window, some), rows[some])


def test_a_window_that_does_not_fit_has_no_rows():
    window = Window(shape=(5,), strides=(1,), dilations=(1,), begins=(0,), ends=(0,))
    assert row_count((2, 3, 4), window) == 0
