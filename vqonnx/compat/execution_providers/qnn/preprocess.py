"""A model in the form that the QNN execution provider takes most of."""

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from vqonnx.compat.external_data import ExternalData, save_model
from vqonnx.compat.shape_inference import optimized
from vqonnx.errors import OptionError
from vqonnx.graph import atomic
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import ModelSource, load
from vqonnx.graph.names import NameAllocator
from vqonnx.transforms.border_layout import channels_last_at_border
from vqonnx.transforms.constants import drop_constant_inputs
from vqonnx.transforms.fixed_shapes import fix_shapes
from vqonnx.transforms.fuse_gelu import fuse_gelus
from vqonnx.transforms.fuse_l2_norm import fuse_l2_norms
from vqonnx.transforms.fuse_layer_norm import LAYER_NORM_OPSET, fuse_layer_norms
from vqonnx.transforms.fuse_space_to_depth import fuse_space_to_depths

_UNNAMED = "qnn_preproc_node"


def qnn_preprocess_model(
    model_input: ModelSource,
    model_output: str | os.PathLike[str],
    exclude_initializer_from_input: bool = False,
    fuse_layernorm: bool = False,
    save_as_external_data: bool = False,
    all_tensors_to_one_file: bool = False,
    external_data_location: str | None = None,
    external_data_size_threshold: int = 1024,
    external_data_convert_attribute: bool = False,
    inputs_to_make_channel_last: Sequence[str] | None = None,
    outputs_to_make_channel_last: Sequence[str] | None = None,
    dynamic_input_shapes: Sequence[tuple[str, str]] | None = None,
) -> bool:
    """Fuse what is written out (Gelu, LpNormalization, SpaceToDepth), simplify, and name every node.

    Args:
        model_input: A path or a ModelProto; neither is changed.
        model_output: Where the result goes, if there is one.
        exclude_initializer_from_input: Make inputs with a value constants.
        fuse_layernorm: Fuse LayerNormalization too, from opset 17 on.
        save_as_external_data: Put tensors into files beside the model.
        all_tensors_to_one_file: One file, not one for each tensor.
        external_data_location: That file, below the model's folder.
        external_data_size_threshold: Bytes from which on a tensor goes there.
        external_data_convert_attribute: Without effect: ONNX Runtime takes no external tensors in attributes.
        inputs_to_make_channel_last: Inputs [N, C, ...] to be fed as [N, ..., C].
        outputs_to_make_channel_last: Outputs that are fetched so.
        dynamic_input_shapes: Inputs and their shapes, as ``("x", "1,3,224,224")``.

    Returns:
        Whether anything but ONNX Runtime's own rewrites was done; only then is a model written.

    Raises:
        OptionError: An input or output is unknown or has no channels, or a shape does not fit; also a ValueError.
        ModelError: The model cannot be read.
        VerificationError: ONNX Runtime refuses it.
        OutputError: The result cannot be written.
    """
    atomic.check_writable(model_output)
    source = load(model_input)
    infer_missing(source)
    changes = fuse_space_to_depths(source)  # before ONNX Runtime merges its Reshapes with others
    with tempfile.TemporaryDirectory(prefix="vqonnx-", ignore_cleanup_errors=True) as folder:
        model = optimized(source, Path(folder))
        infer_missing(model)
        changes += fix_shapes(model, _shapes(dynamic_input_shapes)) if dynamic_input_shapes else 0
        changes += drop_constant_inputs(model) if exclude_initializer_from_input else 0
        changes += fuse_gelus(model, contrib=True) + fuse_l2_norms(model)
        changes += _fuse_layer_norms(model) if fuse_layernorm else 0
        changes += _channels_last(model, inputs_to_make_channel_last, outputs_to_make_channel_last)
        changes += _name_nodes(model)
        if changes:
            external = ExternalData(
                one_file=all_tensors_to_one_file,
                location=external_data_location,
                threshold=external_data_size_threshold,
            )
            save_model(model, model_output, external if save_as_external_data else None)
    return bool(changes)


def _shapes(given: Sequence[tuple[str, str]]) -> Mapping[str, tuple[int, ...]]:
    shapes = {}
    for name, text in given:
        try:
            shapes[name] = tuple(int(size) for size in text.split(","))
        except ValueError as error:
            raise OptionError(
                f"the shape of {name!r} must be numbers with commas between, such as '1,3,224,224', not {text!r}",
                option="dynamic_input_shapes",
            ) from error
    return shapes


def _fuse_layer_norms(model: ir.Model) -> int:
    opset = model.opset_imports.get("", 0)
    if opset < LAYER_NORM_OPSET:
        warnings.warn(
            f"no LayerNormalization was fused: it came with opset {LAYER_NORM_OPSET}, and the model has {opset}. "
            "Export it again, or raise it with onnx.version_converter.",
            RuntimeWarning,
            stacklevel=3,
        )
    return fuse_layer_norms(model)


def _channels_last(model: ir.Model, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> int:
    for kind, names, values in (("input", inputs, model.graph.inputs), ("output", outputs, model.graph.outputs)):
        known = {value.name for value in values}
        for name in names or ():
            if name not in known:
                raise OptionError(f"{name!r} is not a graph {kind}; these are: {sorted(map(str, known))}", option=kind)
    names = [*(inputs or ()), *(outputs or ())]
    return channels_last_at_border(model, names) if names else 0


def _name_nodes(model: ir.Model) -> int:
    """QNN's tools, and mixed precision, know nodes by their names."""
    names = NameAllocator.of(model)
    unnamed = [node for node in model.graph if not node.name]
    for node in unnamed:
        node.name = names.unique(_UNNAMED)
    return sum(node.op_type != "Constant" for node in unnamed)
