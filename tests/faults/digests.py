"""Prints digests of what each form writes; a process of its own, whose hash seed and processors are the caller's."""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

from models import digits
from tests.faults.flow import CASES, dynamic, packed, static

MODELS = ("networks/transformer", "networks/residual_cnn", "control/if")


def written(folder: Path) -> dict[str, str]:
    """A digest by model and form."""
    feeds = digits.calibration_samples(32)
    static(digits.MODEL, folder / "digits static", feeds, calibrate_method=None, bias_correction="auto", guard=True)
    packed(digits.MODEL, folder / "digits packed", algorithm="gptq", calibration=feeds)
    for name in MODELS:
        case, stem = CASES[name], name.replace("/", " ")
        samples = list(case.feeds(16))
        static(case.build(), folder / f"{stem} QDQ", samples, calibrate_method=None, bias_correction="auto")
        static(case.build(), folder / f"{stem} QOperator", samples, quant_format="QOperator")
        dynamic(case.build(), folder / f"{stem} dynamic")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


if __name__ == "__main__":
    if sys.argv[1] != "all":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(written(Path(folder))))
