"""Which weights are packed, how, and which nodes read them."""
