"""Speed of the solvers that need no samples, without files, against what ONNX Runtime offers for the same.

All in one process, in turns, after a warm-up of each.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Timed = tuple[Callable[[], Any], Callable[[Any], F32]]
"""What is measured, and what turns its result into the weight [K, N] that it stands for."""
Make = Callable[[F32], Timed]
"""From W [K, N]."""

BLOCK = 32
_SHAPE = (4096, 4096)
_PAUSE_SECONDS = 0.1
"""Before each run: threads of the other tool may still spin, waiting for work."""
_ROUNDS = 5


def measure(kernel: str) -> dict[str, Any]:
    """Medians of the seconds of both tools, number of weights, and ratio of the squared errors (ours over theirs)."""
    weight = (np.random.default_rng(0).standard_t(6, _SHAPE) * 0.02).astype(np.float32)
    works = [make(weight) for make in KERNELS[kernel]]
    values = [value_of(solve()) for solve, value_of in works]
    rounds = [[_seconds(solve) for solve, _ in works] for _ in range(_ROUNDS)]
    ours, peer = (statistics.median(times) for times in zip(*rounds, strict=True))
    errors = [float(np.square(value - weight, dtype=np.float64).sum()) for value in values]
    return {"ours": ours, "peer": peer, "weights": weight.size, "error": errors[0] / errors[1]}


def _seconds(work: Callable[[], object]) -> float:
    time.sleep(_PAUSE_SECONDS)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ours(algorithm: str, *, symmetric: bool = False) -> Make:
    def make(weight: F32) -> Timed:
        from vqonnx.algorithms.base import LayerProblem, find_algorithm
        from vqonnx.core.blocks import BlockSpec
        from vqonnx.kernels.blocks.packing import dequantize_blocks

        spec = BlockSpec(bits=4, block_size=BLOCK, symmetric=symmetric)
        solver = find_algorithm(algorithm)
        problem = LayerProblem(weight=weight, spec=spec)

        def solve() -> Any:
            return next(iter(solver.solve([problem], solver.options()))).packed

        return solve, lambda packed: np.asarray(dequantize_blocks(packed), np.float32)

    return make


def _runtime_rtn(symmetric: bool) -> Make:
    """The C++ function behind MatMulNBitsQuantizer, with its results allocated as there."""

    def make(weight: F32) -> Timed:
        from onnxruntime.capi._pybind_state import quantize_matmul_4bits

        k, n = weight.shape

        def solve() -> Any:
            codes = np.zeros((n, k // BLOCK, BLOCK // 2), np.uint8)
            zero_points = np.zeros((n, k // BLOCK // 2), np.uint8)
            scales = np.zeros((n, k // BLOCK), np.float32)
            quantize_matmul_4bits(codes, weight, scales, zero_points, BLOCK, n, k, symmetric)
            return codes, scales, None if symmetric else zero_points

        return solve, lambda parts: _unpacked(*parts)

    return make


def _unpacked(codes: npt.NDArray[np.uint8], scales: F32, zero_points: npt.NDArray[np.uint8] | None) -> F32:
    """W [K, N] of MatMulNBits' tensors: two codes a byte, the first in the low half."""
    n = len(codes)
    zeros = np.full(scales.shape, 8, np.float32) if zero_points is None else _nibbles(zero_points).reshape(n, -1)
    blocks = _nibbles(codes).reshape(n, -1, BLOCK)
    return ((blocks - zeros[..., None]) * scales[..., None]).reshape(n, -1).T


def _nibbles(packed: npt.NDArray[np.uint8]) -> F32:
    return np.stack([packed & 15, packed >> 4], axis=-1).astype(np.float32)


def _runtime_k_quant(weight: F32) -> Timed:
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    def value(parts: Any) -> F32:
        codes, scales, zero_points = parts
        return _in_layout((codes - zero_points) * scales, weight)

    return lambda: quant_tensor_k_quant_cpu(weight.T, 4, BLOCK), value


def _runtime_hqq(weight: F32) -> Timed:
    """The solver inside its HQQ quantizer, with the grid that it starts from."""
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantizer

    def solve() -> Any:
        rows = torch.from_numpy(np.ascontiguousarray(weight.T)).reshape(-1, BLOCK)
        low, high = rows.min(1, keepdim=True).values, rows.max(1, keepdim=True).values
        scales = (15 / (high - low)).clamp(max=2e4)
        scales, zeros = HQQWeightOnlyQuantizer.optimize_weights(rows, scales, -low * scales, [0, 15], axis=1)
        codes = torch.round(rows * scales + zeros).clamp(0, 15)
        return codes, 1 / scales, zeros

    def value(parts: Any) -> F32:
        codes, scales, zeros = parts
        return _in_layout(((codes - zeros) * scales).numpy(), weight)

    return solve, value


def _runtime_clip(weight: F32) -> Timed:
    """Its quantizer has clip ratios, but no search: this tries as many as ours with them, and picks for each block."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor

    from vqonnx.algorithms.clip_search import DEFAULT

    rows = weight.T.reshape(-1, BLOCK)

    def solve() -> F32:
        best, least = np.empty_like(rows), np.full((len(rows), 1), np.inf)
        for ratio in DEFAULT.candidates():
            codes, scales, zeros = quant_tensor(rows, 4, BLOCK, "asym", "uint", float(ratio))
            found = (codes - zeros.astype(np.float64)) * scales
            error = np.square(found - rows).sum(1, keepdims=True)
            best, least = np.where(error < least, found, best), np.minimum(error, least)
        return best

    return solve, lambda best: _in_layout(best, weight)


def _in_layout(rows: npt.NDArray[Any], weight: F32) -> F32:
    """Blocks of 32 along K, channel after channel, as W [K, N]."""
    return np.asarray(rows, np.float32).reshape(weight.T.shape).T


KERNELS: dict[str, tuple[Make, Make]] = {
    "rtn asym against quantize_matmul_4bits": (_ours("rtn"), _runtime_rtn(False)),
    "rtn sym against quantize_matmul_4bits": (_ours("rtn", symmetric=True), _runtime_rtn(True)),
    "scale_search against k_quant": (_ours("scale_search"), _runtime_k_quant),
    "clip_search against quant_tensor with ratios": (_ours("clip_search"), _runtime_clip),
    "hqq against HQQ": (_ours("hqq"), _runtime_hqq),
}
