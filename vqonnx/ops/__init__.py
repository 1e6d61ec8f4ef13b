"""Custom operators that run in ONNX Runtime on the CPU: what Vitis AI's number formats do to a model.

``register`` gives a session the operators of domain com.amd.quark, and of its forerunner com.vai.quantize, in Python,
by way of onnxruntime-extensions: the extra ``vitis``. Everything else works without it.
"""

from vqonnx.ops.register import register
from vqonnx.ops.runnable import make_runnable

__all__ = ["make_runnable", "register"]
