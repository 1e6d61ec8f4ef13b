"""Static quantization with ranges from a file that onnxruntime's quantizer reads and writes too."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from vqonnx.calibration.model import model_digest
from vqonnx.calibration.readers import Reader
from vqonnx.compat.base_quantizer import BaseQuantizer
from vqonnx.compat.calibrate import TensorsData, create_calibrator, load_origin, load_tensors_data, save_tensors_data
from vqonnx.core.target import Form
from vqonnx.errors import CacheError, OptionError
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.quantizers.base import BaseQuantizer as Decider
from vqonnx.quantizers.onnx_quantizer import ONNXQuantizer
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat

_log = logging.getLogger(__name__)
_CALIBRATION = {
    "CalibTensorRangeSymmetric": "symmetric",
    "CalibMovingAverage": "moving_average",
    "CalibMovingAverageConstant": "averaging_constant",
    "CalibMaxIntermediateOutputs": "max_intermediate_outputs",
    "CalibPercentile": "percentile",
}


class _IntegerQuantizer(BaseQuantizer):
    decides: ClassVar[type[Decider]] = ONNXQuantizer


def ranges_at(
    path: str | PathLike[str],
    model: ModelSource,
    reader: Reader | None,
    method: CalibrationMethod,
    providers: Sequence[str] | None,
    extra_options: Mapping[str, object],
) -> TensorsData:
    """The ranges in a file; where it is not there yet, those of the samples, which are written to it.

    The file tells which model it was made of, where it was written here; those of onnxruntime do not. Ranges of a model
    after SmoothQuant are measured anew. Nothing tells whether they are of these samples: delete the file when these
    change, or use ``vqonnx.quantize_static``, whose cache knows them.

    Raises:
        OptionError: The file was made by another method, is a folder, or there are neither file nor samples; or
            SmoothQuant is asked for, which changes the model that ranges are of.
        CacheError: The file is damaged, or was made of another model.
    """
    if extra_options.get("SmoothQuant"):
        raise OptionError(
            "calibration_cache_path: SmoothQuant needs the samples in each run; leave one of them out.",
            option="calibration_cache_path",
        )
    digest = model_digest(load(model))
    if Path(path).exists() and not _is_smoothed(path):
        return _loaded(path, method, digest)
    if reader is None:
        raise OptionError(
            f"calibration_data_reader: there are no ranges at {str(path)!r} yet, so samples are needed.",
            option="calibration_data_reader",
        )
    chosen = {name: extra_options[key] for key, name in _CALIBRATION.items() if key in extra_options}
    with tempfile.TemporaryDirectory(prefix="vqonnx-") as folder:
        source = Path(folder) / "model.onnx"
        save(load(model), source)
        calibrator = create_calibrator(
            source,
            augmented_model_path=Path(folder) / "augmented.onnx",
            calibrate_method=method,
            providers=providers,
            extra_options=chosen,
        )
        calibrator.collect_data(reader)
        found = calibrator.compute_data()
    save_tensors_data(found, path, model=digest)
    return found


def _is_smoothed(path: str | PathLike[str]) -> bool:
    smoothed = load_origin(path).smooth_quant
    if smoothed:
        _log.warning(
            "%r holds ranges of a model with smooth_quant, which this one is without: it is written anew", path
        )
    return smoothed


def _loaded(path: str | PathLike[str], method: CalibrationMethod, digest: str) -> TensorsData:
    found, made_of = load_tensors_data(path), load_origin(path).model
    if made_of not in (None, digest):
        raise CacheError(
            f"calibration cache {str(path)!r} was made of another model, or of other weights; delete it, or pass "
            "another path, to measure again",
            path=str(path),
        )
    if CalibrationMethod.of(found.calibration_method) is not CalibrationMethod.of(method):
        raise OptionError(
            f"calibration_cache_path: {str(path)!r} was made by {found.calibration_method}, and calibrate_method is "
            f"{method}. Delete it, or name its method.",
            option="calibration_cache_path",
        )
    return found


def quantize_with(
    ranges: TensorsData,
    model: ModelSource,
    output: str | PathLike[str],
    quant_format: QuantFormat,
    external: bool | None,
    arguments: Mapping[str, Any],
) -> None:
    """Quantize with known ranges, and write the result.

    Raises:
        OptionError: A name matches nothing, or an activation has no range.
        OutputError: The output cannot be written.
    """
    form = QuantFormat.of(quant_format).form
    quantizer = (BaseQuantizer if form is Form.QDQ else _IntegerQuantizer)(model, tensors_range=ranges, **arguments)
    save(quantizer.decider.result(), Path(output), external=external)
