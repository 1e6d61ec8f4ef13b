"""vqonnx: a post-training quantizer for ONNX models."""

from vqonnx.version import __version__

__all__ = ["__version__"]
