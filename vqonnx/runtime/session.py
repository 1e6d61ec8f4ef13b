"""Sessions over a file or over a model in memory, of any size, without temporary copies of the weights."""

import collections
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
import onnx_ir as ir

from vqonnx.errors import OptionError, nearest
from vqonnx.graph import external, walk
from vqonnx.graph.domains import imported_domains
from vqonnx.graph.io import load
from vqonnx.graph.proto import initialized_values, lazy, serialized
from vqonnx.ops.register import CUSTOM_DOMAINS, register
from vqonnx.runtime.package import onnxruntime, require_providers, runtime_errors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INLINE_BELOW = 1 << 16
"""Bytes; smaller tensors travel inside the serialised model, larger ones are handed over where they lie."""

_FOLDER_KEY = "session.model_external_initializers_file_folder_path"
_LOG_FATAL_ONLY = 4  # errors come as exceptions, whose text carries what ORT would print


def open_session(
    model: ir.Model | Path,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int | None = None,
    optimize: bool | Literal["basic"] = True,
    optimized_path: Path | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> "InferenceSession":
    """An ONNX Runtime session over ``model``.

    A model in memory may be larger than a protobuf message: its mapped tensors are read by ORT from their
    files, its large arrays are used in place, and both live as long as the session. ``model`` is not changed.
    One that imports the domain of Vitis AI's custom operators gets them, on the CPU.

    Args:
        model: A file, or a model in memory.
        providers: Execution providers, most wanted first.
        threads: Threads inside one operator; None leaves it to ORT (all cores). Float sums depend on it.
        optimize: Let ORT rewrite the graph; ``"basic"``: only as any ORT understands, names of weights kept.
        optimized_path: Where ORT writes the graph that it really runs.
        options: Further session configuration entries, by ORT's keys.

    Raises:
        DependencyError: onnxruntime or a provider is not installed, or what runs custom operators.
        ModelError: The file is missing or cannot be parsed.
        VerificationError: ORT refuses the model.
    """
    runtime = onnxruntime()
    require_providers(providers)
    settings = runtime.SessionOptions()
    settings.log_severity_level = _LOG_FATAL_ONLY
    if threads is not None:
        settings.intra_op_num_threads = threads
    disabled: set[str] = set()
    if optimize is not True:
        levels = runtime.GraphOptimizationLevel
        settings.graph_optimization_level = levels.ORT_ENABLE_BASIC if optimize else levels.ORT_DISABLE_ALL
        disabled = {"ConstantSharing"}
    if optimized_path is not None:
        settings.optimized_model_filepath = str(optimized_path)
    for key, value in options.items():
        settings.add_session_config_entry(key, value)
    if not CUSTOM_DOMAINS.isdisjoint(imported_domains(model)):
        register(settings)
    path = str(model) if isinstance(model, Path) else None
    source: str | bytes
    values: dict[str, Any] = {}
    if isinstance(model, Path):
        source = str(model)
    else:
        source, values = _handed_over(model, settings)
    with runtime_errors(f"load {'the model' if path is None else f'model {path!r}'}", path=path):
        session = runtime.InferenceSession(source, settings, list(providers), disabled_optimizers=disabled)
    # ORT uses the memory of these arrays and does not own it.
    session.vqonnx_tensors = values
    return session


def run_session(session: "InferenceSession", names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
    """The outputs ``names`` (all if None) for a feed, safe to keep when the feed is gone.

    Before 1.25, ONNX Runtime returns an output that is a graph input as a view of the feed's memory, and holds no
    reference to it.
    """
    found: list[Any] = session.run(names, dict(feed))
    fed = [array for array in feed.values() if isinstance(array, np.ndarray)]
    return [one.copy() if any(np.may_share_memory(one, array) for array in fed) else one for one in found]


def as_fed(array: np.ndarray) -> Any:
    """An array as a session takes it: numpy knows no bfloat16, so that one goes in as ONNX Runtime's own value."""
    if array.dtype != ml_dtypes.bfloat16:
        return array
    bits = np.ascontiguousarray(array).view(np.uint16)
    return onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(ir.DataType.BFLOAT16))


def _handed_over(model: ir.Model, settings: Any) -> tuple[bytes, dict[str, Any]]:
    """The model without its large tensors, and these by name; ``settings`` learns where to find them."""
    plan = _divide(model)
    if plan.folder is not None:
        settings.add_session_config_entry(_FOLDER_KEY, plan.folder)
    content = serialized(model, plan.tensors)
    make = onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type
    values = {
        name: make(np.ascontiguousarray(_plain(tensor)), int(tensor.dtype)) for name, tensor in plan.in_memory.items()
    }
    settings.add_external_initializers(list(values), list(values.values()))
    return content, values


@dataclass(frozen=True, slots=True)
class _Division:
    """Which tensors ORT reads from ``folder``, which it gets as arrays, and what stands for all in the message."""

    folder: str | None
    in_memory: dict[str, ir.TensorProtocol]
    tensors: dict[ir.Value, ir.TensorProtocol]


def _divide(model: ir.Model) -> _Division:
    large = {value: tensor for value, tensor in initialized_values(model) if tensor.nbytes >= INLINE_BELOW}
    # ORT knows one folder; tensors from elsewhere are mapped by us instead.
    folders = collections.Counter(
        os.path.dirname(tensor.path) for tensor in large.values() if isinstance(tensor, ir.ExternalTensor)
    )
    folder = folders.most_common(1)[0][0] if folders else None
    stand_ins: dict[ir.Value, ir.TensorProtocol] = {}
    in_memory: dict[str, ir.TensorProtocol] = {}
    for value, tensor in initialized_values(model):
        name = value.name or ""
        if value in large and isinstance(tensor, ir.ExternalTensor) and os.path.dirname(tensor.path) == folder:
            place = external.Placed(tensor.offset or 0, tensor.nbytes)
            stand_ins[value] = external.reference(tensor, os.path.basename(tensor.path), place)
        elif value in large and value.graph is model.graph and _takes_arrays(tensor):
            if value.uses() or value.is_graph_output():  # ORT drops the others first, then fails to find them
                in_memory[name] = tensor
            stand_ins[value] = external.reference(tensor, f"in memory: {name}", external.Placed(0, tensor.nbytes))
        elif isinstance(tensor, ir.ExternalTensor):
            stand_ins[value] = lazy(tensor)
    return _Division(folder, in_memory, stand_ins)


def _takes_arrays(tensor: ir.TensorProtocol) -> bool:
    """Whether ORT can use numpy's memory of it: not for strings and types that share bytes."""
    return tensor.dtype != ir.DataType.STRING and tensor.dtype.bitwidth >= 8


def _plain(tensor: ir.TensorProtocol) -> np.ndarray:
    """The array, viewed as unsigned integers where numpy itself does not know the type (bfloat16, float8)."""
    array = tensor.numpy()
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def add_outputs(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of ``model`` (tensors shared) with these values of the main graph as further outputs, in order.

    Values that are outputs already stay where they are. Graph inputs and constants can be asked for too.

    Raises:
        OptionError: The main graph has no value of that name.
    """
    widened = load(model)
    by_name = {value.name: value for value in walk.graph_values(widened.graph)}
    for name in dict.fromkeys(names):
        value = by_name.get(name)
        if value is None:
            known = nearest(name, [known for known in by_name if known])
            raise OptionError(
                f"the main graph has no value {name!r}{known or '.'} Values inside subgraphs cannot be outputs.",
                option="names",
            )
        if not value.is_graph_output():
            widened.graph.outputs.append(value)
    return widened
