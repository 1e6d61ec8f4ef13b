"""What vqonnx does for an algorithm configuration, its own or onnxruntime's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vqonnx.algorithms.base import find_algorithm
from vqonnx.calibration.readers import Reader
from vqonnx.errors import OptionError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An algorithm with all that it is given.

    Attributes:
        algorithm: Its name in vqonnx.
        options: Its options.
        reader: Samples to learn from.
        ratios: With Neural Compressor's rounding: factors on ranges, by the weight's name. None for vqonnx's own.
    """

    algorithm: str
    options: Mapping[str, object] = field(default_factory=dict)
    reader: Reader | None = None
    ratios: Mapping[str, float] | None = None


def recipe_of(config: Any) -> Recipe:
    """The recipe for a configuration.

    Args:
        config: A ``WeightOnlyQuantConfig``, or onnxruntime's own: what counts are its attributes.

    Raises:
        OptionError: The algorithm is not known, or a parameter asks for what there is not.
    """
    name = getattr(config, "algorithm", None)
    if not isinstance(name, str):
        raise OptionError(
            f"algo_config: {config!r} is no configuration; pass a DefaultWeightOnlyQuantConfig or one of its kind.",
            option="algo_config",
        )
    return _RECIPES[name](config) if name in _RECIPES else Recipe(algorithm=find_algorithm(name).name)


def _default(config: Any) -> Recipe:
    return Recipe(algorithm="rtn")


def _rtn(config: Any) -> Recipe:
    return Recipe(algorithm="rtn", ratios=config.ratios)


def _k_quant(config: Any) -> Recipe:
    if config.ratios:
        raise OptionError("ratios: k_quant chooses the ranges of blocks itself; leave it out.", option="ratios")
    return Recipe(algorithm="scale_search", options={"favour": 1.0})


def _hqq(config: Any) -> Recipe:
    if config.axis != 1:
        raise OptionError(
            f"axis must be 1, got {config.axis}: the blocks of MatMulNBits lie along the inputs of a weight.",
            option="axis",
        )
    return Recipe(algorithm="hqq")


def _gptq(config: Any) -> Recipe:
    if not config.perchannel:
        raise OptionError(
            "perchannel must be True: MatMulNBits has a scale for each output channel.", option="perchannel"
        )
    if config.block_size < 1:
        raise OptionError(f"block_size of GPTQ must be at least 1, got {config.block_size}", option="block_size")
    options = {
        "damping": config.percdamp,
        "order_by_activation": config.actorder,
        "grid": "search" if config.mse else "min-max",
    }
    return Recipe(algorithm="gptq", options=options, reader=_reader(config))


def _awq(config: Any) -> Recipe:
    return _scaled_and_clipped(config, scale=config.enable_auto_scale, clip=config.enable_mse_search)


def _nvidia_awq(config: Any) -> Recipe:
    for name, default in (("tokenizer_dir", None), ("dataset_name", "cnn"), ("cache_dir", "./cache")):
        if getattr(config, name, default) != default:
            raise OptionError(
                f"{name}: nothing is downloaded or tokenized here. Pass calibration_data_reader= with feeds of token "
                "ids instead.",
                option=name,
            )
    known = {"awq_lite": (True, False), "awq_clip": (False, True), "awq_full": (True, True)}
    method = config.calibration_method
    if method not in known:
        raise OptionError(
            f"calibration_method: {method!r} is none of {', '.join(map(repr, known))}{nearest(str(method), known)}.",
            option="calibration_method",
        )
    scale, clip = known[method]
    return _scaled_and_clipped(config, scale=scale, clip=clip)


def _scaled_and_clipped(config: Any, *, scale: bool, clip: bool) -> Recipe:
    options = {"clip": clip} if scale else {"clip": clip, "alphas": 1}
    return Recipe(algorithm="awq", options=options, reader=_reader(config))


def _reader(config: Any) -> Reader:
    reader: Reader | None = config.calibration_data_reader
    if reader is None:
        raise OptionError(
            f"calibration_data_reader: {config.algorithm} learns from samples, and there are none. Pass a "
            "CalibrationDataReader, a list of feeds or a folder of samples.",
            option="calibration_data_reader",
        )
    return reader


_RECIPES: Mapping[str, Callable[[Any], Recipe]] = {
    "AWQ": _awq,
    "DEFAULT": _default,
    "GPTQ": _gptq,
    "HQQ": _hqq,
    "RTN": _rtn,
    "k_quant": _k_quant,
    "nvidia_awq": _nvidia_awq,
}
