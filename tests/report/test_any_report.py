"""Laws that hold for every report."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vqonnx.core.plan import Skip
from vqonnx.report.figures import (
    Latency,
    Level,
    NodeKernel,
    Outcome,
    OutputFigures,
    Sizes,
    Verification,
)
from vqonnx.report.json import from_json, to_json
from vqonnx.report.model import BiasCorrection, GuardAction, OptionUsed, Report
from vqonnx.report.text import print_report
from vqonnx.report.weights import WeightFigures

TEXT = st.text(max_size=8)
COUNT = st.integers(0, 2**40)
NUMBER = st.floats(allow_nan=False)
MAYBE = st.none() | NUMBER


def several(strategy):
    return st.lists(strategy, max_size=3).map(tuple)


OUTPUTS = st.builds(
    OutputFigures,
    name=TEXT,
    elements=COUNT,
    sqnr_db=MAYBE,
    cosine=MAYBE,
    max_abs_error=MAYBE,
    mean_error=MAYBE,
    equal=MAYBE,
    broken=COUNT,
    other_shapes=COUNT,
)
VERIFICATIONS = st.builds(
    Verification,
    level=st.sampled_from(Level),
    samples=COUNT,
    outputs=several(OUTPUTS),
    kernels=st.none() | several(st.builds(NodeKernel, TEXT, TEXT, st.sampled_from(Outcome), TEXT, TEXT)),
    sizes=st.none() | st.builds(Sizes, float_bytes=COUNT, quantized_bytes=COUNT),
    latency=st.none() | st.builds(Latency, float_seconds=NUMBER, quantized_seconds=NUMBER, threads=COUNT, runs=COUNT),
    providers=several(TEXT),
    notes=several(TEXT),
)
WEIGHTS = st.builds(
    WeightFigures,
    weight=TEXT,
    nodes=several(TEXT),
    form=TEXT,
    bits=COUNT,
    block_size=st.integers(-1, 256),
    symmetric=st.booleans(),
    asked=TEXT,
    algorithm=TEXT,
    data=st.booleans(),
    sqnr_db=MAYBE,
    rtn_db=MAYBE,
    node_db=MAYBE,
    note=TEXT,
)
REPORTS = st.builds(
    Report,
    version=TEXT,
    target=TEXT,
    quantized=st.dictionaries(TEXT, COUNT, max_size=3),
    skips=several(st.builds(Skip, TEXT, TEXT, TEXT)),
    options=several(st.builds(OptionUsed, TEXT, TEXT, TEXT)),
    verification=VERIFICATIONS,
    guard=several(st.builds(GuardAction, subject=TEXT, action=TEXT, reason=TEXT, before_db=MAYBE, after_db=MAYBE)),
    bias_correction=st.none()
    | st.builds(BiasCorrection, method=TEXT, kept=st.booleans(), before_db=MAYBE, after_db=MAYBE, corrected=COUNT),
    weights=several(WEIGHTS),
    seconds=st.dictionaries(TEXT, NUMBER, max_size=3),
    samples=COUNT,
    min_sqnr_db=NUMBER,
    notes=several(TEXT),
)


@given(REPORTS)
def test_json_gives_back_the_same_report(report):
    assert from_json(to_json(report)) == report


@given(REPORTS)
def test_json_is_valid_for_every_parser_and_text_can_always_be_made(report):
    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(to_json(report), parse_constant=refuse)["schema"] == 1
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=100))
    assert stream.getvalue()
