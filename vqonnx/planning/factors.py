"""Multiplications by one number that a device does together with the operator before them."""

import onnx_ir as ir

from vqonnx.graph.walk import constant, only_reader

_SCALED = frozenset({"AveragePool", "GlobalAveragePool", "HardSigmoid", "ReduceMean"})
_FARTHEST = 0.1


def is_factor(node: ir.Node) -> bool:
    """Whether a Mul is what AMD's NPU makes of an average or a hard sigmoid, put there by ``dpu_simulation``.

    The number, near 1, is the device's own arithmetic: nothing is quantized before it, and it stays float itself.
    """
    if node.op_type != "Mul" or node.domain:
        return False
    x, factor = node.inputs[0], constant(node.inputs[1])
    maker = x.producer() if x is not None else None
    if factor is None or factor.size != 1 or maker is None or maker.op_type not in _SCALED:
        return False
    reader = only_reader(maker.outputs[0])
    return reader is not None and reader[0] is node and abs(float(factor.reshape(())) - 1) < _FARTHEST
