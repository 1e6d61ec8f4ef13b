"""What every statistic of an activation can do, and the table of those that exist."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.survey import Span, Survey
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, nearest
from vqonnx.kernels.bins import Range
from vqonnx.kernels.ranges import RangeOptions

Array = npt.NDArray[np.generic]


class Statistic(abc.ABC):
    """What is known of one tensor after some samples; a frozen dataclass whose fields are numbers and arrays.

    Made without arguments it is empty, and an empty one is the neutral element of ``merge``; options, such as the
    number of bins, are fields too, and ``of`` hands them on.

    Attributes:
        name: The name in stores and in ``observe``'s ``wanted``.
        methods: The range methods that this statistic serves.
        shaped: Whether the tensor's shape matters to it, besides its elements.
        dropped: Elements that were NaN or infinite, and are in no other figure.
    """

    name: ClassVar[str]
    methods: ClassVar[tuple[RangeMethod, ...]] = ()
    shaped: ClassVar[bool] = False
    dropped: int

    @abc.abstractmethod
    def of(self, x: Array) -> Self:
        """The statistic of the float tensor ``x`` alone, of any shape, with this one's options."""

    @abc.abstractmethod
    def merge(self, other: Self) -> Self:
        """The statistic of this one's samples followed by ``other``'s."""

    @abc.abstractmethod
    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The real range, low <= 0 <= high, that ``method`` chooses for ``spec``; (0, 0) when nothing was observed.

        Raises:
            OptionError: ``method`` needs another statistic.
        """

    @property
    def is_empty(self) -> bool:
        """Whether no finite element was observed; False where the statistic keeps no ends."""
        ends = self.arrays()
        return "low" in ends and bool(np.greater(ends["low"], ends["high"]))

    def arrays(self) -> dict[str, Array]:
        """Every field as an array; ``from_arrays`` is the inverse, to the last bit."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """The statistic whose ``arrays()`` these are."""
        return cls(**{name: array if array.ndim else array.item() for name, array in arrays.items()})

    def no_range(self, method: RangeMethod) -> OptionError:
        """The error of a statistic asked for a method that it does not serve."""
        served = ", ".join(known.value for known in self.methods) or "no range method"
        return OptionError(
            f"statistic {self.name!r} serves {served}, not {method.value!r}; observe the tensor for the method "
            "that is to choose its range",
            option="method",
        )


class Unordered(Statistic):
    """A statistic that does not depend on the order of a sample's elements, made of surveys.

    One compiled call then measures all tensors of a sample, in whatever layout ONNX Runtime has them.
    """

    @abc.abstractmethod
    def span(self) -> Span:
        """What to ask of the tensor's further samples."""

    @abc.abstractmethod
    def after(self, survey: Survey) -> Self:
        """The statistic of this one's samples followed by the survey's; to the last bit that of ``of`` and ``merge``.

        The survey was made with an earlier ``span()`` of this statistic, or with that of an empty one.
        """


STATISTICS: dict[str, type[Statistic]] = {}
"""Every statistic, by name; filled by ``register``."""

S = TypeVar("S", bound=type[Statistic])


def register(statistic: S) -> S:
    """Class decorator that adds a statistic to the table; a second one of the same name is refused."""
    known = STATISTICS.setdefault(statistic.name, statistic)
    if known is not statistic:
        raise OptionError(f"statistic {statistic.name!r} is already defined by {known.__module__}", option="name")
    return statistic


def empty_statistic(wanted: RangeMethod | str | Statistic) -> Statistic:
    """The empty statistic that a range method needs, that a name means, or that is given.

    Raises:
        OptionError: No statistic has that name.
    """
    if isinstance(wanted, Statistic):
        return wanted
    if isinstance(wanted, RangeMethod):
        able = [statistic for statistic in STATISTICS.values() if wanted in statistic.methods]
        return min(able, key=lambda statistic: len(statistic.methods))()  # the most special one is the cheapest
    if wanted not in STATISTICS:
        raise OptionError(
            f"no statistic is named {wanted!r}{nearest(wanted, STATISTICS)}; there are {', '.join(STATISTICS)}",
            option="statistic",
        )
    return STATISTICS[wanted]()
