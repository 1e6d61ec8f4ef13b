"""Other tools' module names, functions and defaults over this package's own code.

A program that uses onnxruntime.quantization works with ``vqonnx.compat`` in its place, submodules included.
"""
