"""Weight-only quantization: from planned weights to packed ones, one weight in memory at a time."""
