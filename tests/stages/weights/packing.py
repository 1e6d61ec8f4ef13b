"""Models on their way through weight-only quantization, without files where none are needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from vqonnx.calibration.samples import Samples
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec, WeightForm
from vqonnx.flows.packing import Packing, WeightOnlyJob, Written
from vqonnx.graph.io import load, save
from vqonnx.planning.rules import Selection
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.stages.weights.store import MemoryStore
from vqonnx.stages.weights.verify import verify_layers

ALL_OPERATORS = ("MatMul", "Gemm", "Gather", "Conv")
PRODUCTS = ("MatMul", "Gemm", "Conv")
FORMS: dict[str, Mapping[str, Any]] = {
    "matmul_nbits": {"form": WeightForm.MATMUL_NBITS},
    "qdq": {"form": WeightForm.QDQ},
    "bnb4": {"form": WeightForm.BNB4, "spec": CodebookSpec(book="nf4", block_size=64)},
    "channel_qdq": {"form": WeightForm.CHANNEL_QDQ, "spec": BlockSpec(bits=8, block_size=-1, symmetric=True)},
}


def packing_of(proto: onnx.ModelProto, *, op_types: Sequence[str] = ALL_OPERATORS, **rules: Any) -> Packing:
    """What ``Packing.of`` makes of a model and ``WeightRules(**rules)``."""
    fixed = {"selection": Selection(op_types=tuple(op_types))} | rules
    return Packing.of(load(proto), WeightOnlyJob(rules=WeightRules(**fixed)))


def solved(packing: Packing, feeds: Sequence[Mapping[str, np.ndarray]] | None = None) -> MemoryStore:
    """Its weights, solved in memory."""
    store = MemoryStore()
    samples = None if feeds is None else Samples(lambda index: feeds[index], len(feeds))
    packing.solve(store, samples)
    return store


def emitted(proto: onnx.ModelProto, **rules: Any) -> tuple[Packing, Written]:
    """A packed model without samples."""
    packing = packing_of(proto, **rules)
    return packing, packing.emit(solved(packing))


def verified(packing: Packing, written: Written, folder: Path, **options: Any) -> tuple[dict[str, float], list[str]]:
    """What ``verify_layers`` says of the packed model when it is written and read again."""
    path = folder / "packed.onnx"
    save(packing.model, path)
    return verify_layers(load(path), packing.plan, written.ends, written.packed, **options)


def outputs_of(model: ir.Model | onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs by name, in float64."""
    from vqonnx.runtime.session import open_session

    session = open_session(load(model), threads=1)
    names = [value.name for value in session.get_outputs()]
    results = session.run(None, dict(feed))
    return {name: np.asarray(result, np.float64) for name, result in zip(names, results, strict=True)}
