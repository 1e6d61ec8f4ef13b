"""What all tests share."""

import os
import sys

import numpy as np
import pytest
from hypothesis import settings

# The first example of a kernel compiles it, so time per example says nothing; and a run that fails on one machine
# must fail on the next, so the examples are the same each time. More of them: VQONNX_EXAMPLES=1000 bash tools/test.sh.
_EXAMPLES = int(os.environ.get("VQONNX_EXAMPLES", "25"))
settings.register_profile("vqonnx", deadline=None, derandomize=True, max_examples=_EXAMPLES)
settings.load_profile("vqonnx")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that is seeded alike in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def count_calls():
    """How many functions, Python's and C's, a call makes: the work it does, whatever else the machine is doing."""

    def count(function, *arguments):
        made = 0

        def on_event(frame, event, argument):
            nonlocal made
            made += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(on_event)
        try:
            function(*arguments)
        finally:
            sys.setprofile(before)
        return made

    return count
