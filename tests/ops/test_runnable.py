import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from tests.kernels.formats.formats import assert_same_bits
from tests.ops.running import custom_model, extensions, feeds_of, float_model
from vqonnx.core.block_formats import BFP16, MXINT8, Rounding
from vqonnx.core.custom_ops import CONTRIB_DOMAIN, CUSTOM_OPS, FIX_NEURON, OLD_DOMAIN
from vqonnx.errors import UnsupportedModelError
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.ops import make_runnable
from vqonnx.runtime.session import open_session

PAIR = [numpy_helper.from_array(np.array(0.5, np.float32), "s"), numpy_helper.from_array(np.array(0, np.int8), "z")]


@pytest.mark.parametrize(("op", "name"), [(op, name) for op in CUSTOM_OPS.values() for name in op.qualified_names])
def test_defaults_are_written_out(op, name):
    domain, kind = name.split("::")
    if "Linear" in op.name or op is FIX_NEURON:
        source = TensorProto.INT8 if "Deq" in op.name else TensorProto.FLOAT
        proto = custom_model(kind, [(source, None)], TensorProto.FLOAT, {}, domain=domain, constants=PAIR)
    else:
        proto = float_model(kind, {}, domain=domain)
    model = ir.from_proto(proto)
    make_runnable(model)
    assert {name: attribute.value for name, attribute in model.graph[0].attributes.items()} == op.defaults


def fix_neuron(attributes, zero):
    scale, zero_point = numpy_helper.from_array(np.array(0.25, np.float32), "s"), numpy_helper.from_array(zero, "z")
    floats = [(TensorProto.FLOAT, None)]
    constants = [scale, zero_point]
    return custom_model("FixNeuron", floats, TensorProto.FLOAT, attributes, domain=CONTRIB_DOMAIN, constants=constants)


def test_what_the_node_says_stays():
    model = ir.from_proto(float_model("MXQuantizeDequantize", {"element_dtype": "fp4_e2m1", "axis": 0}))
    make_runnable(model)
    attributes = {name: attribute.value for name, attribute in model.graph[0].attributes.items()}
    assert attributes == {"element_dtype": "fp4_e2m1", "axis": 0, "block_size": 32, "rounding_mode": 0}


def test_a_model_of_another_tool_runs_afterwards(rng):
    extensions()
    model = ir.from_proto(float_model("BFPFixNeuron", {"rounding_mode": 1}, domain=OLD_DOMAIN))
    make_runnable(model)
    x = rng.normal(size=(3, 40)).astype(np.float32)
    expected = round_to_block_float(x, BFP16.__class__(name="x", rounding=Rounding.HALF_UP), 1)
    assert_same_bits(open_session(model).run(None, feeds_of(x))[0], expected)


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (float_model("ExtendedLSTM", {}), "not among the operators that vqonnx runs"),
        (float_model("BFPQuantizeDequantize", {"bit_width": 3}), "bit_width of a block format must be from 10 to 32"),
        (float_model("MXQuantizeDequantize", {"axis": 2}, ["a", 3]), "input of rank 2 has no axis 2"),
        (float_model("ExtendedQuantizeLinear", {}), "it has 1 inputs, not 3"),
        (
            custom_model("MXQuantizeDequantize", [(TensorProto.FLOAT16, None)], TensorProto.FLOAT16, {}),
            "of type FLOAT16. Write float16 and bfloat16 as pairs of Cast",
        ),
        (
            custom_model(
                "ExtendedQuantizeLinear",
                [(TensorProto.FLOAT, None), (TensorProto.FLOAT, None), (TensorProto.BFLOAT16, None)],
                TensorProto.BFLOAT16,
                {},
            ),
            "of type BFLOAT16",
        ),
        (fix_neuron({"bit_width": "1"}, np.int8(0)), "bit_width 1 is not from 2 to 32"),
        (fix_neuron({"pos": "2.5"}, np.int8(0)), "pos '2.5' is no whole number"),
        (fix_neuron({}, np.int16(0)), "input 'z' of type INT16"),
    ],
)
def test_nodes_that_cannot_run_are_refused(proto, reason):
    with pytest.raises(UnsupportedModelError, match=reason) as caught:
        make_runnable(ir.from_proto(proto))
    assert caught.value.node == "custom"


def test_other_operators_of_the_domain_are_those_of_onnxruntime_extensions():
    proto = float_model("StringUpper", {}, domain=CONTRIB_DOMAIN)
    make_runnable(ir.from_proto(proto))


def test_a_tensor_of_rank_one_may_have_any_axis():
    model = ir.from_proto(float_model("MXQuantizeDequantize", {"axis": 1}, ["a"]))
    make_runnable(model)
    assert model.graph[0].attributes["block_size"].value == MXINT8.block_size
