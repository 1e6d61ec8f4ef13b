import ml_dtypes
import numpy as np
import pytest

from vqonnx.core.block_formats import (
    BFP16,
    BLOCK_FORMATS,
    MICROSCALING_FORMATS,
    MX4,
    MX6,
    MX9,
    MXFP4_E2M1,
    MXFP6_E2M3,
    MXFP8_E5M2,
    MXINT8,
    BlockFloatFormat,
    BlockFloatMethod,
    MicroscalingFormat,
    Rounding,
)
from vqonnx.core.qtype import QTYPES, Kind
from vqonnx.errors import OptionError


def test_mantissas_fill_the_published_widths():
    """A block's bits per element: 9, 6 and 4 with microexponents (Rouhani et al. 2023), 9 for BFP16."""
    assert BFP16.bits + 8 / BFP16.block_size == 9
    for fmt, width in ((MX9, 9), (MX6, 6), (MX4, 4)):
        shared = 8 / fmt.block_size + fmt.sub_block_shift_bits / fmt.sub_block_size
        assert fmt.bits + shared == width


@pytest.mark.parametrize("fmt", MICROSCALING_FORMATS.values(), ids=lambda fmt: fmt.name)
def test_elements_are_those_of_ml_dtypes(fmt):
    element = fmt.element
    if element.dtype == np.int8:
        assert (element.largest, element.smallest, element.step) == (127 / 64, -2.0, 1 / 64)
        assert (element.max_exponent, element.min_exponent) == (0, 0)
        return
    info = ml_dtypes.finfo(element.dtype)
    assert float(info.max) == element.largest == -element.smallest
    assert float(info.smallest_subnormal) == element.step
    assert (info.nmant, info.minexp, info.bits) == (element.mantissa_bits, element.min_exponent, element.bits)
    assert 2**element.max_exponent <= element.largest < 2 ** (element.max_exponent + 1)


def test_every_block_format_is_a_type_with_its_ends_in_steps():
    for name, fmt in BLOCK_FORMATS.items():
        qtype = QTYPES[name]
        assert (fmt.name, qtype.bits, qtype.qmin, qtype.qmax) == (name, fmt.bits, fmt.qmin, fmt.qmax)
        assert qtype.kind is (Kind.MICROSCALING if name in MICROSCALING_FORMATS else Kind.BLOCK_FLOAT)
    assert (QTYPES["bfp16"].qmin, QTYPES["bfp16"].qmax) == (-127, 127)
    assert (QTYPES["mx4"].qmin, QTYPES["mx4"].qmax) == (-3, 3)
    assert (QTYPES["mxint8"].qmin, QTYPES["mxint8"].qmax) == (-128, 127)
    assert QTYPES["mxfp4_e2m1"].qmax * MXFP4_E2M1.element.step == 6
    assert QTYPES["mxfp6_e2m3"].qmax * MXFP6_E2M3.element.step == 7.5
    assert QTYPES["mxfp8_e5m2"].qmax * MXFP8_E5M2.element.step == 57344


@pytest.mark.parametrize(
    ("parameters", "option"),
    [
        ({"bit_width": 9}, "bit_width"),
        ({"bit_width": 33}, "bit_width"),
        ({"block_size": 0}, "block_size"),
        ({"method": BlockFloatMethod.TO_BFP_PRIME, "block_size": 9}, "sub_block_size"),
        ({"method": BlockFloatMethod.TO_BFP_PRIME, "sub_block_size": 0}, "sub_block_size"),
        ({"method": BlockFloatMethod.TO_BFP_PRIME, "sub_block_shift_bits": 9}, "sub_block_shift_bits"),
        ({"method": BlockFloatMethod.TO_BFP_PRIME, "twos_complement": True}, "twos_complement"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters, option):
    with pytest.raises(OptionError) as caught:
        BlockFloatFormat(name="x", **parameters)
    assert caught.value.option == option
    assert option in str(caught.value)


def test_parameters_of_the_other_method_do_not_matter():
    assert BlockFloatFormat(name="x", block_size=9, sub_block_size=4).block_size == 9


def test_a_microscaling_block_has_elements():
    with pytest.raises(OptionError, match="block_size of a block format must be at least 1, got 0"):
        MicroscalingFormat(name="x", element=MXINT8.element, block_size=0)


def test_rounding_has_the_values_of_the_attribute():
    assert [Rounding(value).name for value in range(3)] == ["HALF_AWAY", "HALF_UP", "HALF_EVEN"]
