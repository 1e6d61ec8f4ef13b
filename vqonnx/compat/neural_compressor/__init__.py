"""Neural Compressor's weight-only functions, on numpy arrays: same names, parameters and results, faults corrected.

Two of its modules give ``quant_tensor`` two meanings, so there are two modules here:

* ``onnxrt``: for weights [K, N] of ONNX MatMul, returning codes (``neural_compressor.onnxrt``);
* ``utility``: for weights [out, in] of torch Linear, quantizing and dequantizing (``neural_compressor.torch``).

``weight_only`` is the first under the name that it has in onnxruntime.quantization.
"""

from vqonnx.compat.neural_compressor.rtn import rtn_quantize

__all__ = ["rtn_quantize"]
