"""What all calibrators share: the model, which of its tensors are measured, and how samples are run."""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from vqonnx.calibration.dropped import warn_of_dropped
from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.statistics import Statistic
from vqonnx.compat.calibrate.data import TensorsData
from vqonnx.compat.calibrate.tensors import read_model, tensors_to_calibrate
from vqonnx.errors import OptionError
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import to_proto
from vqonnx.runtime.package import require_providers
from vqonnx.runtime.session import open_session
from vqonnx.stages.observe import ObserveOptions, observe

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_CPU = ("CPUExecutionProvider",)


class CalibraterBase:
    """A calibrator of onnxruntime.quantization over vqonnx's statistics, whose memory does not grow with the samples.

    Samples run in one session, several at a time, and what was read from a reader lies on disk until then;
    tensors are measured and dropped. NaN and infinity are left out, with a warning that names the tensor.

    The augmented model, in which the tensors are outputs, is written for those who want it; ``collect_data`` does not
    need it.

    Attributes:
        op_types_to_calibrate: Operators whose inputs and outputs are measured; all of them when empty.
        augmented_model_path: Where ``augment_graph`` writes.
        symmetric: Whether ranges are centred on zero.
        use_external_data_format: Whether the augmented model's weights go into a file of their own.
        per_channel: Whether each channel (axis 1) has a range.
        execution_providers: ONNX Runtime's, best first.
    """

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        symmetric: bool = False,
        use_external_data_format: bool = False,
        per_channel: bool = False,
    ) -> None:
        if not isinstance(model_path, str | PathLike):
            raise OptionError(
                f"model_path must be the path of a model, not a {type(model_path).__name__}; save it first (onnx.save)",
                option="model_path",
            )
        self._model = read_model(model_path)
        self._augmented: ir.Model | None = None
        self._session: InferenceSession | None = None
        self.op_types_to_calibrate = op_types_to_calibrate
        self.augmented_model_path = fspath(augmented_model_path)
        self.symmetric = symmetric
        self.use_external_data_format = use_external_data_format
        self.per_channel = per_channel
        self.execution_providers: Sequence[str] = list(_CPU)

    @property
    def model(self) -> onnx.ModelProto:
        """A copy of the model as a message: the augmented one, once there is one."""
        return to_proto(self._augmented or self._model)

    def get_augment_model(self) -> onnx.ModelProto:
        """The same; call it after ``augment_graph``."""
        return self.model

    @property
    def infer_session(self) -> "InferenceSession":
        """A session over the augmented model, opened when first asked for."""
        if self._session is None:
            self.create_inference_session()
        assert self._session is not None
        return self._session

    def set_execution_providers(self, execution_providers: Sequence[str] = _CPU) -> None:
        """Run samples with these providers.

        Raises:
            DependencyError: This onnxruntime lacks one.
        """
        require_providers(execution_providers)
        self.execution_providers = list(execution_providers)
        self._session = None

    def create_inference_session(self) -> None:
        """Open ``infer_session``, as the graph stands.

        Raises:
            ModelError: ``augment_graph`` was not called.
            VerificationError: ONNX Runtime refuses the model.
        """
        self._session = open_session(
            Path(self.augmented_model_path), providers=self.execution_providers, optimize=False
        )

    def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], dict[str, onnx.ValueInfoProto]]:
        """Names of the float32 and float16 tensors to measure, and what the main graph of ``model`` says of each name.

        They are inputs and outputs of nodes of the chosen types, no constants, and have a known type.
        """
        stated = (*model.graph.value_info, *model.graph.output, *model.graph.input)
        return set(self._tensors(load(model))), {info.name: info for info in stated}

    def augment_graph(self) -> None:
        """Add to the model what puts the statistics out, and write it to ``augmented_model_path``.

        Raises:
            OutputError: The path cannot be written.
        """
        augmented = load(self._model)
        self._augment(augmented, list(self._tensors(augmented).values()))
        save(augmented, self.augmented_model_path, external=True if self.use_external_data_format else None)
        self._augmented = augmented

    def _augment(self, model: ir.Model, tensors: Sequence[ir.Value]) -> None:
        """Add outputs for ``tensors`` to ``model``, a copy."""
        raise NotImplementedError

    def collect_data(self, data_reader: Reader) -> None:
        """Measure the tensors over all samples of a reader, added to those of earlier calls.

        Args:
            data_reader: A CalibrationDataReader; a list or generator of feeds does too.

        Raises:
            SampleError: There is none, or one does not fit the model; also a ValueError.
        """
        raise NotImplementedError

    def compute_data(self) -> TensorsData:
        """The ranges, by tensor name."""
        raise NotImplementedError

    def clear_collected_data(self) -> None:
        """Does nothing: tensors are dropped as soon as they are measured, and what was measured stays."""

    def _tensors(self, model: ir.Model) -> dict[str, ir.Value]:
        return tensors_to_calibrate(model, self.op_types_to_calibrate)

    def _observed(
        self, data_reader: Reader, empty: Statistic, chunk: int | None = None
    ) -> Iterator[Mapping[str, Statistic]]:
        """The statistics of each ``chunk`` of samples, or of all of them."""
        options = ObserveOptions(
            providers=tuple(self.execution_providers),
            nonfinite="ignore",
            optimize=False,  # the ends are then those of the user's own graph, to the last bit
        )
        wanted = dict.fromkeys(self._tensors(self._model), empty)
        with open_samples(data_reader, model_inputs(self._model), hold_back_every=0, finite=False) as samples:
            size = chunk or len(samples)
            for start in range(0, len(samples), size):
                found = observe(self._model, wanted, samples.all[start : start + size], options).tensors
                warn_of_dropped(found, stacklevel=3)
                yield found

    def _dtypes(self) -> dict[str, np.dtype[np.generic]]:
        """The type of every tensor that is measured."""
        known = self._tensors(self._model)
        return {name: np.dtype(value.dtype.numpy()) for name, value in known.items() if value.dtype is not None}
