"""Tell a weight that is not finite from a sample that is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir

from vqonnx.errors import QuantRangeError, SampleError
from vqonnx.graph.walk import constant, is_float, nodes

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@contextmanager
def weights_blamed(model: ir.Model) -> Iterator[None]:
    """Where a tensor is not finite in a sample, look whether a weight or bias of a product is the reason.

    Raises:
        QuantRangeError: One is; instead of the SampleError.
    """
    try:
        yield
    except SampleError as error:
        found = None if error.tensor is None else _first(model)
        if found is None:
            raise
        node, name = found
        raise QuantRangeError(
            f"{name!r}, which {node.op_type} node {node.name!r} reads, holds NaN or infinite values; so tensor "
            f"{error.tensor!r} does in every sample. Repair the model, or leave the node float (nodes_to_exclude).",
            tensor=name,
        ) from error


def _first(model: ir.Model) -> tuple[ir.Node, str] | None:
    for node in nodes(model):
        for value in node.inputs if node.op_type in _PRODUCTS else ():
            array = constant(value) if is_float(value) else None
            if value is not None and array is not None and not np.isfinite(array).all():
                return node, value.name or ""
    return None
