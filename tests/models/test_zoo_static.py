"""Real models through the whole flow. Samples are noise, so that figures say nothing of accuracy on images."""

import numpy as np
import pytest

from models.zoo import ZOO, Unavailable, fetch
from vqonnx import quantize_static
from vqonnx.report.figures import Outcome

INPUTS = {
    "mobilenet_v2": ("input", (1, 3, 224, 224)),
    "efficientnet_lite0": ("input", (1, 3, 224, 224)),
    "ppocr_v4_rec": ("x", (1, 3, 48, 96)),
}


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_real_model_becomes_small_and_integer(name, tmp_path):
    try:
        path = fetch(name)
    except Unavailable as reason:
        pytest.skip(str(reason))
    before = path.read_bytes()
    key, shape = INPUTS[name]
    rng = np.random.default_rng(0)
    report = quantize_static(
        path, tmp_path / "int8.onnx", ({key: rng.normal(size=shape).astype(np.float32)} for _ in range(8))
    )
    assert path.read_bytes() == before
    assert report.verified
    assert report.verification.sizes.ratio < 0.4
    assert report.verification.of_outcome(Outcome.INTEGER)
    assert not [kernel for kernel in report.verification.of_outcome(Outcome.FLOAT) if kernel.op_type == "Conv"]
