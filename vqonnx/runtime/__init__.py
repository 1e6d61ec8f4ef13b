"""ONNX Runtime: sessions over models of any size, its errors, and what this processor does."""
