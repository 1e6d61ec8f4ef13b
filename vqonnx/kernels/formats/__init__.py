"""Element formats of floats and block floats, bit by bit."""
