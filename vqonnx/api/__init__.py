"""The functions that users call, a family a file; the parameters are those of onnxruntime.quantization, then our own."""
