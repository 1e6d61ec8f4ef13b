"""Values inside bodies come out as vectors of all that the body's runs gave, whatever the nesting."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from vqonnx.calibration.model import exposing
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.runtime.session import open_session

RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 3)).astype(np.float32)


def outputs(model: onnx.ModelProto, names: list[str], feed: dict[str, object]) -> list[np.ndarray]:
    typed = load(model)
    infer_missing(typed)
    exposed = exposing(typed, names)
    onnx.checker.check_model(to_proto(exposed), full_check=True)
    assert [value.name for value in exposed.graph.outputs] == names
    return open_session(exposed).run(None, feed)


def test_a_branch_gives_its_value_or_nothing() -> None:
    model = build("""g (float[2, 3] x, bool c) => (float[2, 3] y) {
        y = If (c) <then_branch = t () => (float[2, 3] a) { n = Neg (x) a = Exp (n) },
                    else_branch = e () => (float[2, 3] b) { b = Tanh (x) }>
    }""")
    names = ["n", "b", "y"]
    yes, no = (outputs(model, names, {"x": X, "c": np.array(flag)}) for flag in (True, False))
    np.testing.assert_array_equal(yes[0], -X.ravel())
    assert yes[1].shape == no[0].shape == (0,)
    np.testing.assert_allclose(no[1], np.tanh(X).ravel(), rtol=1e-5)
    np.testing.assert_allclose(no[2], np.tanh(X), rtol=1e-5)


LOOP = """g (float[2, 3] x, int64 n, bool yes) => (float[r, 3] y, float[2, 3] last, float[n, 3] first) {
    y, last, first = Loop (n, yes, x, x) <
        body = step (int64 i, bool c, float[r, 3] h, float[2, 3] l)
            => (bool d, float[s, 3] k, float[2, 3] m, float[3] f) {
            d = Identity (c)
            m = Neg (l)
            k = Concat <axis = 0> (h, m)
            zero = Constant <value = int64 {0}> ()
            f = Gather <axis = 0> (k, zero)
        }
    >
}"""


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_a_loop_gives_what_all_its_trips_gave_whatever_their_shapes(trips: int) -> None:
    """The outputs behind the new one keep their meaning, though they move on."""
    model = build(LOOP)
    feed = {"x": X, "n": np.array(trips), "yes": np.array(True)}
    names = ["h", "m", "first", "y", "last", "k"]
    found = dict(zip(names, outputs(model, names, feed), strict=True))
    hidden, states = [X], [X]
    for _ in range(trips):
        states.append(-states[-1])
        hidden.append(np.concatenate([hidden[-1], states[-1]]))
    joined = lambda arrays: np.concatenate([np.zeros(0, np.float32), *(one.ravel() for one in arrays)])  # noqa: E731
    np.testing.assert_array_equal(found["h"], joined(hidden[:-1]))
    np.testing.assert_array_equal(found["k"], joined(hidden[1:]))
    np.testing.assert_array_equal(found["m"], joined(states[1:]))
    for name, wanted in zip(["y", "last", "first"], open_session(load(model)).run(None, feed), strict=False):
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("axes", ["", "scan_output_axes = [1], scan_output_directions = [1], "])
def test_a_scan_gives_what_all_its_steps_gave(axes: str) -> None:
    model = build(f"""g (float[3] start, float[t, 3] x) => (float[3] y, float[a, b] sums) {{
        y, sums = Scan <{axes}num_scan_inputs = 1, body = step (float[3] h, float[3] part)
            => (float[3] k, float[3] o) {{ e = Neg (part) k = Add (h, e) o = Identity (k) }}> (start, x)
    }}""")
    feed = {"start": np.ones(3, np.float32), "x": X}
    e, sums, part = outputs(model, ["e", "sums", "part"], feed)
    np.testing.assert_array_equal(e, -X.ravel())
    np.testing.assert_array_equal(part, X.ravel())
    np.testing.assert_array_equal(sums, open_session(load(model)).run(["sums"], feed)[0])


def test_bodies_in_bodies_and_half_precision() -> None:
    """A branch of an If in a Loop, taken in every second trip only, and a Scan inside it."""
    model = build("""g (float16[2, 3] x, int64 n) => (float16[2, 3] y) {
        y = Loop (n, , x) <body = step (int64 i, bool c, float16[2, 3] h) => (bool c_out, float16[2, 3] k) {
            c_out = Identity (c)
            two = Constant <value = int64 {2}> ()
            rest = Mod (i, two)
            odd = Cast <to = 9> (rest)
            k = If (odd) <
                then_branch = t () => (float16[2, 3] a) {
                    zero = Constant <value = float16[3] {0, 0, 0}> ()
                    last, a = Scan <num_scan_inputs = 1, body = add (float16[3] s, float16[3] p)
                        => (float16[3] q, float16[3] r) { q = Add (s, p) r = Neg (q) }> (zero, h)
                },
                else_branch = e () => (float16[2, 3] b) { b = Add (h, x) }>
        }>
    }""")
    x = X.astype(np.float16)
    q, b, y = outputs(model, ["q", "b", "y"], {"x": x, "n": np.array(4)})
    hidden, sums, added = x, [], []
    for trip in range(4):
        if trip % 2:
            sums.append(np.cumsum(hidden, axis=0, dtype=np.float16))
            hidden = -sums[-1]
        else:
            hidden = hidden + x
            added.append(hidden)
    np.testing.assert_allclose(q, np.concatenate(sums).ravel(), rtol=1e-2)
    np.testing.assert_allclose(b, np.concatenate(added).ravel(), rtol=1e-2)
    np.testing.assert_allclose(y, hidden, rtol=1e-2)
    assert q.dtype == np.float16


def test_the_model_itself_is_not_touched() -> None:
    model = load(build(LOOP))
    before = ir.to_proto(model).SerializeToString()
    exposing(model, ["h", "m"])
    assert ir.to_proto(model).SerializeToString() == before
