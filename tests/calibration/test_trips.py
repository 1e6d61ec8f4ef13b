"""Values of Loop bodies, whether their trips give one size or not."""

import numpy as np
import onnx_ir as ir
import pytest

from models.build import build
from tests.graph.test_lift import LOOP, X
from vqonnx.calibration.model import exposing
from vqonnx.calibration.trips import opened
from vqonnx.errors import VerificationError
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.runtime.blocked import Outputs, outputs_of
from vqonnx.runtime.session import open_session

NESTED = """g (float[2, 3] x, int64 n, bool yes) => (float[2, 3] y) {
    y = Loop (n, yes, x) <body = outer (int64 i, bool c, float[2, 3] h) => (bool d, float[2, 3] k) {
        d = Identity (c)
        k = Loop (i, c, h) <body = inner (int64 j, bool e, float[2, 3] l) => (bool f, float[2, 3] m) {
            f = Identity (e)
            m = Neg (l)
        }>
    }>
}"""


class Sessions:
    """Opens sessions and remembers over what."""

    def __init__(self) -> None:
        self.models: list[ir.Model] = []

    def __call__(self, model: ir.Model) -> Outputs:
        self.models.append(model)
        return outputs_of(open_session(model))


def feed(trips: int) -> dict[str, np.ndarray]:
    return {"x": X, "n": np.array(trips), "yes": np.array(True)}


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize(
    ("text", "names", "sessions"),
    [(LOOP, ["m", "last"], 1), (LOOP, ["m", "h", "k"], 2), (NESTED, ["k", "m", "l"], 1)],
    ids=["one size", "growing", "nested"],
)
def test_trips_give_what_sequences_of_them_give(text: str, names: list[str], sessions: int, sizes: bool) -> None:
    """Sequences are made only where trips differ, and only then a second session."""
    model = load(build(text))
    infer_missing(model)
    opening = Sessions()
    outputs = opened(model, names, opening, sizes=sizes)
    plain = outputs_of(open_session(exposing(model, names, sizes=sizes)))
    for trips in (0, 1, 4, 2):
        found, expected = outputs.run(feed(trips)), plain.run(feed(trips))
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    assert len(opening.models) == sessions
    if text == LOOP:
        assert "SequenceInsert" not in {node.op_type for node in opening.models[0].graph.all_nodes()}


def test_a_feed_that_cannot_run_is_refused_all_the_same() -> None:
    model = load(build(LOOP))
    infer_missing(model)
    outputs = opened(model, ["m"], Sessions())
    with pytest.raises(VerificationError):
        outputs.run(feed(1) | {"x": X[:, :2]})
    np.testing.assert_array_equal(next(iter(outputs.run(feed(1)).values())), -X.ravel())
