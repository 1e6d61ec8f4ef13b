"""What stands both in the quantizer and in its configuration, and arguments that make no sense."""

import pytest

from vqonnx.compat import matmul_nbits_quantizer as ours
from vqonnx.compat.matmul_nbits_quantizer.settings import Settings, node_overrides
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import WeightForm
from vqonnx.errors import OptionError
from vqonnx.planning.weights.rules import LayerOverride

QDQ = ours.QuantFormat.QDQ


def joined(config, **arguments):
    quantizer = ours.MatMulNBitsQuantizer("unread.onnx", algo_config=config, **arguments)
    return Settings.of(quantizer).joined(Settings.of(config))


def test_defaults_are_onnxruntimes():
    assert joined(ours.DefaultWeightOnlyQuantConfig()) == Settings()
    assert Settings().spec == BlockSpec(bits=4, block_size=128, symmetric=False)
    assert Settings().form is WeightForm.MATMUL_NBITS
    assert Settings(quant_format=QDQ).form is WeightForm.QDQ


@pytest.mark.parametrize(
    ("config", "arguments", "expected"),
    [
        (ours.DefaultWeightOnlyQuantConfig(block_size=32, bits=8), {}, {"block_size": 32, "bits": 8}),
        (ours.DefaultWeightOnlyQuantConfig(), {"block_size": 32, "bits": 8}, {"block_size": 32, "bits": 8}),
        (ours.DefaultWeightOnlyQuantConfig(block_size=32), {"block_size": 32}, {"block_size": 32}),
        (ours.HQQWeightOnlyQuantConfig(block_size=64), {"bits": 8}, {"block_size": 64, "bits": 8}),
        (ours.RTNWeightOnlyQuantConfig(), {"is_symmetric": True, "bits": 8}, {"is_symmetric": True, "bits": 8}),
        (ours.GPTQWeightOnlyQuantConfig([1], block_size=64), {"block_size": 32}, {"block_size": 32}),
        (ours.RTNWeightOnlyQuantConfig(), {"quant_format": QDQ}, {"quant_format": QDQ}),
        (ours.RTNWeightOnlyQuantConfig(quant_format=QDQ), {}, {"quant_format": QDQ}),
        (ours.DefaultWeightOnlyQuantConfig(accuracy_level=4), {"accuracy_level": 0}, {"accuracy_level": 4}),
        (
            ours.RTNWeightOnlyQuantConfig(op_types_to_quantize=("MatMul", "Gather")),
            {"op_types_to_quantize": ["Gather", "MatMul"]},
            {"op_types_to_quantize": ("Gather", "MatMul")},
        ),
        (
            ours.NVAWQWeightOnlyQuantConfig(calibration_data_reader=[1]),
            {},
            {"quant_format": QDQ, "is_symmetric": True},
        ),
    ],
)
def test_what_is_given_anywhere_counts(config, arguments, expected):
    assert joined(config, **arguments) == Settings(**expected)


@pytest.mark.parametrize(
    ("config", "arguments", "named"),
    [
        (
            ours.HQQWeightOnlyQuantConfig(block_size=64),
            {"block_size": 32},
            "block_size: .* given 32, .* 64",
        ),
        (ours.DefaultWeightOnlyQuantConfig(bits=8), {"bits": 2}, "bits: .* Give it once"),
        (ours.DefaultWeightOnlyQuantConfig(accuracy_level=1), {"accuracy_level": 4}, "accuracy_level"),
        (
            ours.RTNWeightOnlyQuantConfig(op_types_to_quantize=("Gather",)),
            {"op_types_to_quantize": ("Gemm",)},
            "op_types_to_quantize",
        ),
    ],
)
def test_contradictions_are_refused(config, arguments, named):
    with pytest.raises(OptionError, match=named):
        ours.MatMulNBitsQuantizer("unread.onnx", algo_config=config, **arguments)


@pytest.mark.parametrize(
    ("arguments", "option", "named"),
    [
        ({"bits": 3}, "bits", r"bits must be one of \(2, 4, 8\), got 3"),
        ({"block_size": 48}, "block_size", "a power of two from 16 to 256"),
        ({"block_size": 512}, "block_size", "a power of two from 16 to 256"),
        ({"bits": 2, "block_size": 16}, "block_size", "no fast kernel for 2-bit codes in blocks of 16"),
        ({"accuracy_level": 5}, "accuracy_level", "must lie in 0..4, got 5"),
        ({"channel_wised_quantize": True}, "channel_wised_quantize", "quant_format=QuantFormat.QDQ"),
        ({"quant_format": "QOp"}, None, "is no QuantFormat"),
        ({"op_types_to_quantize": ["Gathr"]}, "op_types_to_quantize", "did you mean 'Gather'"),
        ({"op_types_to_quantize": ["LSTM"], "nodes_to_include": ["a"]}, "op_types_to_quantize", "no packed form"),
        ({"quant_axes": (("Gather", 0),)}, "quant_axes", "axis of Gather must be 1, got 0: blocks lie along the rows"),
        ({"quant_axes": {"MatMul": 1}}, "quant_axes", "axis of MatMul must be 0, got 1: blocks lie along the inputs"),
        ({"quant_axes": {"Matmul": 0}}, "quant_axes", "did you mean 'MatMul'"),
        (
            {"algo_config": ours.DefaultWeightOnlyQuantConfig(quant_axes=(("Gather", 0),))},
            "quant_axes",
            "axis of Gather must be 1",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_the_model_is_read(arguments, option, named):
    with pytest.raises(OptionError, match=named) as caught:
        ours.MatMulNBitsQuantizer("unread.onnx", **arguments)
    assert caught.value.option == option


def test_axes_may_be_counted_from_the_end():
    ours.MatMulNBitsQuantizer("unread.onnx", quant_axes=(("MatMul", -2), ("Gather", -1)))


def test_settings_of_nodes_become_overrides():
    found = node_overrides({"a": {"bits": 8, "group_size": 16, "scheme": "sym"}, "b": {"scheme": "asym"}, "c": {}})
    assert found == {
        "a": LayerOverride(bits=8, block_size=16, symmetric=True),
        "b": LayerOverride(symmetric=False),
        "c": LayerOverride(),
    }
    assert node_overrides(None) == {}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bit": 8}, "'a': 'bit' is not known .*did you mean 'bits'"),
        ({"bits": "8"}, "bits must be of type int, got '8'"),
        ({"scheme": "full"}, "scheme: 'full' is none of"),
        ({"bits": 3}, "bits must be one of"),
    ],
)
def test_settings_of_nodes_that_make_no_sense_are_refused(settings, named):
    config = ours.RTNWeightOnlyQuantConfig(customized_weight_config={"a": settings})
    with pytest.raises(OptionError, match=named):
        ours.MatMulNBitsQuantizer("unread.onnx", algo_config=config)
