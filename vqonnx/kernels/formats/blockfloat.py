"""Block floating point: what a float32 tensor becomes in BFP16, MX9, MX6 or MX4.

With E the largest biased exponent of a block and m the bits of a mantissa, ``TO_BFP`` rounds to multiples of
``2^(E - 127 - (m - 1))`` and saturates at 2^m - 1 of them, as AMD Quark's BFPQuantizeDequantize does. ``TO_BFP_PRIME``
does so by sub-blocks, whose step is up to ``2^shift_bits - 1`` powers of two finer where their largest exponent allows.

Where Quark's kernels differ from each other or from the format, this is what is computed here:

* A mantissa saturates at 2^m - 1, which is all that m bits hold. So does Quark's CUDA kernel; its CPU kernel for
  ``TO_BFP_PRIME`` lets a mantissa round up to 2^m.
* The roundings are those that Quark documents and its CPU kernels do. For ``TO_BFP_PRIME`` its CUDA kernel takes the
  same three numbers for truncation, half away from zero and stochastic rounding.
* A number that becomes 0 keeps its sign. Quark's ``TO_BFP`` loses it when rounding halves to even.
* ``twos_complement`` is Quark's use_compiler_version_cpu_kernel, for every width and not 7-bit mantissas alone; a block
  of the largest exponent of float32, which cannot be raised, saturates (Quark gives infinity).
"""

import numpy as np
import numpy.typing as npt

from vqonnx.core.block_formats import BlockFloatFormat, BlockFloatMethod, Rounding
from vqonnx.core.qtype import BFLOAT16
from vqonnx.kernels.formats.block_rule import NUDGE, Rule
from vqonnx.kernels.formats.float_patterns import INFINITE, NOTHING, SIGN, SMALLEST_NORMAL
from vqonnx.kernels.formats.floats import round_to_float
from vqonnx.kernels.formats.shared_exponent import round_blocks

F32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]


def round_to_block_float(x: FloatArray, fmt: BlockFloatFormat, axis: int) -> F32:
    """Quantize to block floating point and back.

    ``TO_BFP`` passes NaN and infinity unchanged and leaves them out of the shared exponent. ``TO_BFP_PRIME`` turns a
    whole block into NaN if it holds either, and takes subnormal float32 numbers for 0.

    Args:
        x: Any shape; of one element, it comes back as it is.
        fmt: The format.
        axis: Along which blocks lie; of a tensor of rank 1, its only one.

    Returns:
        float32, the shape of ``x``.

    Raises:
        OptionError: ``x`` has no such axis.
    """
    source = round_to_float(x, BFLOAT16) if fmt.from_bfloat16 else x
    sub = fmt.sub_block_size if fmt.method is BlockFloatMethod.TO_BFP_PRIME else fmt.block_size
    return round_blocks(source, axis, (fmt.block_size, sub), _rule(fmt))


def _rule(fmt: BlockFloatFormat) -> Rule:
    prime = fmt.method is BlockFloatMethod.TO_BFP_PRIME
    step = 2.0 ** (1 - fmt.mantissa_bits)
    return Rule(
        mantissa_bits=fmt.mantissa_bits - 1,
        max_exponent=0,
        min_exponent=0,
        largest_shift=(1 << fmt.sub_block_shift_bits) - 1 if prime else 0,
        bottom=fmt.qmin * step,
        top=fmt.qmax * step,
        away=NUDGE if fmt.rounding is Rounding.HALF_AWAY else 0.0,
        up=NUDGE if fmt.rounding is Rounding.HALF_UP else 0.0,
        raises=fmt.twos_complement,
        sign_mask=SIGN,
        smallest=SMALLEST_NORMAL if prime else np.uint32(0),
        passed=NOTHING if prime else INFINITE,
    )
