"""What every weight-only algorithm looks like from outside, and the table of those that exist.

An algorithm's file calls ``register`` once; nothing else has to know of it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import BlockSpec, FloatArray, QuantizedBlocks
from vqonnx.errors import OptionError, nearest

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


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
        spec: Bits, block size, symmetry.
        hessian: sum of x x^T over the layer's inputs, float64 [K, K]; None without data.
        scalable: Whether the inputs may be divided by channel scales, since the graph can undo it.
    """

    weight: FloatArray
    spec: BlockSpec
    hessian: F64 | None = None
    scalable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSolution:
    """What an algorithm found.

    Attributes:
        blocks: The packed weight; ``diag(channel_scales) W`` where there are channel scales.
        channel_scales: t [K] by which the layer's inputs are to be divided, or None.
    """

    blocks: QuantizedBlocks
    channel_scales: F32 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A way to choose the codes of a weight.

    Attributes:
        name: What users call it.
        summary: One line for help texts.
        needs: What it must know of the inputs.
        options: Frozen dataclass of its options, all with defaults.
        solve: From a problem and options to a solution.
        refusal: Why it cannot serve a spec, or None; asked before anything long begins.
    """

    name: str
    summary: str
    needs: Needs
    options: type
    solve: Callable[[LayerProblem, object], LayerSolution]
    refusal: Callable[[BlockSpec], str | None] = lambda spec: None


_TABLE: dict[str, Algorithm] = {}


def register(algorithm: Algorithm) -> None:
    """Make an algorithm known by its name."""
    _TABLE[algorithm.name] = algorithm


@cache
def algorithms() -> Mapping[str, Algorithm]:
    """Every algorithm of this package, by name."""
    package = importlib.import_module("vqonnx.algorithms")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        importlib.import_module(f"vqonnx.algorithms.{module.name}")
    return MappingProxyType(_TABLE)


def find_algorithm(name: str) -> Algorithm:
    """The algorithm called ``name``.

    Raises:
        OptionError: There is none.
    """
    known = algorithms()
    if name not in known:
        raise OptionError(
            f"algorithm {name!r} is not known{nearest(name, known)}; there are {', '.join(known)}.", option="algorithm"
        )
    return known[name]
