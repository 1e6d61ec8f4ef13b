"""What the QNN execution provider's tools of onnxruntime.quantization do."""

from vqonnx.compat.execution_providers.qnn.preprocess import qnn_preprocess_model
from vqonnx.compat.execution_providers.qnn.quant_config import get_qnn_qdq_config

__all__ = ["get_qnn_qdq_config", "qnn_preprocess_model"]
