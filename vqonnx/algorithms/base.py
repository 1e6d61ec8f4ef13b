"""What every weight-only algorithm looks like from outside, and the table of those that exist.

An algorithm's file calls ``register`` once; nothing else has to know of it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import BlockSpec, FloatArray, PackedWeight
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.errors import OptionError, nearest
from vqonnx.kernels.blocks.errors import SecondMoment

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
O = TypeVar("O")  # noqa: E741 - the options of an algorithm

WeightSpec: TypeAlias = BlockSpec | CodebookSpec


class Needs(Enum):
    """What an algorithm must know of the inputs that a weight is multiplied with."""

    NOTHING = "no data"
    ENERGY = "mean squares, if there are data"
    HESSIAN = "second moments"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerProblem:
    """One weight to be quantized.

    Attributes:
        weight: W [K, N], float32, float16 or bfloat16; perhaps a read-only map of a file.
        spec: Bits, block size, symmetry; or a code book.
        hessian: Second moment of the layer's inputs; None without data.
        scalable: Whether the inputs may be divided by channel scales, since the graph can undo it.
    """

    weight: FloatArray
    spec: WeightSpec
    hessian: SecondMoment | None = None
    scalable: bool = False

    @property
    def energy(self) -> F64 | None:
        """Mean squares of the inputs up to a factor, [K]: what the errors of the weight's rows count."""
        return None if self.hessian is None else self.hessian.energy

    @property
    def block_spec(self) -> BlockSpec:
        """The spec of an algorithm that refuses code books."""
        if isinstance(self.spec, CodebookSpec):
            raise OptionError(NO_CODE_BOOKS, option="algorithm")
        return self.spec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSolution:
    """What an algorithm found.

    Attributes:
        packed: The packed weight; ``diag(channel_scales) W`` where there are channel scales.
        channel_scales: t [K] by which the layer's inputs are to be divided, or None.
        algorithm: Name of the algorithm that found it, where the one that was asked chose among others.
        note: What had to be done differently from what was asked; empty otherwise.
    """

    packed: PackedWeight
    channel_scales: F32 | None = None
    algorithm: str | None = None
    note: str = ""


NO_CODE_BOOKS = "code books (nf4, fp4) are rounded to nearest; use algorithm='rtn'"


def no_code_books(spec: WeightSpec) -> str | None:
    """The refusal of algorithms that choose scales and zero points."""
    return NO_CODE_BOOKS if isinstance(spec, CodebookSpec) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm(Generic[O]):
    """A way to choose the codes of a weight.

    Attributes:
        name: What users call it.
        aliases: What other tools call it.
        summary: One line for help texts.
        needs: What it must know of the inputs.
        options: Frozen dataclass of its options, all with defaults.
        solve: From the problems of weights that are multiplied with the same inputs to their solutions, in the same
            order. What depends on the inputs alone is computed once for all of them.
        refusal: Why it cannot serve a spec, or None; asked before anything long begins.
        least_squares: Whether it lowers a squared error, so that without data its result can be judged by the weight's.
    """

    name: str
    summary: str
    needs: Needs
    options: type[O]
    solve: Callable[[Sequence[LayerProblem], O], Iterator[LayerSolution]]
    aliases: tuple[str, ...] = ()
    refusal: Callable[[WeightSpec], str | None] = no_code_books
    least_squares: bool = True


_TABLE: dict[str, Algorithm[Any]] = {}


def register(algorithm: Algorithm[Any]) -> None:
    """Make an algorithm known by its name and aliases.

    Raises:
        OptionError: Another algorithm has one of these names.
    """
    for name in (algorithm.name, *algorithm.aliases):
        if name in _names():
            raise OptionError(f"two algorithms are called {name!r}; names and aliases must differ", option="algorithm")
    _TABLE[algorithm.name] = algorithm


def one_by_one(
    solve: Callable[[LayerProblem, O], LayerSolution],
) -> Callable[[Sequence[LayerProblem], O], Iterator[LayerSolution]]:
    """An algorithm that solves each weight on its own."""

    def solve_each(problems: Sequence[LayerProblem], options: O) -> Iterator[LayerSolution]:
        return (solve(problem, options) for problem in problems)

    return solve_each


@cache
def algorithms() -> Mapping[str, Algorithm[Any]]:
    """Every algorithm of this package, by name, in alphabetical order."""
    package = importlib.import_module("vqonnx.algorithms")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        importlib.import_module(f"vqonnx.algorithms.{module.name}")
    return MappingProxyType(dict(sorted(_TABLE.items())))


def find_algorithm(name: str) -> Algorithm[Any]:
    """The algorithm called ``name``, or known by it elsewhere.

    Raises:
        OptionError: There is none.
    """
    known, names = algorithms(), _names()
    if name not in names:
        raise OptionError(
            f"algorithm {name!r} is not known{nearest(name, names)}; there are {', '.join(known)}.", option="algorithm"
        )
    return names[name]


def _names() -> dict[str, Algorithm[Any]]:
    """Algorithms by name and by alias."""
    return {name: found for found in _TABLE.values() for name in (found.name, *found.aliases)}
