"""Which operators become integer, and in which form, where onnxruntime.quantization has rules of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import vqonnx.compat as compat
from tests.compat.test_quantize import nodes
from tests.emitters.dynamic_models import embedding
from vqonnx.runtime.session import open_session

IDS = {"i": np.array([[1, 4, 2]], np.int32), "k": np.array([[0, 1, 1]], np.int32)}


@pytest.mark.parametrize(("outputs", "expected"), [("y", "QEmbed"), ("y, m", "QEmbed"), ("y, m, e", "Embed")])
def test_an_embedding_is_integer_unless_it_gives_the_sum_of_its_rows(
    tmp_path: Path, outputs: str, expected: str
) -> None:
    """The integer operator has two outputs, always."""
    form: dict[str, Any] = {"quant_format": compat.QuantFormat.QOperator}
    made = embedding(outputs=outputs)
    onnx.save(made, tmp_path / "f.onnx")
    compat.quantize_static(made, tmp_path / "q.onnx", [IDS], **form)
    assert nodes(onnx.load(tmp_path / "q.onnx")) == {f"{expected}LayerNormalization": 1}
    for real, given in zip(
        *(open_session(tmp_path / name).run(None, IDS) for name in ("f.onnx", "q.onnx")), strict=True
    ):
        np.testing.assert_allclose(given, real, atol=0.05)
