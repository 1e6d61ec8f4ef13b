"""The parts of ``tools/bench.py``. Each measurement runs in a process of its own (``worker``)."""
