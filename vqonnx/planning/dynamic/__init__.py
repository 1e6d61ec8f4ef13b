"""Which nodes take integers that are made at run time, and from which weights."""
