"""What all tests share."""

import numpy as np
import pytest
from hypothesis import settings

# The first example of a kernel compiles it, so time per example says nothing; and a run that fails on one machine
# must fail on the next, so the examples are the same each time.
settings.register_profile("vqonnx", deadline=None, derandomize=True)
settings.load_profile("vqonnx")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that is seeded alike in every test."""
    return np.random.default_rng(0)
