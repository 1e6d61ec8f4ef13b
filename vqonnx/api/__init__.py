"""The functions that users call, a family a file; parameters are those of onnxruntime.quantization, then our own."""
