"""Block-wise quantization of weights to 2, 4 and 8 bits, packed as com.microsoft.MatMulNBits reads them.

A weight W [K, N] has one scale, and one zero point, for each block of neighbours along K and each output channel n.
With the range [low, high] of a block, widened to hold 0, and b bits::

    asymmetric   scale = (high - low) / (2^b - 1)      zero_point = roundf(-low / scale)
    symmetric    scale = -extreme / 2^(b-1)            zero_point = 2^(b-1)
    code = clamp(roundf(w * (1 / scale) + zero_point), 0, 2^b - 1)

in float32, where ``extreme`` is the element of largest magnitude (the negative one of two), which so gets exactly code
0, and roundf rounds halves away from zero. This is what ONNX Runtime's own packer computes (its file
core/mlas/lib/q4_dq.cpp), and results are equal to the last bit except where its rule loses the weights:

* a block of nothing but 0 has scale 1, not 0;
* a scale that would be 0 or subnormal becomes the smallest normal float32, or the smallest float16 in float16 weights;
  one that would overflow (a range wider than the largest float32) does not;
* bfloat16 scales, which that packer does not know, are rounded up, and the zero point follows from the rounded value:
  with 8 bits of mantissa, rounding down would clip the ends of a block of 8-bit codes by half a step.
"""

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import U8, BlockSpec, FloatArray, QuantizedBlocks, block_count, packed_bytes
from vqonnx.errors import QuantRangeError
from vqonnx.kernels.blocks.packing import pack
from vqonnx.kernels.parallel import in_parallel

_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}


def round_blocks(
    weight: FloatArray, spec: BlockSpec, *, ratios: npt.ArrayLike = 1.0, threads: int | None = None
) -> QuantizedBlocks:
    """Round a weight to nearest, block by block, over the whole range of each block or a share of it.

    Args:
        weight: [K, N], float32, float16 or bfloat16 (others are taken as float32). The transpose of a C-contiguous
            [N, K] array is read as it lies, without a copy.
        spec: Bits, block size, symmetry.
        ratios: Factors on the ranges: one, or one a block as [N, J]. Below 1, what lies outside is clipped.
        threads: Threads to use, one a processor if None; the result does not depend on it.

    Raises:
        QuantRangeError: The weight holds NaN or infinite values.
    """
    k, n = weight.shape
    blocks = block_count(k, spec.size_for(k))
    scales, zero_points = np.empty((n, blocks), np.float32), np.empty((n, blocks), np.uint8)
    factors = np.atleast_2d(np.asarray(ratios, np.float32))
    return _run(weight, spec, (scales, zero_points), factors, threads)


def quantize_blocks(
    weight: FloatArray, scales: FloatArray, zero_points: U8 | None, spec: BlockSpec, *, threads: int | None = None
) -> QuantizedBlocks:
    """Round a weight to the nearest code at given scales and zero points.

    Args:
        weight: [K, N], as for ``round_blocks``.
        scales: [N, J], finite and not 0; rounded to the weight's type first. A negative one turns its codes around.
        zero_points: uint8 [N, J], one a byte; None for a symmetric spec.
        spec: Bits, block size; symmetric only if there are no zero points.
        threads: As for ``round_blocks``.

    Raises:
        QuantRangeError: A scale is 0 or not finite.
    """
    stored = scales.astype(weight.dtype).astype(np.float32)
    if not np.isfinite(stored).all() or not stored.all():
        raise QuantRangeError("the scales of blocks must be finite and not 0 in the weight's own float type")
    if zero_points is None:
        zero_points = np.full(stored.shape, 1 << (spec.bits - 1), np.uint8)
    return _run(weight, spec, (stored, np.ascontiguousarray(zero_points)), None, threads)


def _run(
    weight: FloatArray,
    spec: BlockSpec,
    params: tuple[npt.NDArray[np.float32], U8],
    ratios: npt.NDArray[np.float32] | None,
    threads: int | None,
) -> QuantizedBlocks:
    """Quantize with ``params`` if there are no ratios; fill them otherwise."""
    from vqonnx.kernels.blocks import loops as block_loops

    weight = readable(weight)
    (k, n), size = weight.shape, spec.size_for(weight.shape[0])
    scales, zero_points = params
    words = np.empty((n, scales.shape[1], -(-size * spec.bits // 32)), np.dtype("<u4"))
    form = (spec.bits, size, spec.symmetric, ratios is None)
    factors = np.ones((1, 1), np.float32) if ratios is None else ratios
    source, target = patterns_of(weight), (words, scales, zero_points)

    def work(start: int, stop: int) -> None:
        if not block_loops.quantize_tasks(source, factors, form, target, start, stop):
            raise QuantRangeError("the weight holds NaN or infinite values, for which no scale exists")

    in_parallel(work, block_loops.task_count(k, n, size), threads=threads)
    return QuantizedBlocks(
        codes=np.ascontiguousarray(words.view(np.uint8)[..., : packed_bytes(size, spec.bits)]),
        scales=scales.astype(weight.dtype),
        zero_points=None if spec.symmetric else pack(zero_points, spec.bits),
        bits=spec.bits,
        block_size=size,
        in_features=k,
        out_features=n,
    )


def readable(weight: FloatArray) -> FloatArray:
    """The weight itself where kernels know its type; else as float32."""
    return weight if weight.dtype in _KINDS else weight.astype(np.float32)


def patterns_of(weight: FloatArray) -> tuple[npt.NDArray[np.unsignedinteger], bool, int]:
    """The weight's bit patterns as they lie, whether they lie as [N, K], and the number of their type.

    Always read-only: a mapped file is, and each kind of array would be compiled for on its own.
    """
    transposed = weight.T.flags.c_contiguous and not weight.flags.c_contiguous
    laid = np.ascontiguousarray(weight.T if transposed else weight)
    patterns: npt.NDArray[np.unsignedinteger] = laid.view(np.uint32 if weight.dtype == np.float32 else np.uint16)
    patterns.flags.writeable = False
    return patterns, transposed, _KINDS[weight.dtype]
