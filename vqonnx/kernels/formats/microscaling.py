"""Microscaling: what a float32 tensor becomes in MXFP8, MXFP6, MXFP4 or MXINT8.

OCP Microscaling Formats (MX) v1.0, section 6.3: the scale of a block is ``2^(floor(log2(amax)) - emax)``, with emax the
exponent of the element format's largest number; elements are divided by it, rounded to the nearest number of their
format, subnormals included, and saturate. The scale is an E8M0, so its exponent is -127 .. 127.

Where AMD Quark's MXQuantizeDequantize differs from the specification, the latter is what is computed here:

* A block that holds NaN or infinity has the scale NaN and is NaN as a whole; Quark passes such elements unchanged and
  leaves them out of the scale.
* Scales do not go below 2^-127; Quark's go on to 2^(-127 - emax), which E8M0 cannot hold.
* Elements that become 0 keep their sign, but for MXINT8, which has one zero; Quark's small floats lose it.
* The rounding is the format's for all elements; Quark uses it for MXINT8 alone and rounds floats half to even.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.core.block_formats import MicroscalingFormat, Rounding
from vqonnx.kernels.formats.block_rule import NUDGE, Rule
from vqonnx.kernels.formats.float_patterns import NOTHING, SIGN
from vqonnx.kernels.formats.shared_exponent import round_blocks

F32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]


def round_to_microscaling(x: FloatArray, fmt: MicroscalingFormat, axis: int) -> F32:
    """Quantize to a microscaling format and back.

    Args:
        x: Any shape; of one element, it comes back as it is.
        fmt: The format.
        axis: Along which blocks lie; of a tensor of rank 1, its only one.

    Returns:
        float32, the shape of ``x``. The element -128 of MXINT8 becomes -127 under the scale 2^127, where float32 ends.

    Raises:
        OptionError: ``x`` has no such axis.
    """
    return round_blocks(x, axis, (fmt.block_size, fmt.block_size), _rule(fmt))


def _rule(fmt: MicroscalingFormat) -> Rule:
    element = fmt.element
    smallest_normal = 2.0**element.min_exponent
    return Rule(
        mantissa_bits=element.mantissa_bits,
        max_exponent=element.max_exponent,
        min_exponent=element.min_exponent,
        largest_shift=0,
        bottom=element.smallest / smallest_normal,
        top=element.largest / smallest_normal,
        away=NUDGE if fmt.rounding is Rounding.HALF_AWAY else 0.0,
        up=NUDGE if fmt.rounding is Rounding.HALF_UP else 0.0,
        raises=False,
        sign_mask=SIGN if element.exponent_bits else np.uint32(0),
        smallest=np.uint32(0),
        passed=NOTHING,
    )
