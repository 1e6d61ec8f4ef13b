"""What the quantizer holds and hands out: a model that becomes a message when it is asked for as one."""

from os import PathLike, fspath

import onnx
import onnx_ir as ir

from vqonnx.graph.io import ModelSource, load, save
from vqonnx.graph.proto import to_proto


class ONNXModel:
    """A model, as onnxruntime's class of that name hands it out.

    It may be larger than a message can be, and lie in files, until ``model`` is asked for.

    Attributes:
        model_path: Where it came from, or None.
    """

    def __init__(self, source: ModelSource) -> None:
        self.model_path = fspath(source) if isinstance(source, (str, PathLike)) else None
        self._source = source

    @property
    def source(self) -> ModelSource:
        """The model in the form that it has now; not to be changed."""
        return self._source

    @property
    def model(self) -> onnx.ModelProto:
        """The model as a message with all tensors in it. From now on this is the model: changes to it are saved.

        Raises:
            ModelError: Its tensors take more than the 2 GiB of one message; ``save_model_to_file`` writes it.
        """
        if not isinstance(self._source, onnx.ModelProto):
            self._source = to_proto(self._source if isinstance(self._source, ir.Model) else load(self._source))
        return self._source

    def save_model_to_file(self, output_path: str | PathLike[str], use_external_data_format: bool = False) -> None:
        """Write the model in one step: the path holds the old file until the new one is complete.

        Args:
            output_path: The .onnx file.
            use_external_data_format: Write tensors into a data file beside it; large models always have one.

        Raises:
            OutputError: The path cannot be written.
        """
        model = self._source if isinstance(self._source, ir.Model) else load(self._source)
        save(model, output_path, external=True if use_external_data_format else None)

    def graph(self) -> onnx.GraphProto:
        """The main graph."""
        return self.model.graph

    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the main graph."""
        return list(self.model.graph.node)

    def initializer(self) -> list[onnx.TensorProto]:
        """The initializers of the main graph."""
        return list(self.model.graph.initializer)

    def opset_import(self) -> list[onnx.OperatorSetIdProto]:
        """The operator sets."""
        return list(self.model.opset_import)

    def topological_sort(self) -> None:
        """Put the nodes in order, in place, where changes to ``model`` left them out of it."""
        if isinstance(self._source, onnx.ModelProto):
            self._source.graph.CopyFrom(to_proto(load(self._source)).graph)
