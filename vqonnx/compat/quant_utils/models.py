"""Metadata, opsets and shapes of models."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import ModelProto

from vqonnx.core.target import Target
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.quantizers.opset import needed_opset
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.types import QuantType
from vqonnx.targets.onnxruntime import ONNXRUNTIME
from vqonnx.transforms.opset import upgrade_opset
from vqonnx.transforms.shapes import infer_shapes

_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")
_INFERRED = ("onnx.infer", "onnxruntime.quant")
_TARGET: Target = ONNXRUNTIME
_LEAST_OPSET, _FUSED_OPSET = 10, 11


def generate_identified_filename(filename: Path, identifier: str) -> Path:
    """The path with ``identifier`` behind the file's stem."""
    return filename.with_name(f"{filename.stem}{identifier}{filename.suffix}")


def model_has_external_data(model_path: Path) -> bool:
    """Whether a tensor of the main graph lies in another file."""
    model = onnx.load(str(model_path), load_external_data=False)
    return any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)


def optimize_model(model_path: Path, opt_model_path: Path) -> None:
    """Write the model as ONNX Runtime's basic optimizations leave it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(opt_model_path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(
        str(model_path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
    )


def add_pre_process_metadata(model: ModelProto) -> None:
    """Note in the model that it was preprocessed."""
    _note(model, *_PREPROCESSED)


def model_has_pre_process_metadata(model: ModelProto) -> bool:
    """Whether that is noted."""
    return _is_noted(model, *_PREPROCESSED)


def add_infer_metadata(model: ModelProto) -> None:
    """Note in the model that its shapes were inferred."""
    _note(model, *_INFERRED)


def model_has_infer_metadata(model: ModelProto) -> bool:
    """Whether that is noted."""
    return _is_noted(model, *_INFERRED)


def get_opset_version(model: ModelProto) -> int:
    """The version of the default domain.

    Raises:
        ValueError: The model imports it never or twice.
    """
    found = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if len(found) != 1:
        raise ValueError(f"a model imports the default domain once; this one does {len(found)} times")
    return int(found[0])


def update_opset_version(
    model: ModelProto,
    weight_type: Any,
    activation_type: Any | None = None,
    tensor_quant_overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    block_size: int = 0,
) -> ModelProto:
    """The model with the opset that its types need; the same object where that is so already.

    Args:
        model: Any model.
        weight_type: A ``QuantType``, or its number in ``onnx.TensorProto``.
        activation_type: The same of activations.
        tensor_quant_overrides: Types of single tensors.
        block_size: Size of blocks, which need opset 21.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
    """
    options = QuantizerOptions.of(
        target=_TARGET,
        weight_type=_quant_type(weight_type),
        activation_type=None if activation_type is None else _quant_type(activation_type),
        extra_options={"TensorQuantOverrides": tensor_quant_overrides or {}, "BlockSize": block_size},
    )
    graph = load(model)
    wanted, present = needed_opset(graph, options), get_opset_version(model)
    wanted = max(wanted, _FUSED_OPSET) if present < _LEAST_OPSET else wanted
    if present >= wanted:
        return model
    upgrade_opset(graph, wanted)
    infer_shapes(graph)
    return to_proto(graph)


def _quant_type(given: Any) -> QuantType:
    if not isinstance(given, int):
        return QuantType.of(given)
    found = [member for member in QuantType if member.tensor_type == given]
    if not found:
        raise UnsupportedModelError(f"{given} is no element type of quantization")
    return found[0]


def load_model_with_shape_infer(model_path: str | PathLike[str]) -> ModelProto:
    """The model with its tensors inside, inferred shapes and a note of that; its folder stays as it is."""
    return _inferred(load(model_path))


def save_and_reload_model_with_shape_infer(model: ModelProto) -> ModelProto:
    """The same of a model in memory, which stays as it is."""
    return _inferred(load(model))


def _inferred(model: ir.Model) -> ModelProto:
    infer_shapes(model)
    found = to_proto(model)
    add_infer_metadata(found)
    return found


def _note(model: ModelProto, key: str, value: str) -> None:
    known = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {key: value, **known})


def _is_noted(model: ModelProto, key: str, value: str) -> bool:
    return any((prop.key, prop.value) == (key, value) for prop in model.metadata_props)
