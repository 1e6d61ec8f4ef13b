import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vqonnx.calibration.model import exposing
from vqonnx.errors import VerificationError
from vqonnx.runtime import blocked
from vqonnx.runtime.session import open_session

TENSORS = ["a", "b", "c", "d", "e", "p", "y"]


def cnn(channels, outputs=TENSORS):
    """Convolutions of ``channels`` and what ONNX Runtime runs between them; Exp reads NCHW."""
    c = channels
    proto = onnx.parser.parse_model(f"""
<ir_version: 9, opset_import: ["": 17]>
g (float[1, 3, 9, 9] x, float[{c}, 3, 3, 3] w, float[{c}, {c}, 1, 1] v) => (float[1, {c}, 9, 9] y)
{{
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  b = Relu (a)
  c = Conv (b, v)
  d = Add (c, b)
  e = Relu (d)
  p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (e)
  y = Exp (p)
}}
""")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (c, 3, 3, 3)), ("v", (c, c, 1, 1))):
        weight = rng.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    del proto.graph.input[1:]
    return exposing(ir.from_proto(proto), outputs)


FEED = {"x": np.random.default_rng(1).normal(size=(1, 3, 9, 9)).astype(np.float32)}


def fetched(session, names):
    return dict(zip(names, session.run(names, FEED), strict=True))


@pytest.mark.parametrize("channels", [8, 16, 24, 36, 48])
def test_blocked_outputs_hold_the_same_elements(channels):
    model = cnn(channels)
    expected = fetched(open_session(model, threads=1), TENSORS)
    outputs = blocked.open_blocked(model, TENSORS, threads=1)
    if outputs is None:
        assert channels % 16
        return
    found = outputs.run(FEED)
    assert found.keys() == set(TENSORS)
    for name, array in found.items():
        np.testing.assert_array_equal(np.sort(array, axis=None), np.sort(expected[name], axis=None))


def test_only_outputs_that_may_come_in_any_order_are_blocked():
    model = cnn(32)
    outputs = blocked.open_blocked(model, ["a", "c"], threads=1)
    assert outputs is not None
    assert {name for name, holder in outputs.holders.items() if holder != name} == {"a", "c"}
    expected = fetched(open_session(model, threads=1), TENSORS)
    for name, array in fetched(outputs.session, ["b", "e", "y"]).items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_gains_nothing_is_told(monkeypatch):
    assert blocked.open_blocked(cnn(32, ["y"]), [], threads=1) is None
    relu = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }'
    )
    assert blocked.open_blocked(ir.from_proto(relu), ["y"]) is None
    monkeypatch.setattr(blocked, "_MOST_BYTES", 1000)
    assert blocked.open_blocked(cnn(32), TENSORS) is None


def test_the_model_is_not_changed():
    model = cnn(16)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    blocked.open_blocked(model, TENSORS)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_blocks_of_an_unknown_size_are_refused(monkeypatch):
    monkeypatch.setattr(blocked, "_LARGEST_BLOCK", 4)  # as if blocks were larger than what is relied on
    outputs = blocked.open_blocked(cnn(20), TENSORS, threads=1)
    if outputs is None:
        pytest.skip("ONNX Runtime runs 20 channels unblocked")
    with pytest.raises(VerificationError, match=r"stores 20 channels of .* which vqonnx does not know"):
        outputs.run(FEED)
