"""Packing a large model, against a plain copy of it: what it takes of time and of memory."""

import os
import shutil
from typing import Any

from benchmarks.variants import Quantize, Task, Variant
from benchmarks.weight_variants import RUNTIME_ASYM, WEIGHT_VARIANTS, ours

COPY = "buffered copy with fsync"
_CHUNK = 1 << 20


def _copy() -> Quantize:
    """The model and its data file, with as little work as there can be."""

    def copy(task: Task) -> dict[str, Any]:
        for path in task.model.parent.iterdir():
            with path.open("rb") as source, (task.output.parent / path.name).open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
                target.flush()
                os.fsync(target.fileno())
        return {}

    return copy


STREAM_VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(COPY, _copy),
        Variant("vqonnx rtn asym, block 32", ours(last_matmul=True)),
        Variant("vqonnx rtn asym, block 32, verify='checker'", ours(last_matmul=True, verify="checker")),
        WEIGHT_VARIANTS[RUNTIME_ASYM],
    )
}
