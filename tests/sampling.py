"""Long lists of cases: the fast suite takes some of them, the slow one the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """``cases`` for ``pytest.mark.parametrize``; all but one in ``count`` are slow."""
    return [case if number % count == 0 else slow(case) for number, case in enumerate(cases)]


def slow(case: Any) -> Any:
    """A case for the slow suite."""
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
