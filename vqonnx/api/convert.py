"""``convert_weights``: packed weights from one form to another, from file to file, one weight at a time in memory."""

from collections import Counter
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from vqonnx.core.plan import Plan, Skip
from vqonnx.core.weight_plan import WeightForm
from vqonnx.errors import OptionError, nearest
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.report.figures import Level
from vqonnx.stages.verify import VerifyOptions
from vqonnx.stages.verify import verify as verify_file
from vqonnx.stages.weights.convert import check_converted, convert

_FORMS = {form.value: form for form in (WeightForm.QDQ, WeightForm.MATMUL_NBITS)}
_LARGEST_ACCURACY_LEVEL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What ``convert_weights`` did.

    Attributes:
        to: The form that was asked for: "qdq" or "matmul_nbits".
        nodes: Names of the converted nodes.
        kept: Nodes with a packed weight that stay as they are, and why.
        size: Bytes of the written files.
        loaded: Whether ONNX Runtime opened the result.
        notes: Remarks.
    """

    to: str
    nodes: tuple[str, ...]
    kept: tuple[Skip, ...]
    size: int
    loaded: bool
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> Counter[tuple[str, str]]:
        """How many nodes of an operator stay as they are for the same reason."""
        return Counter((skip.op_type, skip.reason) for skip in self.kept)


def convert_weights(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    *,
    to: Literal["qdq", "matmul_nbits"],
    accuracy_level: int = 4,
    use_external_data_format: bool | None = None,
    verify: bool | Literal["checker"] = True,
) -> Conversion:
    """Write packed weights in another form, with the same codes, scales and zero points, bit by bit.

    "qdq" is standard ONNX (DequantizeLinear, opset 21), which ONNX Runtime fuses back when a session is opened;
    "matmul_nbits" is com.microsoft.MatMulNBits. Files of other tools are taken too. What has no other form, such as
    lookups (GatherBlockQuantized), stays as it is. The result is read back and compared, weight by weight, before it
    is saved.

    Args:
        model_input: A path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it is not changed.
        model_output: Where the result is written; may be the same path.
        to: The form.
        accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32; 0 leaves it out. For "qdq"
            the session decides, 4 being ONNX Runtime's default.
        use_external_data_format: Write tensors into a data file beside the model; by default where the input has one,
            and where they are needed.
        verify: True also opens the result in ONNX Runtime; "checker", or False, does not.

    Returns:
        What was converted, and what not and why.

    Raises:
        OptionError: An argument makes no sense.
        ModelError: The model cannot be read, or has nothing to convert.
        OutputError: The output cannot be written.
        VerificationError: The result does not load, or is not the same; nothing was written.
    """
    if to not in _FORMS:
        raise OptionError(f"to: {to!r} is none of {', '.join(_FORMS)}{nearest(to, _FORMS)}.", option="to")
    if not 0 <= accuracy_level <= _LARGEST_ACCURACY_LEVEL:
        raise OptionError(f"accuracy_level must lie in 0..4, got {accuracy_level}", option="accuracy_level")
    destination = Path(model_output)
    check_writable(destination)
    model = load(model_input)
    reference = Path(model_input) if isinstance(model_input, (str, PathLike)) else load(model_input)
    external = use_external_data_format
    if external is None and isinstance(reference, Path) and _has_data_file(reference):
        external = True
    converted = convert(model, _FORMS[to], accuracy_level=accuracy_level)
    level, notes = Level.LOADED if verify is True else Level.CHECKED, list[str]()

    def check(path: Path) -> None:
        check_converted(path, converted)
        options = VerifyOptions(level=level, kernels=False)
        notes.extend(verify_file(reference, path, (), Plan(target=""), options=options).notes)

    saved = save(model, destination, external=external, check=check)
    return Conversion(
        to=to,
        nodes=tuple(converted.weights),
        kept=converted.kept,
        size=saved.size,
        loaded=level is Level.LOADED,
        notes=tuple(notes),
    )


def _has_data_file(path: Path) -> bool:
    return any(not is_inside(tensor, path) for tensor in external_tensors(load(path)))
