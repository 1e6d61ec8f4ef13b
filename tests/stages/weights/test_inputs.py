"""A walk finds the moments that runs of the whole model give, float or quantized so far; stopped, it goes on."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import chains
from models.build import Weights, build
from models.control import if_captures
from models.networks import transformer
from models.registry import load as load_cases
from models.sharing import tied_embedding
from tests.sampling import slow
from tests.stages.weights.walking import (
    Feed,
    Solver,
    expected_moments,
    layer_inputs,
    loaded,
    replaced,
    samples_of,
    walk,
)
from vqonnx.errors import OptionError, OutputError, SampleError, UnsupportedModelError
from vqonnx.graph.io import load, save
from vqonnx.graph.walk import nodes_by_name
from vqonnx.stages.weights.inputs import WalkOptions, walk_layer_inputs
from vqonnx.stages.weights.steps import LayerInput

CASES = {name: case for name, case in load_cases().items() if case.runnable}
WALKED = {name: case for name, case in CASES.items() if layer_inputs(loaded(case.build()))}
SAMPLES = 10


def matmul_chain() -> onnx.ModelProto:
    return chains.matmul_chain(6)


def normals(count: int, *shape: int) -> list[Feed]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def same_moments(solver: Solver, expected: Mapping[LayerInput, tuple[Any, int]], kind: str, half: bool = False) -> None:
    assert list(solver.moments)
    for one, moments in solver.moments.items():
        found, rows = getattr(moments, kind), moments.rows if kind == "calibration" else moments.held_back_rows
        wanted, count = expected[one]
        assert rows == count
        assert found.dtype == np.float64
        scale = np.abs(wanted).max(initial=0)
        # A value that crosses a cut is rounded to float16, which inside a kernel it need not be.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=(2e-3 if half else 3e-6) * scale + 1e-30)
        np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("budget", [slow(0), 1 << 30], ids=["alone", "together"])
@pytest.mark.parametrize("inferred", [True, slow(False)], ids=["typed", "untyped"])
@pytest.mark.parametrize("name", list(WALKED))
def test_moments_of_the_float_model(name: str, inferred: bool, budget: int, tmp_path: Path) -> None:
    model, feeds = loaded(WALKED[name].build(), inferred=inferred), list(WALKED[name].feeds(SAMPLES))
    solver = walk(model, feeds, tmp_path, inputs="float", memory_budget=budget)
    assert solver.asked == []  # the model stays as it is
    inputs, half = layer_inputs(model), name.startswith("precision/half")
    same_moments(solver, expected_moments(model, inputs, feeds[:7] + feeds[8:]), "calibration", half)
    same_moments(solver, expected_moments(model, inputs, feeds[7:8]), "held_back", half)


@pytest.mark.parametrize("inferred", [slow(True), False], ids=["typed", "untyped"])
@pytest.mark.parametrize("name", list(WALKED))
def test_moments_of_the_model_quantized_so_far(name: str, inferred: bool, tmp_path: Path) -> None:
    model, feeds = loaded(WALKED[name].build(), inferred=inferred), list(WALKED[name].feeds(SAMPLES))
    solver = walk(model, feeds, tmp_path)
    inputs, half = layer_inputs(model), name.startswith("precision/half")
    finished = replaced(model, solver.constants({node for one in inputs for node in one.nodes}))
    same_moments(solver, expected_moments(finished, inputs, feeds[:7] + feeds[8:]), "calibration", half)
    same_moments(solver, expected_moments(finished, inputs, feeds[7:8]), "held_back", half)


def test_the_quantized_inputs_are_others_than_the_float_ones(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(3, 2, 16)
    plain, quantized = (walk(model, feeds, tmp_path / mode, inputs=mode) for mode in ("float", "quantized"))
    last = layer_inputs(model)[-1]
    assert np.trace(quantized.moments[last].calibration) < 0.9 * np.trace(plain.moments[last].calibration)


def test_inputs_are_solved_once_each_in_graph_order(tmp_path: Path) -> None:
    model = loaded(transformer())
    feeds = list(CASES["networks/transformer"].feeds(2))
    for mode in ("float", "quantized"):
        solver = walk(model, feeds, tmp_path / mode, inputs=mode)
        assert [one.value for one in solver.moments] == ["h0", "c0_j", "n0", "g0", "h1", "c1_j", "n1", "g1"]


def test_the_order_in_which_inputs_are_given_does_not_matter(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(2, 2, 16)
    inputs = layer_inputs(model)
    for mode in ("float", "quantized"):
        (tmp_path / mode).mkdir()
        solver = Solver(model, inputs, tmp_path / mode)
        walk_layer_inputs(model, inputs[::-1], samples_of(feeds), solver, WalkOptions(inputs=mode))  # type: ignore[arg-type]
        assert list(solver.moments) == inputs


def test_nothing_in_the_model_changes(tmp_path: Path) -> None:
    model, feeds = loaded(transformer()), list(CASES["networks/transformer"].feeds(2))
    before = save(model, tmp_path / "before.onnx").path.read_bytes()
    walk(model, feeds, tmp_path / "work")
    assert save(model, tmp_path / "after.onnx").path.read_bytes() == before


@pytest.mark.parametrize("mode", ["float", "quantized"])
def test_the_bytes_do_not_depend_on_the_workers(mode: str, tmp_path: Path) -> None:
    model, feeds = loaded(transformer()), list(CASES["networks/transformer"].feeds(11))
    digests = [walk(model, feeds, tmp_path / str(n), inputs=mode, workers=n).digest() for n in (1, 2, 5)]
    assert digests[0] == digests[1] == digests[2]


def test_fewer_than_eight_samples_both_calibrate_and_are_held_back(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(7, 2, 16)
    read: list[int] = []

    class Counted(list[Feed]):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    solver = walk(model, Counted(feeds), tmp_path)
    expected = expected_moments(replaced(model, solver.constants(nodes_by_name(model))), layer_inputs(model), feeds)
    same_moments(solver, expected, "calibration")
    for moments in solver.moments.values():
        assert moments.held_back is moments.calibration
        assert moments.held_back_rows == moments.rows == 14
    # The first one for its shapes; then each as an input of the first layer, and for the piece behind that.
    assert sorted(read) == sorted([0, *range(7), *range(7)])


def test_held_back_samples_do_not_run_where_nobody_asks(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(8, 2, 16)
    feeds[7] = {"x": np.full((2, 16), np.nan, np.float32)}
    seen = []

    class Last:
        def finished(self, one: LayerInput) -> bool:
            return False

        def solve(self, one: LayerInput, moments: Any) -> None:
            seen.append(moments)

        def constants(self, nodes: Any) -> dict[tuple[str, int], Any]:
            return {}

    walk_layer_inputs(model, layer_inputs(model), samples_of(feeds), Last(), WalkOptions(held_back=False))
    assert [(moments.held_back, moments.held_back_rows, moments.rows) for moments in seen] == [(None, 0, 14)] * 6


def test_only_weights_that_are_settled_by_then_are_asked_for(tmp_path: Path) -> None:
    """A weight that two layers share is settled by the second one: the first runs in float, also when it is resumed."""
    model, feeds = loaded(tied_embedding("Gemm")), list(CASES["sharing/tied_gemm"].feeds(3))
    first, second = layer_inputs(model)
    inputs = [LayerInput(value=first.value, features=8), LayerInput(value="r", features=8, nodes=("Gemm_1", "Gemm_3"))]
    assert second.value == "r"
    for turn in range(2):
        solver = Solver(model, inputs, tmp_path)
        if turn:
            (tmp_path / "Gemm_3.npy").unlink()  # so that the input counts as not finished, while a weight is known
        walk_layer_inputs(model, inputs, samples_of(feeds), solver)
        assert not any("Gemm_1" in nodes for nodes in solver.asked)
        expected = expected_moments(model, inputs, feeds)
        same_moments(solver, expected, "calibration")


def test_weights_that_no_input_settles_are_asked_for_in_bodies_too(tmp_path: Path) -> None:
    """A MatMul in a branch and one before it were quantized without data; a later layer sees both."""
    weights = Weights(10)
    weights.normal("last_w", 8, 8)
    source = if_captures()
    onnx_model = onnx.compose.merge_models(
        source,
        build("tail (float[N, 8] t) => (float[N, 8] z) { z = MatMul (t, last_w) }", weights.arrays),
        io_map=[("y", "t")],
    )
    model = loaded(onnx_model)
    feeds = [{"x": feed["x"], "flag": np.array(True)} for feed in normals(2, 2, 8)]
    one = LayerInput(value="y", features=8, nodes=())
    nodes = {node.name for node in nodes_by_name(model).values() if node.op_type == "MatMul"}
    other = {(name or "", 1): np.eye(8, dtype=np.float32) for name in nodes}

    class Known(Solver):
        def finished(self, one: LayerInput) -> bool:
            return False

        def constants(self, nodes: Any) -> Any:
            return {key: array for key, array in other.items() if key[0] in nodes}

    solver = Known(model, [one], tmp_path)
    walk_layer_inputs(model, [one], samples_of(feeds), solver)
    relu = np.maximum(np.concatenate([feed["x"] for feed in feeds]), 0).astype(np.float64)
    np.testing.assert_allclose(solver.moments[one].calibration, relu.T @ relu, rtol=1e-5, atol=1e-6)


def sequences() -> onnx.ModelProto:
    """Two layers with a sequence of tensors and a string between them."""
    weights = Weights(4)
    weights.normal("a_w", 8, 8)
    weights.normal("b_w", 8, 4)
    weights.integers("zero", 0)
    weights.arrays["axis"] = np.array(1, np.int64)
    text = """sequences (float[N, 8] x) => (float[N, 4] y) {
        words = Cast <to = 8> (x)
        a = MatMul (x, a_w)
        parts = SplitToSequence <axis = 1, keepdims = 1> (a)
        joined = ConcatFromSequence <axis = 1> (parts)
        numbers = Cast <to = 1> (words)
        sum = Add (joined, numbers)
        b = MatMul (sum, b_w)
        size = SequenceLength (parts)
        real = Cast <to = 1> (size)
        c = Mul (b, real)
        d = MatMul (c, c_w)
        longer = SequenceInsert (parts, a)
        last = ConcatFromSequence <axis = 1> (longer)
        e = MatMul (last, d_w)
        y = Add (d, e)
    }"""
    weights.normal("c_w", 4, 4)
    weights.normal("d_w", 16, 4)
    return build(text, weights.arrays)


@pytest.mark.parametrize("mode", ["float", "quantized"])
def test_what_cannot_lie_in_a_file_is_made_again(mode: str, tmp_path: Path) -> None:
    model, feeds = loaded(sequences()), normals(9, 3, 8)
    solver = walk(model, feeds, tmp_path, inputs=mode, memory_budget=0)
    inputs = layer_inputs(model)
    assert [one.value for one in inputs] == ["x", "sum", "c", "last"]
    constants = solver.constants(nodes_by_name(model)) if mode == "quantized" else {}
    same_moments(solver, expected_moments(replaced(model, constants), inputs, feeds[:7] + feeds[8:]), "calibration")


def test_one_value_may_be_read_along_two_axes(tmp_path: Path) -> None:
    weights = Weights(6)
    weights.normal("c_w", 4, 4, 1)
    weights.normal("m_w", 5, 3)
    text = """axes (float[N, 4, 5] x) => (float[N, 4, 5] y, float[N, 4, 3] z) {
        y = Conv (x, c_w)
        z = MatMul (x, m_w)
    }"""
    model, feeds = loaded(build(text, weights.arrays)), normals(3, 2, 4, 5)
    solver = walk(model, feeds, tmp_path)
    assert [(one.axis, one.features, moments.rows) for one, moments in solver.moments.items()] == [
        (1, 4, 30),
        (-1, 5, 24),
    ]
    same_moments(solver, expected_moments(model, layer_inputs(model), feeds), "calibration")


def test_samples_may_differ_in_shape_and_have_no_rows(tmp_path: Path) -> None:
    model = loaded(matmul_chain())
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(rows, 16)).astype(np.float32)} for rows in (3, 0, 1, 2000, 7)]
    solver = walk(model, feeds, tmp_path, inputs="float", memory_budget=0)
    same_moments(solver, expected_moments(model, layer_inputs(model), feeds), "calibration")
    assert {moments.rows for moments in solver.moments.values()} == {2011}


def test_nothing_but_empty_samples(tmp_path: Path) -> None:
    solver = walk(loaded(matmul_chain()), normals(2, 0, 16), tmp_path)
    for moments in solver.moments.values():
        assert moments.rows == 0
        assert not moments.calibration.any()


@pytest.mark.parametrize("steps", ["each", "one"])
def test_not_a_number_is_placed(steps: str, tmp_path: Path) -> None:
    weights = Weights(5)
    weights.normal("a_w", 4, 4)
    weights.normal("b_w", 4, 4)
    text = "roots (float[N, 4] x) => (float[N, 4] y) { a = MatMul (x, a_w) s = Sqrt (a) y = MatMul (s, b_w) }"
    weights.arrays["a_w"] = np.eye(4, dtype=np.float32)
    model, feeds = loaded(build(text, weights.arrays)), [{"x": np.ones((3, 4), np.float32)} for _ in range(3)]
    feeds[1]["x"][1, 2] = -1
    options = {"inputs": "float", "memory_budget": 0 if steps == "each" else 1 << 30}
    with pytest.raises(SampleError, match=r"tensor 's' has 1 NaN or infinite elements in calibration sample 1") as info:
        walk(model, feeds, tmp_path / "a", **options)
    assert (info.value.sample, info.value.tensor) == (1, "s")
    solver = walk(model, feeds, tmp_path / "b", nonfinite="ignore", **options)
    assert [moments.rows for moments in solver.moments.values()] == [9, 8]


def test_a_sample_that_the_model_cannot_run_is_named(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(4, 2, 16)
    feeds[2] = {"x": np.zeros((2, 5), np.float32)}
    for mode in ("float", "quantized"):
        with pytest.raises(SampleError, match=r"cannot run calibration sample 2.*\(2, 5\)") as info:
            walk(model, feeds, tmp_path / mode, inputs=mode)
        assert info.value.sample == 2


def test_no_samples() -> None:
    model = loaded(matmul_chain())
    with pytest.raises(SampleError, match="no calibration sample"):
        walk_layer_inputs(model, layer_inputs(model), samples_of([]), Solver(model, [], Path()))


def test_an_input_that_cannot_be_walked_is_refused_before_anything_runs(tmp_path: Path) -> None:
    model = loaded(if_captures())
    inputs = [LayerInput(value="m", features=8)]
    with pytest.raises(OptionError, match="layer input 'm' cannot be measured: it is inside a control-flow body"):
        walk_layer_inputs(model, inputs, samples_of(normals(2, 2, 8)), Solver(model, [], tmp_path))


def test_a_layer_with_other_features_is_told(tmp_path: Path) -> None:
    model = loaded(matmul_chain())
    with pytest.raises(SampleError, match=r"'t0' has shape \(2, 16\) .* multiplies 15 features along axis -1"):
        walk_layer_inputs(
            model,
            [LayerInput(value="t0", features=15, nodes=("MatMul_2",))],
            samples_of(normals(2, 2, 16)),
            Solver(model, [], tmp_path),
        )


def test_a_part_without_kernels_is_told(tmp_path: Path) -> None:
    text = """brain (float[N, 4] x) => (float[N, 4] y) {
        b = Cast <to = 16> (x)
        w = CastLike (k, b)
        m = MatMul (b, w)
        h = Cast <to = 1> (m)
        y = MatMul (h, k)
    }"""
    weights = Weights(5)
    weights.normal("k", 4, 4)
    model = loaded(build(text, weights.arrays))
    inputs = [LayerInput(value="h", features=4, nodes=("MatMul_4",))]
    with pytest.raises(UnsupportedModelError, match=r"makes 'h' does not run.*MatMul"):
        walk_layer_inputs(model, inputs, samples_of(normals(2, 2, 4)), Solver(model, [], tmp_path))


def test_a_constant_that_does_not_fit_its_node_is_refused(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(2, 2, 16)

    class Wrong(Solver):
        def constants(self, nodes: Any) -> Any:
            return {("MatMul_0", 1): np.zeros((16, 15), np.float32)} if "MatMul_0" in nodes else {}

    inputs = layer_inputs(model)
    with pytest.raises(OptionError, match=r"input 1 of node 'MatMul_0' is FLOAT \(16, 15\)"):
        walk_layer_inputs(model, inputs, samples_of(feeds), Wrong(model, inputs, tmp_path))


def test_each_input_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    for mode in ("float", "quantized"):
        walk(
            loaded(matmul_chain()),
            normals(2, 2, 16),
            tmp_path / mode,
            inputs=mode,
            progress=lambda what, done, total: told.append((what, done, total)),
        )
    assert told == [("layer inputs", 6, 6), *(("layer inputs", done, 6) for done in range(1, 7))]


def test_a_work_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        walk(loaded(matmul_chain()), normals(2, 2, 16), tmp_path / "weights", work=tmp_path / "file")


class StopError(Exception):
    """What a test raises in the middle of a walk."""


RESUMED = {
    "networks/transformer": list(CASES["networks/transformer"].feeds(9)),
    "chains/matmul": normals(9, 2, 16),
    "shapes/zero_rows": list(CASES["shapes/zero_rows"].feeds(9)),
}


def interrupted(model: Any, feeds: list[Feed], folder: Path, stop: int, **options: Any) -> None:
    """A walk that ends when ``stop`` inputs are solved."""
    inputs = layer_inputs(model)
    solver = Solver(model, inputs, folder / "weights")

    def check(one: LayerInput) -> None:
        if len(solver.moments) == stop:
            raise StopError

    solver.before_solve = check
    with pytest.raises(StopError):
        walk_layer_inputs(model, inputs, samples_of(feeds), solver, WalkOptions(work=folder, **options))


@pytest.mark.parametrize("mode", ["float", "quantized"])
@pytest.mark.parametrize("save_every", [0.0, slow(1e9)], ids=["saved", "saved at the end"])
@pytest.mark.parametrize("case", list(RESUMED))
def test_an_interrupted_walk_goes_on_where_it_was(case: str, save_every: float, mode: str, tmp_path: Path) -> None:
    model, feeds = loaded(CASES[case].build()), RESUMED[case]
    options = {"inputs": mode, "save_every": save_every, "memory_budget": 1 << 17}
    whole = walk(model, feeds, tmp_path / "whole", **options).digest()
    for stop in range(len(layer_inputs(model))):
        folder = tmp_path / str(stop)
        (folder / "weights").mkdir(parents=True)
        interrupted(model, feeds, folder, stop, **options)
        solver = walk(model, feeds, folder / "weights", work=folder, **options)
        assert len(solver.moments) == len(layer_inputs(model)) - stop
        assert solver.digest() == whole
        assert [file.name for file in folder.iterdir()] == ["weights"]


def test_a_walk_goes_on_without_running_the_steps_that_are_done(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), RESUMED["chains/matmul"]
    (tmp_path / "weights").mkdir()
    interrupted(model, feeds, tmp_path, 3)
    solver = walk(model, feeds, tmp_path / "weights", work=tmp_path)
    assert list(solver.moments) == layer_inputs(model)[3:]
    assert solver.asked[0] == {"MatMul_4", "Tanh_5"}  # the piece that makes the fourth input


def test_activations_are_not_used_for_a_weight_that_is_lost(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), RESUMED["chains/matmul"]
    whole = walk(model, feeds, tmp_path / "whole").digest()
    (tmp_path / "weights").mkdir()
    interrupted(model, feeds, tmp_path, 4)
    (tmp_path / "weights" / "MatMul_2.npy").unlink()
    solver = walk(model, feeds, tmp_path / "weights", work=tmp_path)
    assert list(solver.moments) == [layer_inputs(model)[index] for index in (1, 4, 5)]
    assert solver.digest() == whole


def test_activations_that_were_not_kept_for_a_weight_that_is_lost_are_made_again(tmp_path: Path) -> None:
    """Nobody needed ``r`` any more when the last weight was settled."""
    weights = Weights(5)
    for name in ("a_w", "b_w", "c_w", "d_w", "e_w"):
        weights.normal(name, 16, 16)
    text = """skip (float[N, 16] x) => (float[N, 16] y) {
        a = MatMul (x, a_w) r = Relu (a)
        b = MatMul (r, b_w) s = Tanh (b)
        c = MatMul (s, c_w) t = Tanh (c)
        d = MatMul (t, d_w) u = Add (d, r)
        y = MatMul (u, e_w)
    }"""
    model, feeds = loaded(build(text, weights.arrays)), RESUMED["chains/matmul"]
    whole = walk(model, feeds, tmp_path / "whole").digest()
    (tmp_path / "weights").mkdir()
    last = tmp_path / "weights" / next(reversed(whole))
    last.write_bytes(whole[last.name])
    interrupted(model, feeds, tmp_path, 3)
    last.unlink()
    solver = walk(model, feeds, tmp_path / "weights", work=tmp_path)
    assert [one.value for one in solver.moments] == ["t", "u"]
    assert solver.digest() == whole


def test_other_samples_do_not_meet_stored_activations(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), RESUMED["chains/matmul"]
    (tmp_path / "weights").mkdir()
    interrupted(model, feeds, tmp_path, 4)
    other = walk(model, feeds[:5], tmp_path / "other", work=tmp_path)
    assert other.digest() == walk(model, feeds[:5], tmp_path / "whole").digest()


def test_nothing_runs_when_all_is_finished(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain()), normals(2, 2, 16)
    walk(model, feeds, tmp_path)
    again = walk(model, feeds, tmp_path, work=tmp_path / "work")
    assert (again.moments, again.asked) == ({}, [])
    assert not (tmp_path / "work").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize(("after", "where"), [(0, "run"), (2, "solver"), (3, "run"), (5, "run")])
def test_a_killed_walk_goes_on(after: int, where: str, tmp_path: Path) -> None:
    path, samples, work = tmp_path / "model.onnx", tmp_path / "samples.npz", tmp_path / "work"
    save(loaded(matmul_chain()), path)
    feeds = normals(20, 3, 16)
    np.savez(samples, **{f"{index:02}": feed["x"] for index, feed in enumerate(feeds)})
    (work / "weights").mkdir(parents=True)
    program = [sys.executable, "-m", "tests.stages.weights.walking", *map(str, (path, samples, work, after, where))]
    ended = subprocess.run(program, cwd=Path(__file__).parents[3], capture_output=True, check=False)
    assert ended.returncode == -9, ended.stderr.decode()
    model = load(path)
    solver = walk(model, feeds, work / "weights", work=work, save_every=0)
    assert list(solver.moments) == layer_inputs(model)[after:]
    assert solver.digest() == walk(model, feeds, tmp_path / "whole").digest()
