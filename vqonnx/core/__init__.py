"""The frozen values that flow through the stages; they know numpy and nothing of ONNX."""
