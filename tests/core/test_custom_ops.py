from dataclasses import replace

import pytest

from vqonnx.core.block_formats import BFP16, BLOCK_FORMATS, MX9, BlockFloatMethod, Rounding
from vqonnx.core.custom_ops import (
    BLOCK_FLOAT,
    CUSTOM_OPS,
    DOMAIN,
    MICROSCALING,
    OLD_DOMAIN,
    attributes_of,
    block_float_of,
    block_op,
    custom_op,
    microscaling_of,
)
from vqonnx.errors import OptionError

FORMATS = [
    *BLOCK_FORMATS.values(),
    *(replace(fmt, rounding=Rounding.HALF_UP) for fmt in BLOCK_FORMATS.values()),
    replace(BFP16, twos_complement=True, from_bfloat16=True, block_size=24),
    replace(MX9, sub_block_size=4, sub_block_shift_bits=2),
]


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_format_comes_back_from_its_attributes(fmt):
    op, attributes = block_op(fmt), attributes_of(fmt, -2)
    assert attributes["axis"] == -2
    assert attributes.keys() == op.defaults.keys()
    assert {type(value) for value in attributes.values()} <= {int, str}
    back = (block_float_of if op is BLOCK_FLOAT else microscaling_of)(attributes)
    assert replace(back, name=fmt.name) == fmt


def test_documented_attributes_are_written():
    assert attributes_of(MX9, 1) == {
        "bfp_method": "to_bfp_prime",
        "axis": 1,
        "bit_width": 16,
        "block_size": 16,
        "rounding_mode": 2,
        "sub_block_size": 2,
        "sub_block_shift_bits": 1,
        "convert_to_bfloat_before_bfp": 0,
        "use_compiler_version_cpu_kernel": 0,
    }


def test_absent_attributes_have_the_documented_defaults():
    fmt = block_float_of({})
    assert (fmt.method, fmt.bit_width, fmt.block_size) == (BlockFloatMethod.TO_BFP, 16, 8)
    assert fmt.rounding is Rounding.HALF_AWAY
    assert microscaling_of({}).element.name == "int8"


def test_the_older_name_of_a_method_is_known():
    assert (
        block_float_of({"bfp_method": "to_bfp_prime_shared", "block_size": 16}).method is BlockFloatMethod.TO_BFP_PRIME
    )


@pytest.mark.parametrize(
    ("read", "attribute", "value", "reason"),
    [
        (block_float_of, "bfp_method", "to_float", "Known are 'to_bfp', 'to_bfp_prime'"),
        (block_float_of, "rounding_mode", 3, "Known are 0, 1, 2"),
        (block_float_of, "bit_width", 8, "from 10 to 32"),
        (microscaling_of, "element_dtype", "fp8_e4m4", "did you mean"),
        (microscaling_of, "rounding_mode", -1, "unknown rounding_mode -1"),
        (microscaling_of, "block_size", 0, "at least 1"),
    ],
)
def test_attributes_that_mean_nothing_are_refused(read, attribute, value, reason):
    with pytest.raises(OptionError, match=reason) as caught:
        read({attribute: value})
    assert caught.value.option == attribute


def test_operators_are_found_by_either_name():
    for op in CUSTOM_OPS.values():
        assert custom_op(op.domain, op.name) is op
        assert custom_op(OLD_DOMAIN, op.old_name) is (op if op.old_name else None)
        assert custom_op(DOMAIN, op.old_name) is None
        assert custom_op("", op.name) is None
    assert block_op(BLOCK_FORMATS["mxint8"]) is MICROSCALING
