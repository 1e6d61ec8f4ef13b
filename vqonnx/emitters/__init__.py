"""One quantized form a file: plan and solutions become nodes."""
