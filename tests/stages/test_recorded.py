"""A model that ran once stands for its session."""

from pathlib import Path

import numpy as np
import pytest

from models.build import build
from models.matmuls import linear_bias
from tests.quantizers.flow import EAGER, normals
from vqonnx import quantize_static
from vqonnx.errors import VerificationError
from vqonnx.graph.io import load
from vqonnx.runtime.session import open_session
from vqonnx.stages import recorded
from vqonnx.stages.recorded import RecordedModel

CPU = ("CPUExecutionProvider",)
FEEDS = normals(16, {"x": (2, 3, 8)})


def test_it_gives_what_the_session_gives_for_samples_in_any_order() -> None:
    model = load(linear_bias())
    found = RecordedModel.of_large(model, FEEDS, providers=CPU, large=1)
    assert found is not None
    session = open_session(model)
    for feed in FEEDS[::-3]:
        np.testing.assert_array_equal(found.run(["y"], feed)[0], session.run(["y"], feed)[0])
    assert [(p.name, p.type, list(p.shape)) for p in found.get_inputs()] == [
        (one.name, one.type, one.shape) for one in session.get_inputs()
    ]
    assert found.seconds > 0
    place = found.folder
    del found
    assert not place.exists()


def test_small_models_and_outputs_that_cannot_be_kept_are_not_recorded() -> None:
    assert RecordedModel.of_large(load(linear_bias()), FEEDS, providers=CPU) is None
    said = build("g (string[N] x, float[1] f) => (string[N] y, float[1] g) { y = Identity (x) g = Add (f, f) }")
    assert RecordedModel.of_large(load(said), [], providers=CPU, large=0) is None


def test_a_sample_that_the_model_cannot_run_is_named() -> None:
    with pytest.raises(VerificationError, match="held-back sample 1"):
        RecordedModel.of_large(load(linear_bias()), [FEEDS[0], {"x": FEEDS[0]["x"][..., :4]}], providers=CPU, large=1)


def test_a_large_model_is_quantized_to_the_same_bytes_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantized(name: str) -> object:
        report = quantize_static(linear_bias(), tmp_path / name, FEEDS, target=EAGER, progress=lambda *_: None)
        assert report.verification.latency is not None
        return report.verification.outputs

    whole = quantized("whole")
    monkeypatch.setattr(recorded.RecordedModel.of_large.__func__, "__kwdefaults__", {"large": 1})
    assert quantized("recorded") == whole
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "recorded").read_bytes()
