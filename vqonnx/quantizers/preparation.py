"""The float model as the options want it, before anything is planned."""

import onnx_ir as ir

from vqonnx.quantizers.opset import needed_opset
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.stages.prepare import Prepared, prepare
from vqonnx.stages.take import take


def prepare_for(model: ir.Model, options: QuantizerOptions) -> Prepared:
    """Prepare a private model in place; on a target that takes graphs as given, only what planning cannot do without.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
    """
    opset = needed_opset(model, options)
    if options.target.as_given:
        return take(model, opset=opset, default_type=options.default_type)
    return prepare(model, opset=opset)
