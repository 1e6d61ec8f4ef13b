"""Neural Compressor's ``onnxrt.algorithms.weight_only`` functions: on arrays, and ``rtn_quantize`` on models.

Its symmetric scales differ: for four bits amax / 7.5 here, in ``utility`` amax / 7, or amax / 8 for the full range.
"""

from vqonnx.compat.neural_compressor.groups import pad_tensor, qdq_tensor, quant_tensor
from vqonnx.compat.neural_compressor.rtn import rtn_quantize

__all__ = ["pad_tensor", "qdq_tensor", "quant_tensor", "rtn_quantize"]
