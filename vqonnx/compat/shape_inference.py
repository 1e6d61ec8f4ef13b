"""onnxruntime.quantization.shape_inference: shapes and basic rewrites before quantization.

``vqonnx.quantize_static`` needs none of it: it prepares models itself. This is for programs that keep the result.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from vqonnx.compat.external_data import ExternalData, save_model
from vqonnx.errors import DependencyError, ModelError, OptionError, VerificationError
from vqonnx.graph import atomic
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import EXTERNAL_ABOVE, ModelSource, load
from vqonnx.graph.proto import initialized_values
from vqonnx.graph.versions import least_ir_version
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session
from vqonnx.transforms.opset import upgrade_opset
from vqonnx.transforms.symbolic import SymbolicOptions, infer_symbolic

_LEAST_OPSET = 11
_RESIZE_OPSET = 10
_DATA_KEY = "session.optimized_model_external_initializers_file_name"
_TAG = ("onnx.quant.pre_process", "onnxruntime.quant")


def quant_pre_process(
    input_model: ModelSource | None = None,
    output_model_path: str | os.PathLike[str] | None = None,
    skip_optimization: bool = False,
    skip_onnx_shape: bool = False,
    skip_symbolic_shape: bool = False,
    auto_merge: bool = False,
    int_max: int = 2**31 - 1,
    guess_output_rank: bool = False,
    verbose: int = 0,
    save_as_external_data: bool = False,
    all_tensors_to_one_file: bool = False,
    external_data_location: str | None = None,
    external_data_size_threshold: int = 1024,
    **deprecated_kwargs: Any,
) -> None:
    """Write a model of opset 11 or more, with ONNX Runtime's basic rewrites, whose values have types and shapes.

    A step that fails changes nothing, and a warning tells why; the others are done all the same. Models larger than a
    message go through every step.

    Args:
        input_model: A path or a ModelProto; neither is changed.
        output_model_path: Where the result goes.
        skip_optimization: Leave the graph as it is.
        skip_onnx_shape: Leave out ONNX's shape inference.
        skip_symbolic_shape: Leave out the symbolic one.
        auto_merge: See ``SymbolicOptions``, as for the next three.
        int_max: See there.
        guess_output_rank: See there.
        verbose: See there.
        save_as_external_data: Put tensors into files beside the model.
        all_tensors_to_one_file: One file, not one for each tensor.
        external_data_location: That file, below the model's folder.
        external_data_size_threshold: Bytes from which on a tensor goes there.
        **deprecated_kwargs: ``input_model_path``, the earlier name of ``input_model``.

    Raises:
        OptionError: No model or no output is given; also a ValueError.
        TypeError: There is no such argument.
        UnsupportedModelError: The opset cannot be raised.
        ModelError: The model cannot be read.
        OutputError: The result cannot be written.
    """
    source = deprecated_kwargs.pop("input_model_path", None) if input_model is None else input_model
    if deprecated_kwargs:
        raise TypeError(f"quant_pre_process() got an unexpected keyword argument {next(iter(deprecated_kwargs))!r}")
    if source is None or output_model_path is None:
        missing = "input_model" if source is None else "output_model_path"
        raise OptionError(f"quant_pre_process needs {missing}; pass a path", option=missing)
    atomic.check_writable(output_model_path)
    model = load(source)
    resize_upsamples(model)
    upgrade_opset(model, _LEAST_OPSET)
    with tempfile.TemporaryDirectory(prefix="vqonnx-", ignore_cleanup_errors=True) as folder:
        if not skip_symbolic_shape:
            options = SymbolicOptions(
                int_max=int_max, auto_merge=auto_merge, guess_output_rank=guess_output_rank, verbose=verbose
            )
            with _optional("skip_symbolic_shape"):
                infer_symbolic(model, options)
        if not skip_optimization:
            with _optional("skip_optimization"):
                model = optimized(model, Path(folder))
        if not skip_onnx_shape:
            with _optional("skip_onnx_shape"):
                infer_missing(model)
        model.metadata_props.setdefault(*_TAG)
        external = ExternalData(
            one_file=all_tensors_to_one_file,
            location=external_data_location,
            threshold=external_data_size_threshold,
        )
        save_model(model, output_model_path, external if save_as_external_data else None)


def optimized(model: ir.Model, folder: Path) -> ir.Model:
    """What ONNX Runtime's basic rewrites make of ``model``; its tensors may lie in ``folder``.

    Raises:
        DependencyError: onnxruntime is not installed.
        VerificationError: It refuses the model.
    """
    path = folder / "optimized.onnx"
    large = sum(tensor.nbytes for _, tensor in initialized_values(model)) > EXTERNAL_ABOVE
    model.ir_version = least_ir_version(model)  # exporters may be ahead of ONNX Runtime
    open_session(
        model,
        optimize="basic",
        optimized_path=path,
        options={_DATA_KEY: "optimized.data"} if large else {},
    )
    result = load(path)
    used = {node.domain for node in nodes(result)} | set(model.opset_imports)
    for domain in set(result.opset_imports) - used:  # ONNX Runtime imports all that it knows
        del result.opset_imports[domain]
    return result


def resize_upsamples(model: ir.Model) -> int:
    """Turn every Upsample into Resize, in place, raising the opset to 11; return how many there were.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
    """
    found = [node for node in nodes(model) if node.op_type == "Upsample" and not node.domain]
    if found and model.opset_imports.get("") == _RESIZE_OPSET:
        for node in found:  # the operator is gone there, and exporters name it still
            node.op_type = "Resize"
    if found:
        upgrade_opset(model, _LEAST_OPSET)
    return len(found)


@contextlib.contextmanager
def _optional(option: str) -> Iterator[None]:
    try:
        yield
    except (DependencyError, ModelError, VerificationError) as error:
        warnings.warn(f"left out: {error} Pass {option}=True to say so.", RuntimeWarning, stacklevel=4)
