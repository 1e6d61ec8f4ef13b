"""Verify, on small quantize-dequantize models written out here: figures, kernels, refusals, fairness."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from vqonnx.core.plan import NodePlan, Plan
from vqonnx.core.target import Kernel
from vqonnx.errors import DependencyError, VerificationError
from vqonnx.report.figures import Level, Outcome
from vqonnx.stages import latency
from vqonnx.stages.verify import VerifyOptions, model_bytes, verify

FLOAT = """
g (float[N, 8] x) => (float[N, 4] y, int64[N] best) {
  h = MatMul (x, w)
  r = Relu (h)
  e = MatMul (r, v)
  y = Tanh (e)
  best = ArgMax <axis = 1, keepdims = 0> (y)
}"""
# The first MatMul is quantized on both sides; the second gives float to Tanh, as a fused float output.
QUANTIZED = """
g (float[N, 8] x) => (float[N, 4] y, int64[N] best) {
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  wd = DequantizeLinear (wq, ws, wz)
  h = MatMul (xd, wd)
  hq = QuantizeLinear (h, rs, rz)
  hd = DequantizeLinear (hq, rs, rz)
  vd = DequantizeLinear (vq, ws, wz)
  e = MatMul (hd, vd)
  y = Tanh (e)
  best = ArgMax <axis = 1, keepdims = 0> (y)
}"""
NAMES = {"h": "first", "r": "clip", "e": "second"}


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = NAMES.get(node.output[0], node.output[0])
    return model


def float_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in (("w", (8, 8)), ("v", (8, 4)))}
    return named(build(FLOAT, weights))


def quantized_model(text: str = QUANTIZED, *, opset: int = 17, **more: np.ndarray) -> onnx.ModelProto:
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in float_model().graph.initializer}
    weights = {
        **{f"{name}q": np.rint(array * 127).astype(np.int8) for name, array in arrays.items()},
        **{name: np.float32(value) for name, value in (("s", 1 / 32), ("ws", 1 / 127), ("rs", 1 / 32))},
        "z": np.uint8(128),
        "rz": np.uint8(0),
        "wz": np.int8(0),
    }
    return named(build(text, weights | more, opset=opset))


def plan_of(*kernels: tuple[str, str, Kernel]) -> Plan:
    nodes = {
        name: NodePlan(node=name, op_type=op_type, kernel=kernel, inputs=(), outputs=())
        for name, op_type, kernel in kernels
    }
    return Plan(target="cpu-x86-vnni", nodes=nodes)


PLAN = plan_of(
    ("first", "MatMul", Kernel.COMPUTE), ("clip", "Relu", Kernel.CLIPS), ("second", "MatMul", Kernel.COMPUTE)
)
QUICK = VerifyOptions(latency_seconds=0.01)


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.uniform(-2, 2, (size + 1, 8)).astype(np.float32)} for size in range(count)]


@pytest.fixture
def paths(tmp_path):
    onnx.save(float_model(), tmp_path / "float.onnx")
    onnx.save(quantized_model(), tmp_path / "quantized.onnx")
    return tmp_path / "float.onnx", tmp_path / "quantized.onnx"


def saved(model: onnx.ModelProto, tmp_path):
    onnx.save(model, tmp_path / "other.onnx")
    return tmp_path / "other.onnx"


def test_a_good_result_is_compared_and_timed(paths):
    result = verify(*paths, samples(), PLAN, options=QUICK)
    y, best = result.outputs
    assert (result.level, result.samples, result.notes) == (Level.COMPARED, 3, ())
    assert (y.name, y.elements, y.equal) == ("y", 24, None)
    assert 20 < y.sqnr_db < 60
    assert 0.99 < y.cosine <= 1
    assert 0 < y.max_abs_error < 0.2
    assert (best.name, best.elements, best.sqnr_db) == ("best", 6, None)
    assert best.equal >= 5 / 6
    assert result.latency.runs >= 1
    assert result.latency.float_seconds > 0
    assert result.sizes.float_bytes == paths[0].stat().st_size


def test_figures_are_those_of_the_formula(paths):
    import onnxruntime as ort

    signal = noise = 0.0
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths]
    for feed in samples():
        expected, given = (session.run(["y"], feed)[0].astype(np.float64) for session in sessions)
        signal, noise = signal + (expected**2).sum(), noise + ((expected - given) ** 2).sum()
    (y, _) = verify(*paths, samples(), PLAN, options=QUICK).outputs
    assert y.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)


def test_samples_may_be_read_once_only_and_progress_is_told(paths):
    told = []
    result = verify(*paths, iter(samples()), PLAN, options=QUICK, progress=lambda *step: told.append(step))
    assert result.samples == 3
    assert told == [("verify", 1, None), ("verify", 2, None), ("verify", 3, None)]


def test_a_float_model_in_memory_gives_the_same_figures(paths):
    in_memory = verify(ir.load(paths[0]), paths[1], samples(), PLAN, options=QUICK)
    assert in_memory.outputs == verify(*paths, samples(), PLAN, options=QUICK).outputs


def test_kernels_are_those_of_the_optimized_graph(paths):
    kernels = {kernel.node: kernel for kernel in verify(*paths, [], PLAN).kernels}
    assert (kernels["first"].outcome, kernels["first"].kernel) == (Outcome.INTEGER, "QLinearMatMul")
    assert (kernels["second"].outcome, kernels["second"].kernel) == (Outcome.INTEGER, "MatMulIntegerToFloat")
    assert kernels["clip"].outcome is Outcome.MERGED


@pytest.mark.parametrize(
    ("old", "new", "planned", "reason"),
    [
        ("Tanh (e)", "Tanh (e)", ("y", "Tanh", Kernel.COMPUTE), "no integer kernel for Tanh"),
        (
            "y = Tanh (e)",
            "c = Relu (e) y = Tanh (c)",
            ("second", "MatMul", Kernel.COMPUTE),
            "goes through Relu to float",
        ),
        ("y = Tanh (e)", "c = Relu (e) y = Tanh (c)", ("c", "Relu", Kernel.CLIPS), "no quantized range after it clips"),
        (
            "e = MatMul (hd, vd)",
            "d = Add (hd, hd) t = Tanh (d) e = MatMul (t, vd)",
            ("d", "Add", Kernel.COMPUTE),
            "is read as float by Tanh",
        ),
        (
            "h = MatMul (xd, wd)",
            "n = Neg (xd) k = Transpose (n) j = MatMul (k, n) h = MatMul (n, j)",
            ("first", "MatMul", Kernel.COMPUTE),
            "none of its inputs",
        ),
        (
            "e = MatMul (hd, vd)\n  y = Tanh (e)",
            "e = Gemm (hd, vd) c = Relu (e) y = Tanh (c)",
            ("second", "Gemm", Kernel.COMPUTE),
            "first fused it with the activation",
        ),
    ],
)
def test_what_stays_float_says_why(paths, tmp_path, old, new, planned, reason):
    model = quantized_model(QUANTIZED.replace(old, new).replace("float[N, 8] x", "float[4, 8] x"))
    (found,) = verify(paths[0], saved(model, tmp_path), [], plan_of(planned)).kernels
    assert found.outcome is Outcome.FLOAT
    assert reason in found.reason


def test_16_bit_activations_stay_float(paths, tmp_path):
    text = QUANTIZED.replace("x, s, z", "x, s, z16").replace("xq, s, z", "xq, s, z16")
    model = quantized_model(text, opset=21, z16=np.array(32768, np.uint16))
    (found,) = verify(paths[0], saved(model, tmp_path), [], plan_of(("first", "MatMul", Kernel.COMPUTE))).kernels
    assert found.reason == "16-bit types have no CPU kernel (uint16 x int8)"


def test_a_bias_alone_is_added_in_float(paths, tmp_path):
    text = QUANTIZED.replace("y = Tanh (e)", "t = Tanh (e) bd = DequantizeLinear (bq, ws, bz) y = Add (t, bd)")
    model = quantized_model(text, bq=np.ones(4, np.int32), bz=np.array(0, np.int32))
    plan = plan_of(("y", "Add", Kernel.COMPUTE))
    (found,) = verify(paths[0], saved(model, tmp_path), [], plan).kernels
    assert found.outcome is Outcome.MERGED


def test_without_samples_the_result_is_only_loaded(paths):
    result = verify(*paths, [], PLAN)
    assert (result.level, result.outputs, result.latency) == (Level.LOADED, (), None)


def test_levels_below_do_less(paths):
    checked = verify(*paths, samples(), PLAN, options=VerifyOptions(level=Level.CHECKED))
    assert (checked.level, checked.kernels, checked.sizes.ratio < 10) == (Level.CHECKED, None, True)
    nothing = verify(*paths, samples(), PLAN, options=VerifyOptions(level=Level.NONE))
    assert (nothing.level, nothing.outputs) == (Level.NONE, ())


def test_a_model_that_onnx_refuses_is_an_error(paths, tmp_path):
    bad = quantized_model()
    bad.graph.node[1].input[0] = "nowhere"
    with pytest.raises(VerificationError, match=r"not valid ONNX: .*nowhere.*Nothing was saved") as caught:
        verify(paths[0], saved(bad, tmp_path), samples(), PLAN)
    assert caught.value.path == str(tmp_path / "other.onnx")


def test_a_fault_that_the_float_model_has_too_is_only_noted(paths, tmp_path):
    faulty = []
    for path in paths:
        model = onnx.load(path)
        model.graph.node[-1].attribute.append(onnx.helper.make_attribute("odd", 1))
        onnx.save(model, path)
        faulty.append(path)
    # ONNX Runtime refuses the attribute as well, so only the checker's level shows the note.
    result = verify(*faulty, samples(), PLAN, options=VerifyOptions(level=Level.CHECKED))
    assert "refuses the result and the float model alike" in result.notes[0]


def test_a_model_that_does_not_load_is_an_error_with_the_reason_of_onnxruntime(paths, tmp_path):
    model = quantized_model()
    model.graph.node[8].op_type, model.graph.node[8].domain = "Unheard", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(VerificationError, match=r"(?s)was not saved: .*Unheard.*nodes_to_exclude.*verify='checker'"):
        verify(paths[0], saved(model, tmp_path), samples(), PLAN)


def test_a_lost_output_is_an_error(paths, tmp_path):
    model = quantized_model()
    del model.graph.output[1]
    with pytest.raises(VerificationError, match=r"no output 'best'; it has \['y'\]"):
        verify(paths[0], saved(model, tmp_path), samples(), PLAN)


def test_another_shape_is_an_error(paths, tmp_path):
    model = quantized_model(QUANTIZED.replace("keepdims = 0", "keepdims = 1").replace("int64[N]", "int64[N, 1]"))
    with pytest.raises(VerificationError, match=r"'best'.* another shape .*: \(1, 1\) instead of \(1,\)"):
        verify(paths[0], saved(model, tmp_path), samples(), PLAN)


def test_a_result_of_nan_is_flagged(paths, tmp_path):
    text = QUANTIZED.replace("y = Tanh (e)", "t = Tanh (e) u = Sub (t, t) y = Div (u, u)")
    y = verify(paths[0], saved(quantized_model(text), tmp_path), samples(), PLAN, options=QUICK).outputs[0]
    assert (y.sqnr_db, y.broken) == (-math.inf, 24)


def test_an_absent_provider_is_named(paths):
    with pytest.raises(DependencyError, match="'NoSuchExecutionProvider' is not in this onnxruntime"):
        verify(*paths, samples(), PLAN, options=VerifyOptions(providers=("NoSuchExecutionProvider",)))


def test_sizes_count_external_data(tmp_path):
    model = float_model()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert model_bytes(tmp_path / "m.onnx") == (tmp_path / "m.onnx").stat().st_size + 4 * (64 + 32)
    assert model_bytes(ir.load(tmp_path / "m.onnx")) == 4 * (64 + 32)


def test_no_file_is_left_behind(paths, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(path.name for path in tmp_path.iterdir())
    verify(*paths, samples(), PLAN, options=QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


class Recorder:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def run(self, names, feed):
        self.log.append((self.name, feed["x"]))


def test_timing_alternates_models_and_samples():
    log = []
    feeds = [{"x": 0}, {"x": 1}]
    measured = latency.measure(Recorder("f", log), Recorder("q", log), feeds, threads=1, seconds=0.01)
    assert log[:6] == [("f", 0), ("q", 0), ("f", 0), ("q", 0), ("q", 1), ("f", 1)]
    assert len(log) == 2 + 2 * measured.runs
    assert measured.runs <= 200


def test_a_slow_model_is_timed_once():
    log = []
    measured = latency.measure(Recorder("f", log), Recorder("q", log), [{"x": 0}], threads=1, seconds=0.0)
    assert (measured.runs, len(log)) == (1, 4)
