"""Real models through the whole flow. Samples are noise, so that figures say nothing of accuracy on real data."""

from functools import partial

import pytest

from models.zoo import ZOO, Unavailable, fetch, noise
from vqonnx import QuantFormat, compat, quantize_dynamic, quantize_static
from vqonnx.report.figures import Outcome

ORDINARY = ("mobilenet_v2", "efficientnet_lite0", "ppocr_v4_rec")
QUIET = {"progress": lambda *_: None}
ODD = [name for name in ZOO if name not in ORDINARY]
STATIC = {
    "QDQ": (ODD, {}),
    "QOperator": (["text_direction", "voice_activity"], {"quant_format": QuantFormat.QOperator}),
    "xint8": ([name for name in ODD if name != "detector"], {"preset": "xint8"}),
}
pytestmark = [pytest.mark.zoo, pytest.mark.slow]


def fetched(name):
    try:
        return fetch(name)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ORDINARY)
def test_a_real_model_becomes_small_and_integer(name, tmp_path):
    path = fetched(name)
    before = path.read_bytes()
    report = quantize_static(path, tmp_path / "int8.onnx", noise(name, 8))
    assert path.read_bytes() == before
    assert report.verified
    assert report.verification.sizes.ratio < 0.4
    assert report.verification.of_outcome(Outcome.INTEGER)
    assert not [kernel for kernel in report.verification.of_outcome(Outcome.FLOAT) if kernel.op_type == "Conv"]


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, (names, _) in STATIC.items() for name in names])
def test_an_odd_model_is_right_or_warned_of(name, form, tmp_path):
    path = fetched(name)
    report = quantize_static(path, tmp_path / "m.onnx", noise(name, 16), **STATIC[form][1], **QUIET)
    assert report.verified
    worst = report.verification.worst_db
    assert worst is None or worst >= 10 or any("SQNR" in warning for warning in report.warnings)
    if form != "xint8":
        assert worst is None or worst >= 10  # the guard left float what would have collapsed


def test_rules_of_a_device_do_not_erase_boxes(tmp_path):
    report = quantize_static(fetched("detector"), tmp_path / "m.onnx", noise("detector", 16), preset="xint8", **QUIET)
    assert report.verification.worst_db > 18
    assert len(report.planned) > 300
    assert 0 < len(report.guard) < 8


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("tool", ["dynamic", "compat"])
def test_other_ways_load_and_run(name, tool, tmp_path):
    path = fetched(name)
    ways = {
        "dynamic": partial(quantize_dynamic, path, tmp_path / "m.onnx", **QUIET),
        "compat": partial(compat.quantize_static, path, tmp_path / "m.onnx", iter(noise(name, 4))),
    }
    ways[tool]()  # what is written has been loaded and run
    assert (tmp_path / "m.onnx").stat().st_size < 1.1 * path.stat().st_size or name == "pitches"
