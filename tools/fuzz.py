"""Quantizes random graphs in every form and holds the results against their definitions.

    PYTHONPATH=. python tools/fuzz.py [--graphs 2000] [--seed 0] [--minutes 60]

Of each graph (models/fuzz.py) and form: a refusal (VqonnxError) is counted by its reason. A result must load in ONNX
Runtime. Each of its nodes must give what ONNX's reference evaluator gives for the same inputs, within two steps of an
8-bit output. Each output, with and without ONNX Runtime's optimizations, must be near the float model's: 9 dB. Where
the guard is off a graph may collapse; it is then quantized again with the guard, which must help or be warned of.
"""

import argparse
import collections
import math
import multiprocessing
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from models.build import Array
from models.fuzz import random_case
from models.registry import Feed
from vqonnx import quantize_dynamic, quantize_static, quantize_weight_only
from vqonnx.core.target import OpSupport
from vqonnx.errors import VqonnxError
from vqonnx.graph.io import load
from vqonnx.report.model import Report
from vqonnx.runtime.session import add_outputs, open_session
from vqonnx.targets.cpu import CPU_X86_VNNI

FORMS = ("QDQ", "QOperator", "dynamic", "weights")
SAMPLES = 7
"""Too few to hold one back, so that the guard looks at all."""
LEAST_DB = 9.0
_WARNED_DB = 10.0
"""Below which an output counts as collapsed; figures of fused nodes are a little different."""
STEPS = 2
_CHUNK = 50
"""Graphs that one process checks."""
_STEP = 1 / 127
"""Of the range of an output: the coarser of the two 8-bit types."""
_TINY = 2.0**-10
"""Share of the largest value below which differences are of no interest: float16's resolution."""
_LEAST = 1e-6
_NEAR_ZERO = 0.01
"""Mean energy of an output beside which that of the inputs' rounding errors counts."""
_OWN = re.compile(r"[0-9]+ x .*|'[^']*'|Node \([^)]*\)")
"""What a refusal tells of one model."""
_QUIET: Mapping[str, Any] = {"progress": lambda *_: None, "min_sqnr_db": _WARNED_DB}
_CRASHES = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_REFERENCE_OPSETS = range(13, 22)
_REFERENCE_FROM = 19
"""The evaluator's first opset with QuantizeLinear; nodes of opset 13 on mean the same there, but for ``_unknown``."""
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def _eager(ops: Mapping[str, OpSupport]) -> dict[str, OpSupport]:
    return {
        name: replace(support, heavy_from=1 if name in _PRODUCTS else support.heavy_from, on_request=False)
        for name, support in ops.items()
    }


EAGER = replace(
    CPU_X86_VNNI,
    name="eager",
    ops=_eager(CPU_X86_VNNI.ops),
    other_ops={form: _eager(ops) for form, ops in CPU_X86_VNNI.other_ops.items()},
)
"""The processor's operators, also where they are too small or too slow to be worth it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one graph in one form.

    Attributes:
        quantized: How many nodes became quantized.
        refusal: The error's text, if it was refused.
        faults: What is wrong with the result.
    """

    quantized: int = 0
    refusal: str = ""
    faults: tuple[str, ...] = ()


def check(seed: int, form: str, folder: Path) -> Outcome:
    """Quantize one graph in one form, with options that vary with the seed, and look at the result."""
    case = random_case(seed)
    model, feeds = case.build(), list(case.feeds(SAMPLES))
    path = folder / f"{seed}_{form}.onnx"
    before = model.SerializeToString(deterministic=True)
    quantize = _quantizer(seed, form)
    try:
        report = quantize(model, path, feeds, guard=seed % 2 == 0)
        faults = list(_faults(model, path, feeds, report))
        if form in ("QDQ", "QOperator") and any(" dB" in fault for fault in faults):
            report = quantize(model, path, feeds, guard=True, verify=True)
            faults = list(_faults(model, path, feeds, report))
    except VqonnxError as error:
        return Outcome(refusal=f"{type(error).__name__}: {error}")
    except _CRASHES as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(faults=(f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}: {error}",))
    if model.SerializeToString(deterministic=True) != before:
        faults.append("the caller's model was changed")
    return Outcome(sum(report.quantized.values()), faults=tuple(faults))


def _quantizer(seed: int, form: str) -> Callable[..., Report]:
    rng = np.random.default_rng(seed)

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    if form in ("dynamic", "weights"):
        options = _weight_options(chance) if form == "weights" else _dynamic_options(chance)
        plain = quantize_weight_only if form == "weights" else quantize_dynamic
        return lambda model, path, feeds, guard: plain(model, path, **options, **_QUIET)
    options = {
        "quant_format": form,
        "target": CPU_X86_VNNI if chance(0.2) else EAGER,
        "per_channel": chance(0.7),
        "bias_correction": "auto" if chance(0.1) else "off",
        "calibrate_method": None if chance(0.3) else "MinMax",
        "activation_type": "QInt8" if form == "QDQ" and chance(0.3) else "QUInt8",
        "extra_options": _extra_options(form, chance),
    }
    return lambda model, path, feeds, guard, verify=False: quantize_static(
        model, path, feeds, guard=guard, verify=verify, **options, **_QUIET
    )


def _extra_options(form: str, chance: Callable[[float], bool]) -> dict[str, Any]:
    """Often none, sometimes several."""
    chosen: dict[str, Any] = {"ForceQuantizeNoInputCheck": True} if chance(0.5) else {}
    if chance(0.5):
        return chosen
    everywhere = {
        "ActivationSymmetric": True,
        "CalibTensorRangeSymmetric": True,
        "EnableSubgraph": False,
        "MatMulConstBOnly": True,
        "MinimumRealRange": 0.01,
        "QuantizeBias": False,
    }
    pairs = {"AddQDQPairToWeight": True, "DedicatedQDQPair": True, "QDQKeepRemovableActivations": True}
    return chosen | {
        key: value for key, value in (everywhere | (pairs if form == "QDQ" else {})).items() if chance(0.2)
    }


def _weight_options(chance: Callable[[float], bool]) -> dict[str, Any]:
    """Eight bits, whose noise is that of the other forms."""
    blocks: dict[str, Any] = {"block_size": 16, "symmetric": chance(0.5), "accuracy_level": 0}
    blocks["format"] = "qdq" if chance(0.4) else "matmul_nbits"
    operators = ["MatMul", "Gemm", "Gather", "Conv"] if chance(0.5) else None
    form = {"format": "channel_qdq"} if chance(0.2) else blocks
    return {"bits": 8, "op_types_to_quantize": operators, **form}


def _dynamic_options(chance: Callable[[float], bool]) -> dict[str, Any]:
    operators = ["Conv", "MatMul", "Gemm", "Gather", "LSTM", "GRU", "RNN"]
    return {
        "op_types_to_quantize": operators if chance(0.5) else None,
        "per_channel": chance(0.7),
        "weight_type": "QInt8" if chance(0.7) else "QUInt8",
    }


# ---- what can be wrong ----


def _faults(model: onnx.ModelProto, path: Path, feeds: Sequence[Feed], report: Report) -> Iterator[str]:
    expected = _outputs(model, feeds, optimize=True)
    for how, optimize in (("as it is", False), ("optimized", True)):
        found = _outputs(path, feeds, optimize=optimize)
        for name, values in expected.items():
            if found[name].shape != values.shape:
                yield f"output {name!r} {how} has shape {found[name].shape}, not {values.shape}"
            elif (db := _sqnr(values, found[name])) < LEAST_DB and not any(repr(name) in w for w in report.warnings):
                yield f"output {name!r} {how} has {db:.1f} dB"
    yield from _off_definition(onnx.load(path), feeds[0])


def _outputs(model: onnx.ModelProto | Path, feeds: Sequence[Feed], *, optimize: bool) -> dict[str, Array]:
    """The float outputs of all samples, flat."""
    session = open_session(model if isinstance(model, Path) else load(model), threads=1, optimize=optimize)
    names = [output.name for output in session.get_outputs()]
    runs = [session.run(None, dict(feed)) for feed in feeds]
    joined = {name: np.concatenate([run[i].ravel() for run in runs]) for i, name in enumerate(names)}
    return {name: array for name, array in joined.items() if array.dtype.kind == "f"}


def _sqnr(expected: Array, found: Array) -> float:
    wide = expected.astype(np.float64)
    noise, signal = float(np.square(found.astype(np.float64) - wide).sum()), float(np.square(wide).sum())
    if noise <= _LEAST * (signal + _NEAR_ZERO * wide.size):
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal and np.isfinite(noise) else -np.inf


def _off_definition(model: onnx.ModelProto, feed: Feed) -> Iterator[str]:
    """The nodes of the main graph that give something else than the evaluator does for the same inputs."""
    version = next(entry for entry in model.opset_import if entry.domain == "")
    if version.version not in _REFERENCE_OPSETS or any(node.domain not in ("", "ai.onnx") for node in _nodes(model)):
        return
    given = {**{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}, **feed, **_inner(model, feed)}
    version.version = max(version.version, _REFERENCE_FROM)
    for node, proto in zip(ReferenceEvaluator(model).rt_nodes_, model.graph.node, strict=True):
        inputs = [given.get(name) for name in proto.input]
        if _unknown(proto) or not all(map(_usable, proto.input, inputs)) or _without_range(proto, inputs):
            continue
        with np.errstate(all="ignore"):  # a collapsed divisor; ONNX Runtime is as silent
            results = node.run(*inputs)
        for name, values in zip(proto.output, results, strict=False):
            if name in given and (steps := _steps(np.asarray(values), given[name], _resolution(inputs))) > STEPS:
                yield f"{proto.op_type} {proto.name!r} is {steps:.1f} steps off its definition"


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Those of functions and bodies too."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending += [inner for attribute in node.attribute for inner in attribute.g.node]


def _inner(model: onnx.ModelProto, feed: Feed) -> dict[str, Array]:
    """What every node of the main graph gives in ONNX Runtime, unfused."""
    names = [name for node in model.graph.node for name in node.output if name]
    session = open_session(add_outputs(load(model), names), threads=1, optimize=False)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(feed)), strict=True))


def _unknown(node: onnx.NodeProto) -> bool:
    """Whether a node needs the graph around it, is of an older opset, or is one that the evaluator gets wrong."""
    wrong = {"ReduceMean": "axes", "ConvTranspose": "group"}.get(node.op_type)
    return any(attribute.name == wrong or attribute.HasField("g") for attribute in node.attribute)


def _without_range(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> bool:
    """Whether a range is measured that is empty: ONNX then divides by zero, ONNX Runtime takes scale 1."""
    return node.op_type == "DynamicQuantizeLinear" and inputs[0] is not None and not inputs[0].any()


def _usable(name: str, value: Array | None) -> bool:
    """Whether an input is absent on purpose, or finite: what becomes of NaN and infinity is not defined."""
    return not name if value is None else value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _resolution(inputs: Sequence[Array | None]) -> float:
    """What sums of float16 numbers may be off by, however near to zero they end."""
    halves = [array for array in inputs if array is not None and array.dtype == np.float16 and array.size]
    return _TINY * max((float(np.abs(array).max()) for array in halves), default=0.0)


def _steps(expected: Array, found: Array, resolution: float) -> float:
    """The largest difference, in codes or in steps of an 8-bit tensor of this range."""
    if expected.shape != found.shape:
        return np.inf
    wide = expected.astype(np.float64)
    if not wide.size or not np.isfinite(wide).all():
        return 0.0
    worst = float(np.abs(found.astype(np.float64) - wide).max())
    if expected.dtype.kind != "f":
        return worst
    return worst / max(float(np.ptp(wide)) * _STEP, float(np.abs(wide).max()) * _TINY, resolution, _LEAST)


# ---- many of them ----


@dataclass(slots=True)
class Tally:
    """What became of all graphs, by form."""

    quantized: collections.Counter[str] = field(default_factory=collections.Counter)
    plain: collections.Counter[str] = field(default_factory=collections.Counter)
    refusals: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    graphs: int = 0

    def add(self, seed: int, form: str, outcome: Outcome) -> None:
        """Count one outcome."""
        self.faults += [f"seed {seed}, {form}: {fault}" for fault in outcome.faults]
        if outcome.refusal:
            # Names and numbers of one model apart, refusals are few.
            self.refusals[f"{form}: {re.sub(_OWN, '…', outcome.refusal)[:160]}"] += 1
        else:
            (self.quantized if outcome.quantized else self.plain)[form] += 1

    def merge(self, other: "Tally") -> None:
        """Count what another counted."""
        self.quantized += other.quantized
        self.plain += other.plain
        self.refusals += other.refusals
        self.faults += other.faults
        self.graphs += other.graphs


def run(
    first: int,
    count: int,
    tell: Callable[[str], object] = lambda _: None,
    *,
    forms: Callable[[int], Sequence[str]] = lambda _: FORMS,
) -> Tally:
    """Check ``count`` graphs from seed ``first`` on in the forms that ``forms`` names for each."""
    tally = Tally()
    for seed in range(first, first + count):
        tally.graphs += 1
        for form in forms(seed):
            known = len(tally.faults)
            with tempfile.TemporaryDirectory() as folder:
                tally.add(seed, form, check(seed, form, Path(folder)))
            for fault in tally.faults[known:]:
                tell(fault)
    return tally


def run_apart(first: int, count: int, tell: Callable[[str], object], *, seconds: float = math.inf) -> Tally:
    """``run`` in processes of their own, some graphs each, so that one that dies is a fault and not the end.

    None is started after ``seconds``.
    """
    tally, started = Tally(), time.monotonic()
    pending = [(seed, min(_CHUNK, first + count - seed)) for seed in range(first, first + count, _CHUNK)]
    while pending and time.monotonic() - started < seconds:
        seed, size = pending.pop(0)
        part = _apart(run, seed, size)
        if part is None and size == 1:
            part = _died(seed)
        elif part is None:
            part, pending = Tally(), [*((one, 1) for one in range(seed, seed + size)), *pending]
        for fault in part.faults:
            tell(fault)
        tally.merge(part)
    return tally


def _died(seed: int) -> Tally:
    """The tally of a graph that ended its process: ONNX Runtime's fault if the float model alone does so."""
    if _apart(_run_float, seed) is None:
        return Tally(refusals=collections.Counter({"ONNX Runtime dies of the float model": len(FORMS)}), graphs=1)
    return Tally(faults=[f"seed {seed}: the process died"], graphs=1)


def _run_float(seed: int) -> bool:
    case = random_case(seed)
    return bool(_outputs(case.build(), list(case.feeds(1)), optimize=True))


def _apart(function: Callable[..., Any], *arguments: int) -> Any:
    """What a function gives in a process of its own; None if that dies."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no more are begun")
    chosen = parser.parse_args(arguments)
    started = time.perf_counter()
    seconds = 60 * chosen.minutes
    tally = run_apart(chosen.seed, chosen.graphs, lambda fault: print(fault, flush=True), seconds=seconds)
    print(f"{tally.graphs} graphs in {time.perf_counter() - started:.0f} s")
    for form in FORMS:
        print(f"{form}: {tally.quantized[form]} quantized, {tally.plain[form]} with nothing to quantize")
    for reason, times in tally.refusals.most_common():
        print(f"refused {times} x {reason}")
    print(f"{len(tally.faults)} faults")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
