"""What each configuration means, and which of its parameters are refused."""

from types import SimpleNamespace

import pytest

from vqonnx.compat import matmul_nbits_quantizer as ours
from vqonnx.compat.matmul_nbits_quantizer.recipes import Recipe, recipe_of
from vqonnx.errors import OptionError

DATA = [{"x": 0}]


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        (ours.DefaultWeightOnlyQuantConfig(), Recipe(algorithm="rtn")),
        (ours.RTNWeightOnlyQuantConfig(), Recipe(algorithm="rtn", ratios={})),
        (ours.RTNWeightOnlyQuantConfig({"w": 0.9}), Recipe(algorithm="rtn", ratios={"w": 0.9})),
        (ours.KQuantWeightOnlyQuantConfig(), Recipe(algorithm="scale_search", options={"favour": 1.0})),
        (ours.HQQWeightOnlyQuantConfig(), Recipe(algorithm="hqq")),
        (
            ours.GPTQWeightOnlyQuantConfig(DATA),
            Recipe(
                algorithm="gptq",
                options={"damping": 0.01, "order_by_activation": False, "grid": "min-max"},
                reader=DATA,
            ),
        ),
        (
            ours.GPTQWeightOnlyQuantConfig(DATA, 0.1, 64, actorder=True, mse=True),
            Recipe(
                algorithm="gptq", options={"damping": 0.1, "order_by_activation": True, "grid": "search"}, reader=DATA
            ),
        ),
        (ours.AWQWeightOnlyQuantConfig(DATA), Recipe(algorithm="awq", options={"clip": True}, reader=DATA)),
        (
            ours.AWQWeightOnlyQuantConfig(DATA, enable_auto_scale=False),
            Recipe(algorithm="awq", options={"clip": True, "alphas": 1}, reader=DATA),
        ),
        (
            ours.NVAWQWeightOnlyQuantConfig(calibration_data_reader=DATA),
            Recipe(algorithm="awq", options={"clip": False}, reader=DATA),
        ),
        (
            ours.NVAWQWeightOnlyQuantConfig(calibration_method="awq_clip", calibration_data_reader=DATA),
            Recipe(algorithm="awq", options={"clip": True, "alphas": 1}, reader=DATA),
        ),
        (
            ours.NVAWQWeightOnlyQuantConfig(calibration_method="awq_full", calibration_data_reader=DATA),
            Recipe(algorithm="awq", options={"clip": True}, reader=DATA),
        ),
        (ours.WeightOnlyQuantConfig("clip_search"), Recipe(algorithm="clip_search")),
        (ours.WeightOnlyQuantConfig("kquant"), Recipe(algorithm="scale_search")),
    ],
)
def test_configurations_mean(config, recipe):
    assert recipe_of(config) == recipe


@pytest.mark.parametrize(
    ("config", "option", "named"),
    [
        (ours.KQuantWeightOnlyQuantConfig({"w": 0.9}), "ratios", "k_quant chooses the ranges"),
        (ours.HQQWeightOnlyQuantConfig(axis=0), "axis", "axis must be 1, got 0"),
        (ours.GPTQWeightOnlyQuantConfig(DATA, perchannel=False), "perchannel", "must be True"),
        (ours.GPTQWeightOnlyQuantConfig(DATA, block_size=0), "block_size", "must be at least 1, got 0"),
        (ours.GPTQWeightOnlyQuantConfig(), "calibration_data_reader", "GPTQ learns from samples"),
        (ours.AWQWeightOnlyQuantConfig(), "calibration_data_reader", "AWQ learns from samples"),
        (ours.NVAWQWeightOnlyQuantConfig(), "calibration_data_reader", "nvidia_awq learns from samples"),
        (ours.NVAWQWeightOnlyQuantConfig("tokenizer/"), "tokenizer_dir", "nothing is downloaded or tokenized"),
        (ours.NVAWQWeightOnlyQuantConfig(dataset_name="pile"), "dataset_name", "nothing is downloaded"),
        (ours.NVAWQWeightOnlyQuantConfig(cache_dir="here"), "cache_dir", "nothing is downloaded"),
        (
            ours.NVAWQWeightOnlyQuantConfig(calibration_method="awq_lit", calibration_data_reader=DATA),
            "calibration_method",
            "did you mean 'awq_lite'",
        ),
        (ours.WeightOnlyQuantConfig("gptx"), "algorithm", "'gptx' is not known"),
        (SimpleNamespace(bits=4), "algo_config", "is no configuration"),
    ],
)
def test_parameters_without_a_meaning_are_refused_before_the_model_is_read(config, option, named):
    with pytest.raises(OptionError, match=named) as caught:
        ours.MatMulNBitsQuantizer("missing.onnx", algo_config=config)
    assert caught.value.option == option
