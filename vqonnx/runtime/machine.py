"""What this processor does with 8-bit dot products, found by asking it."""

import platform

import numpy as np
import onnx_ir as ir
import psutil

from vqonnx.errors import OptionError
from vqonnx.runtime.session import open_session

_ARM = ("aarch64", "arm64", "armv7l", "armv8l")
_X86 = ("x86_64", "amd64", "i386", "i686")

_ROWS, _DEPTH, _COLUMNS = 8, 64, 32
# Large enough for the blocked kernels. Two products make 2 * 255 * 127 = 64770, twice what int16 holds.
_ACTIVATION, _WEIGHT = 255, 127


def free_memory() -> int:
    """Bytes that processes can have without swapping."""
    return int(psutil.virtual_memory().available)


def cpu_target_name() -> str:
    """The name of the CPU target for this machine: ``"cpu-x86-vnni"``, ``"cpu-x86-avx2"`` or ``"cpu-arm"``.

    On x86 one small product runs through ONNX Runtime: processors without VNNI add pairs of uint8 x int8
    products in int16, where they saturate (instruction vpmaddubsw), so the sum comes out too small.

    Raises:
        DependencyError: onnxruntime is not installed.
        OptionError: The processor is neither x86 nor Arm.
    """
    machine = platform.machine()
    return target_of(machine, largest_dot() if machine.lower() in _X86 else exact_dot())


def target_of(machine: str, dot: int) -> str:
    """The target for a ``platform.machine()`` whose largest uint8 x int8 dot product comes out as ``dot``.

    Raises:
        OptionError: See ``cpu_target_name``.
    """
    if machine.lower() in _ARM:
        return "cpu-arm"
    if machine.lower() in _X86:
        return "cpu-x86-vnni" if dot == exact_dot() else "cpu-x86-avx2"
    raise OptionError(
        f"processor {machine!r} is neither x86 nor Arm, so its CPU target is not known. Name one with target=.",
        option="target",
    )


def exact_dot() -> int:
    """What the probe's dot products are in exact arithmetic."""
    return _ACTIVATION * _WEIGHT * _DEPTH


def largest_dot() -> int:
    """The same as ONNX Runtime's CPU kernel computes it here; the least element of the probe's result."""
    session = open_session(_probe(), optimize=False, threads=1)
    (product,) = session.run(None, {"a": np.full((_ROWS, _DEPTH), _ACTIVATION, np.uint8)})
    return int(np.min(product))


def _probe() -> ir.Model:
    a = ir.Value(name="a", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([_ROWS, _DEPTH]))
    weight = ir.Tensor(np.full((_DEPTH, _COLUMNS), _WEIGHT, np.int8), name="b")
    b = ir.Value(name="b", const_value=weight, type=ir.TensorType(ir.DataType.INT8), shape=ir.Shape(weight.shape))
    node = ir.node("MatMulInteger", [a, b], name="product")
    product = node.outputs[0]
    product.name, product.type = "y", ir.TensorType(ir.DataType.INT32)
    product.shape = ir.Shape([_ROWS, _COLUMNS])
    graph = ir.Graph([a], [product], nodes=[node], initializers=[b], opset_imports={"": 17}, name="probe")
    return ir.Model(graph, ir_version=8)
