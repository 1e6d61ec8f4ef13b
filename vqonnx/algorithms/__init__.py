"""One way a file to choose the codes of a weight: arrays in, :class:`vqonnx.core.blocks.QuantizedBlocks` out."""
