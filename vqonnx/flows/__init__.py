"""From file to file: the stages of each kind of quantization, in their order."""
