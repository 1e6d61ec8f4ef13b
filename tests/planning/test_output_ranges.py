"""Graph outputs keep their largest values, whatever the tensors inside give up."""

import numpy as np

from models.build import Weights, build
from tests.quantizers.flow import normals, plan_of
from vqonnx import quantize_static
from vqonnx.core.spec import RangeMethod
from vqonnx.graph.io import load
from vqonnx.planning.output_ranges import with_whole_outputs
from vqonnx.runtime.session import open_session


def classifier(tail: str):
    """Two dense layers; ``tail`` makes the output y of the logits z."""
    weights = Weights(2)
    weights.linear("a", 8, 16)
    weights.linear("b", 16, 8)
    weights.arrays["shape"] = np.array([-1, 2, 4])
    return build(
        f"g (float[N, 8] x) => (float[A, B, C] y) {{\nh = Gemm (x, a_w, a_b)\nr = Relu (h)\n"
        f"z = Gemm (r, b_w, b_b)\n{tail}\n}}",
        weights.arrays,
    )


def test_only_what_becomes_an_output_changes_its_method():
    model = classifier("s = Softmax (z)\ny = Reshape (s, shape)")
    plan = plan_of(model, "vitis", calibrate_method="Mean")
    whole = with_whole_outputs(load(model), plan)
    methods = {tensor.tensor: tensor.method for tensor in whole.activations()}
    assert methods == {"x": RangeMethod.MEAN, "r": RangeMethod.MEAN, "z": RangeMethod.MSE, "s": None, "y": None}
    for method in ("MSE", "Percentile"):
        plan = plan_of(model, "vitis", calibrate_method=method)
        assert with_whole_outputs(load(model), plan).tensors == plan.tensors


def test_answers_do_not_tie_at_the_end_of_the_range(tmp_path):
    """The mean of the samples' largest logits cuts those of every second sample to one code."""
    model, feeds = classifier("y = Reshape (z, shape)"), normals(64, {"x": (1, 8)})
    path = tmp_path / "m.onnx"
    quantize_static(model, path, feeds, target="vitis")
    exact, quantized = open_session(load(model)), open_session(path)
    largest = [tuple(s.run(None, feed)[0].max() for s in (exact, quantized)) for feed in feeds]
    assert max(found for _, found in largest) > 0.8 * max(true for true, _ in largest)
