"""Which nodes become quantized and which tensors that takes: the parts of the plan stage."""
