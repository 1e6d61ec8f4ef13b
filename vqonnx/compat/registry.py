"""onnxruntime.quantization.registry: which operators are quantized by default, with how the table has them."""

from collections.abc import Mapping
from types import MappingProxyType

from vqonnx.core.target import Form, OpSupport
from vqonnx.targets.onnxruntime import DYNAMIC_OPERATORS, ONNXRUNTIME

_QOPERATOR = ONNXRUNTIME.forms[Form.QOPERATOR]


def _plain(ops: Mapping[str, OpSupport]) -> Mapping[str, OpSupport]:
    return MappingProxyType({name.rpartition("::")[2]: support for name, support in ops.items()})


QDQRegistry = _plain(ONNXRUNTIME.ops)
"""By operator, in QDQ form; other operators get a pair around each input and output where a user names them."""
QLinearOpsRegistry = _plain(_QOPERATOR)
"""In QOperator form."""
IntegerOpsRegistry = MappingProxyType({name: QLinearOpsRegistry.get(name, OpSupport()) for name in DYNAMIC_OPERATORS})
"""For dynamic quantization."""
CommonOpsRegistry = MappingProxyType(
    {name: QLinearOpsRegistry[name] for name in ("EmbedLayerNormalization", "Gather", "Transpose")}
)
"""In both."""
