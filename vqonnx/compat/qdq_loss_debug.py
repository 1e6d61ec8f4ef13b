"""onnxruntime.quantization.qdq_loss_debug: compare weights and activations of a float and a QDQ model.

Activations of all samples are handed out, so they have to fit into memory; ``vqonnx compare --tensors`` prints the same
figures sample by sample, and keeps none.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.compat.calibrate.tensors import read_model, tensors_to_calibrate
from vqonnx.errors import OptionError, SampleError
from vqonnx.graph.dequantization import dequantized
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.evaluation import constant_inputs
from vqonnx.graph.io import load, save
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, values_by_name
from vqonnx.runtime.package import onnxruntime, require_providers, runtime_errors
from vqonnx.runtime.session import open_session, run_session

Arrays = Sequence[np.ndarray]
Error = Callable[[Any, Any], float]

QUANT_INPUT_SUFFIX = "_QuantizeLinear_Input"
DEQUANT_OUTPUT_SUFFIX = "_DequantizeLinear_Output"
TENSOR_NAME_QUANT_SUFFIX = "_quantized"

_SAVED = "_ReshapedSavedOutput"
_OF_DEQUANTIZED = re.compile(rf"(.+){DEQUANT_OUTPUT_SUFFIX}(_\d+)?")
_OF_CODES = re.compile(rf"(.+){TENSOR_NAME_QUANT_SUFFIX}(_\d+)?")
_CPU = ("CPUExecutionProvider",)
_log = logging.getLogger(__name__)


def modify_model_output_intermediate_tensors(
    input_model_path: str | Path,
    output_model_path: str | Path,
    op_types_for_saving: Sequence[str] | None = None,
    save_as_external_data: bool = False,
) -> None:
    """Write a copy of a model that also puts out the float tensors inside, for ``collect_activations``.

    Both ends of each QuantizeLinear -> DequantizeLinear pair are put out under the names by which
    ``create_activation_matching`` finds them, whatever they are called in the model.

    Args:
        input_model_path: The model.
        output_model_path: Where the copy goes.
        op_types_for_saving: Operators whose inputs and outputs are put out; all by default.
        save_as_external_data: Put weights into a file beside it.

    Raises:
        ModelError: The model cannot be read.
        OutputError: The copy cannot be written.
    """
    model = read_model(input_model_path)
    chosen = tensors_to_calibrate(model, op_types_for_saving)
    names = NameAllocator.of(model)
    flat = add_initializer(model.graph, names.unique("saved_shape"), np.array([-1]))
    for name, value in (chosen | _ends_of_pairs(model, set(chosen.values()))).items():
        saved = ir.Value(name=f"{name}{_SAVED}", type=value.type, shape=ir.Shape([None]))
        model.graph.append(ir.node("Reshape", [value, flat], outputs=[saved], name=saved.name))
        model.graph.outputs.append(saved)
    save(model, output_model_path, external=True if save_as_external_data else None)


def _ends_of_pairs(model: ir.Model, chosen: set[ir.Value]) -> dict[str, ir.Value]:
    """What goes into and comes out of each pair around a chosen tensor, by the name that it is matched by."""
    known = values_by_name(model)
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        quantizer = None if codes is None else codes.producer()
        before = quantizer.inputs[0] if quantizer is not None and quantizer.op_type == "QuantizeLinear" else None
        after = node.outputs[0]
        if before is None or not {before, after} & chosen:
            continue
        if after.is_graph_output():
            found[f"{after.name}{QUANT_INPUT_SUFFIX}"] = before
            found[f"{after.name}"] = after
            continue
        # The pair may bear the name of a Relu's output, which the range clips as the Relu did.
        named = _OF_DEQUANTIZED.fullmatch(after.name or "")
        own = named is not None and known.get(named.group(1), before) is before
        base = named.group(1) if named is not None and own else before.name or ""
        found |= {base: before, f"{base}{DEQUANT_OUTPUT_SUFFIX}": after}
    return found


def collect_activations(
    augmented_model: str | PathLike[str],
    input_reader: Iterable[Feed],
    session_options: Any = None,
    execution_providers: Sequence[str] | None = None,
) -> dict[str, list[np.ndarray]]:
    """What the saved tensors hold, flat, one array a sample.

    Args:
        augmented_model: What ``modify_model_output_intermediate_tensors`` wrote.
        input_reader: The samples.
        session_options: ONNX Runtime's; by default nothing is optimized.
        execution_providers: The CPU by default.

    Raises:
        SampleError: There is no sample.
        DependencyError: This onnxruntime lacks a provider.
        VerificationError: ONNX Runtime does not load or run the model.
    """
    providers = execution_providers or _CPU
    path = Path(augmented_model)
    if session_options is None:
        session = open_session(path, providers=providers, optimize=False)
    else:
        require_providers(providers)
        with runtime_errors(f"load the model {str(path)!r}", path=str(path)):
            session = onnxruntime().InferenceSession(str(path), session_options, providers=list(providers))
    names = [output.name for output in session.get_outputs() if output.name.endswith(_SAVED)]
    found: dict[str, list[np.ndarray]] = {name.removesuffix(_SAVED): [] for name in names}
    count = 0
    for count, feed in enumerate(input_reader, start=1):
        with runtime_errors(f"run sample {count - 1}", path=str(path)):
            arrays = run_session(session, names, feed)
        for kept, array in zip(found.values(), arrays, strict=True):
            kept.append(array)
    if not count:
        raise SampleError("the reader gave no sample; one that was used before must be rewound or made anew")
    return found


def create_activation_matching(
    qdq_activations: Mapping[str, Arrays], float_activations: Mapping[str, Arrays] | None = None
) -> dict[str, dict[str, Arrays]]:
    """Each quantized activation before and after its pair, and in the float model.

    Args:
        qdq_activations: Those of the quantized model (``collect_activations``).
        float_activations: Those of the float model.

    Returns:
        By tensor name, ``"pre_qdq"``, ``"post_qdq"`` and, where the float model has the tensor, ``"float"``.
    """
    matched: dict[str, dict[str, Arrays]] = {}
    for name, tensors in qdq_activations.items():
        dequantized = _OF_DEQUANTIZED.fullmatch(name)
        if name.endswith(QUANT_INPUT_SUFFIX):
            base = name.removesuffix(QUANT_INPUT_SUFFIX)
            pair = {"pre_qdq": tensors, "post_qdq": qdq_activations.get(base)}
        elif dequantized is not None:
            base = dequantized.group(1)
            pair = {"pre_qdq": qdq_activations.get(base), "post_qdq": tensors}
        else:
            continue
        known = {end: arrays for end, arrays in pair.items() if arrays is not None}
        if len(known) == len(pair):
            matched[base] = known
    for name, ends in matched.items():
        if float_activations and name in float_activations:
            ends["float"] = float_activations[name]
    return matched


def create_weight_matching(
    float_model_path: str | PathLike[str], qdq_model_path: str | PathLike[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Each quantized constant of a QDQ model, dequantized, and the float one that it was made from.

    Weights with one scale, with one for each channel or block, of any type, and biases are found by the names of
    their codes (``<weight>_quantized``).

    Returns:
        By the weight's name, ``"float"`` and ``"dequantized"``, of one shape.

    Raises:
        ModelError: A model cannot be read.
    """
    known = values_by_name(load(Path(float_model_path)))
    matched = {}
    for name, array in _dequantized_constants(load(Path(qdq_model_path))):
        weight = constant(known.get(name))
        if weight is None:
            _log.error("model %r has no constant %r, which model %r quantizes", float_model_path, name, qdq_model_path)
        else:
            matched[name] = {"float": weight, "dequantized": array}
    return matched


def _dequantized_constants(model: ir.Model) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each float constant, as its codes' name tells, and what DequantizeLinear makes of the codes."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            continue
        outcome = dequantized(node, constant_inputs(node))
        if outcome is None:
            continue
        codes = node.inputs[0].name if node.inputs[0] is not None else None
        named = _OF_CODES.fullmatch(codes or "")
        if named is None:
            _log.error("%r is not called as codes of a weight are (<weight>%s)", codes, TENSOR_NAME_QUANT_SUFFIX)
        else:
            yield named.group(1), outcome.compute()


def compute_signal_to_quantization_noice_ratio(x: Arrays | np.ndarray, y: Arrays | np.ndarray) -> float:
    """20 log10(|x| / |x - y|) in dB over all elements, both lengths being at least float64's epsilon.

    Args:
        x: The reference, an array or one for each sample.
        y: What is compared with it.

    Raises:
        OptionError: There are not as many arrays, or as many elements in them; also a RuntimeError.
    """
    left, right = ([one] if isinstance(one, np.ndarray) else list(one) for one in (x, y))
    if len(left) != len(right) or any(a.size != b.size for a, b in zip(left, right, strict=False)):
        raise _UnequalError(
            f"{[a.size for a in left]} elements cannot be compared with {[b.size for b in right]}; collect both from "
            "the same samples"
        )
    signal = noise = 0.0
    for a, b in zip(left, right, strict=True):
        reference = a.astype(np.float64).ravel()
        difference = reference - b.astype(np.float64).ravel()
        signal += float(reference @ reference)
        noise += float(difference @ difference)
    epsilon = float(np.finfo(np.float64).eps)
    return 20 * math.log10(max(math.sqrt(signal), epsilon) / max(math.sqrt(noise), epsilon))


class _UnequalError(OptionError, RuntimeError):
    """What is to be compared has not the same number of elements."""


def compute_weight_error(
    weights_match: Mapping[str, Mapping[str, np.ndarray]],
    err_func: Error = compute_signal_to_quantization_noice_ratio,
) -> dict[str, float]:
    """``err_func(float, dequantized)`` of each weight of ``create_weight_matching``."""
    return {name: err_func(match["float"], match["dequantized"]) for name, match in weights_match.items()}


def compute_activation_error(
    activations_match: Mapping[str, Mapping[str, Arrays]],
    err_func: Error = compute_signal_to_quantization_noice_ratio,
) -> dict[str, dict[str, float]]:
    """The errors of each tensor of ``create_activation_matching``.

    Returns:
        By tensor name: ``"qdq_err"``, what its own rounding adds, and, where there is a float activation,
        ``"xmodel_err"``, all that has added up to there.
    """
    errors = {}
    for name, match in activations_match.items():
        errors[name] = {"qdq_err": err_func(match["pre_qdq"], match["post_qdq"])}
        if match.get("float"):
            errors[name]["xmodel_err"] = err_func(match["float"], match["post_qdq"])
    return errors
