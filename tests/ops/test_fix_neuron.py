"""FixNeuron in sessions and in the kernel, against its definition in float64."""

from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.kernels.formats.formats import assert_same_bits
from tests.ops.running import custom_model, extensions, feeds_of
from vqonnx.core.custom_ops import CONTRIB_DOMAIN
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import dequantize, quantize, round_to_steps
from vqonnx.ops import bodies
from vqonnx.runtime.session import open_session


def exactly(x: float, scale: float, zero_point: int, bits: int) -> float:
    """The definition on rational numbers; Python rounds halves to even."""
    code = round(Fraction(x) / Fraction(scale)) + zero_point
    half = 1 << (bits - 1)
    return float((min(max(code, -half), half - 1) - zero_point) * Fraction(scale))


@given(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-20, 20),
    st.integers(-128, 127),
    st.integers(2, 16),
)
def test_the_kernel_is_the_definition(x, position, zero_point, bits):
    scale = 2.0**-position
    found = round_to_steps(np.array([x], np.float32), scale, zero_point, bits)
    assert found[0] == np.float32(exactly(x, scale, zero_point, bits))


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_a_session_gives_the_bits_of_a_pair(rng, bits):
    extensions()
    scale = np.float32(2.0**-3)
    x = (rng.normal(size=(7, 50)) * 2.0 ** rng.integers(-6, min(bits, 20), (7, 50))).astype(np.float32)
    x[0, :6] = -0.0, np.inf, -np.inf, 3.4e38, 0.0625, 0.1875  # the last two lie half way
    constants = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(np.int8(0), "z")]
    attributes = {"bit_width": str(bits), "pos": "3"}
    floats = [(TensorProto.FLOAT, None)]
    proto = custom_model("FixNeuron", floats, TensorProto.FLOAT, attributes, domain=CONTRIB_DOMAIN, constants=constants)
    found = open_session(ir.from_proto(proto)).run(None, feeds_of(x))[0]
    qtype = QTYPES[f"int{bits}"]
    params = QuantParams(np.array(scale), np.zeros((), qtype.dtype), QuantSpec(qtype=qtype))
    np.testing.assert_array_equal(found, dequantize(quantize(x, params), params))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
def test_scalars_and_empty_tensors_keep_their_shapes(shape):
    found = round_to_steps(np.full(shape, 1.1, np.float32), 0.5, 0, 8)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert (found == 1).all()


def test_nan_stays_and_what_cannot_be_computed_is_nan(caplog):
    one, zero = np.ones((), np.float32), np.zeros((), np.int8)
    x = np.array([np.nan, 200.0], np.float32)
    assert_same_bits(
        bodies.fix_neuron(x, one, zero, bit_width="8", pos="0").tolist(), np.array([np.nan, 127], np.float32)
    )
    assert np.isnan(bodies.fix_neuron(x, one, zero, bit_width="no", pos="0").tolist()).all()
    assert np.isnan(bodies.fix_neuron(x, np.ones(2, np.float32), zero, bit_width="8", pos="0").tolist()).all()
    assert "bit_width 'no' is no whole number" in caplog.text
    assert "FixNeuron takes one scale" in caplog.text
