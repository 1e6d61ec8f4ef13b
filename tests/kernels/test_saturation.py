"""The reason of the AVX2 target's 7-bit weights, by emulating the instruction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vqonnx.kernels.affine import round_to_nearest
from vqonnx.targets.cpu import CPU_X86_AVX2, CPU_X86_VNNI

WEIGHTS = arrays(np.float32, (64,), elements=st.floats(-1, 1, width=32))
ACTIVATIONS = arrays(np.uint8, (64,))


def vpmaddubsw(unsigned, signed):
    """Intel's u8 x s8 instruction: neighbouring products are added with signed 16-bit saturation."""
    products = unsigned.astype(np.int32) * signed.astype(np.int32)
    return np.clip(products[0::2] + products[1::2], -(2**15), 2**15 - 1)


def exact(unsigned, signed):
    products = unsigned.astype(np.int32) * signed.astype(np.int32)
    return products[0::2] + products[1::2]


@given(weight=WEIGHTS, activation=ACTIVATIONS)
def test_weights_for_avx2_never_saturate(weight, activation):
    codes = round_to_nearest(weight, CPU_X86_AVX2.weight).codes
    np.testing.assert_array_equal(vpmaddubsw(activation, codes), exact(activation, codes))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_case_for_avx2_fits_and_that_for_vnni_does_not(sign):
    weight, activation = np.full(2, sign, np.float32), np.full(2, 255, np.uint8)
    narrow = round_to_nearest(weight, CPU_X86_AVX2.weight).codes
    wide = round_to_nearest(weight, CPU_X86_VNNI.weight).codes
    assert vpmaddubsw(activation, narrow) == exact(activation, narrow)
    assert vpmaddubsw(activation, wide) != exact(activation, wide)
