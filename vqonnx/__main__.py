"""``python -m vqonnx``."""

from vqonnx.cli.main import main

main()
