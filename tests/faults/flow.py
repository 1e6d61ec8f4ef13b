"""One call a fault: a small model through a quantizer, and how far the written file is from the float one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models.registry import Case
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, Feed, sqnr
from vqonnx import Report, quantize_dynamic, quantize_static, quantize_weight_only
from vqonnx.graph.io import load
from vqonnx.runtime.session import open_session

CASES: Mapping[str, Case] = load_cases()
FORMS = ("QDQ", "QOperator")
_QUIET: Mapping[str, Any] = {"progress": lambda *_: None}


def static(model: Any, path: Path, feeds: Any, **arguments: Any) -> Report:
    """Quantize what is small too, without a guard or a correction that could mend a wrong number."""
    plain = {"target": EAGER, "guard": False, "bias_correction": "off", "calibrate_method": "MinMax"}
    return quantize_static(model, path, feeds, **plain | _QUIET | arguments)


def dynamic(model: Any, path: Path, **arguments: Any) -> Report:
    """Quantize with ranges found at run time."""
    return quantize_dynamic(model, path, **_QUIET | arguments)


def packed(model: Any, path: Path, **arguments: Any) -> Report:
    """Pack weights."""
    return quantize_weight_only(model, path, **_QUIET | arguments)


def worst_db(model: onnx.ModelProto, path: Path, feeds: Iterable[Feed]) -> float:
    """The least SQNR of the outputs over all samples, with and without ONNX Runtime's optimizations, in dB."""
    samples = list(feeds)
    expected = _outputs(model, samples, optimize=True)
    found = [_outputs(path, samples, optimize=optimize) for optimize in (False, True)]
    return min(sqnr(values, outputs[name]) for outputs in found for name, values in expected.items())


def _outputs(model: onnx.ModelProto | Path, samples: Sequence[Feed], *, optimize: bool) -> dict[str, Any]:
    """Each float output, all samples in a row."""
    session = open_session(model if isinstance(model, Path) else load(model), optimize=optimize, threads=1)
    names = [output.name for output in session.get_outputs()]
    joined = zip(*(session.run(None, dict(feed)) for feed in samples), strict=True)
    by_name = {name: np.concatenate([np.ravel(one) for one in runs]) for name, runs in zip(names, joined, strict=True)}
    return {name: values for name, values in by_name.items() if values.dtype.kind == "f"}


def operators(path: Path) -> list[str]:
    """Operators of the main graph of a file, in its order."""
    return [node.op_type for node in onnx.load(path).graph.node]
