"""Arrays in, arrays out: every formula of the quantizer stands here once."""
