"""A calibrator by the name of its method."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vqonnx.compat.calibrate.base import CalibraterBase
from vqonnx.compat.calibrate.histogram import DistributionCalibrater, EntropyCalibrater, PercentileCalibrater
from vqonnx.compat.calibrate.min_max import MinMaxCalibrater
from vqonnx.errors import OptionError, nearest
from vqonnx.quantizers.types import CalibrationMethod

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_MAKERS: Mapping[CalibrationMethod, tuple[Callable[..., CalibraterBase], Mapping[str, Any]]] = {
    CalibrationMethod.MinMax: (
        MinMaxCalibrater,
        {
            "symmetric": False,
            "moving_average": False,
            "averaging_constant": 0.01,
            "max_intermediate_outputs": None,
            "per_channel": False,
        },
    ),
    CalibrationMethod.Entropy: (EntropyCalibrater, {"num_bins": 128, "num_quantized_bins": 128, "symmetric": False}),
    CalibrationMethod.Percentile: (PercentileCalibrater, {"num_bins": 2048, "percentile": 99.999, "symmetric": True}),
    CalibrationMethod.Distribution: (DistributionCalibrater, {"num_bins": 2048, "scenario": "same"}),
}
"""The class of each method, and its options with their defaults."""


def create_calibrator(
    model: str | Path,
    op_types_to_calibrate: Sequence[str] | None = None,
    augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    use_external_data_format: bool = False,
    providers: Sequence[str] | None = None,
    extra_options: Mapping[str, Any] = _NO_OPTIONS,
) -> CalibraterBase:
    """A calibrator that is ready for ``collect_data``; its augmented model is written.

    Args:
        model: Path of the float model.
        op_types_to_calibrate: Operators whose inputs and outputs are measured; all by default.
        augmented_model_path: Where the model with further outputs goes.
        calibrate_method: How ranges are chosen; a member of onnxruntime's enumeration does too.
        use_external_data_format: Put the weights of that model into a file of their own.
        providers: ONNX Runtime's execution providers; the CPU by default.
        extra_options: Options of the calibrator's class. Those that only other methods have are left aside.

    Raises:
        OptionError: The method is not known, or no calibrator has an option of that name; also a ValueError.
        DependencyError: This onnxruntime lacks a provider.
        OutputError: The augmented model cannot be written.
    """
    method = CalibrationMethod.of(calibrate_method)
    if method not in _MAKERS:
        names = ", ".join(known.name for known in _MAKERS)
        raise OptionError(
            f"there is no calibrator for {method.name}; there are ones for {names}. quantize_static knows it.",
            option="calibrate_method",
        )
    known = {option for _, defaults in _MAKERS.values() for option in defaults}
    for option in extra_options:
        if option not in known:
            raise OptionError(
                f"no calibrator has an option {option!r}{nearest(option, known)}; they have {', '.join(sorted(known))}",
                option=option,
            )
    make, defaults = _MAKERS[method]
    options = {option: extra_options.get(option, default) for option, default in defaults.items()}
    calibrator = make(
        model, op_types_to_calibrate, augmented_model_path, use_external_data_format=use_external_data_format, **options
    )
    if providers:
        calibrator.set_execution_providers(providers)
    calibrator.augment_graph()
    return calibrator
