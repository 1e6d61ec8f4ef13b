import math

import numpy as np
import pytest

from vqonnx.compat.calibrate import entropy, rel_entr


def test_every_case_of_a_term():
    terms = rel_entr(np.array([0.5, 0.0, 0.0, 0.25, -1.0, 1.0]), np.array([0.25, 0.5, -1.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(terms, [0.5 * math.log(2), 0, math.inf, math.inf, math.inf, 0])


@pytest.mark.parametrize(("axis", "base"), [(0, None), (1, 2.0)])
def test_the_entropy_is_that_of_the_shares_along_an_axis(rng, axis, base):
    p, q = rng.uniform(0.1, 5, (2, 6, 4))
    shares = [values / values.sum(axis=axis, keepdims=True) for values in (p, q)]
    wanted = (shares[0] * np.log(shares[0] / shares[1])).sum(axis=axis) / math.log(base or math.e)
    found = entropy(p, q, base=base, axis=axis)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(entropy(p, 3 * p), 0, atol=1e-6)
    with pytest.raises(ValueError, match="base must be positive"):
        entropy(p, q, base=0.0)
