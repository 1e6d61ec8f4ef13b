"""The flow, one function a stage: values in, value out, nothing flows back."""
