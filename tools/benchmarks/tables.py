"""Measured rows as markdown and JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one or more values."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def quartiles(cls, values: Sequence[float]) -> "Spread":
        """With the quartiles in place of the ends, for many values."""
        low, middle, high = statistics.quantiles(values, n=4)
        return cls(middle, low, high)

    def text(self, digits: int) -> str:
        """``median (low-high)``."""
        if self.low == self.high:
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


SKIPPED = "skipped: "
"""Begins the note of a row for what this machine has not."""

Cell = str | float | int | Spread | None
Row = dict[str, Cell]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the key of its cells, its title, the digits behind the point."""

    key: str
    title: str
    digits: int = 1

    def text(self, cell: Cell) -> str:
        """A cell as shown; missing ones are a dash."""
        if cell is None:
            return "-"
        if isinstance(cell, Spread):
            return cell.text(self.digits)
        return cell if isinstance(cell, str) else f"{cell:.{self.digits}f}"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a note on what was measured how, and rows of cells by column key; README folds a detail away."""

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    detail: bool = False

    def markdown(self) -> str:
        """A heading, the note and a pipe table; columns without any value are left out."""
        columns = [column for column in self.columns if any(row.get(column.key) is not None for row in self.rows)]
        head = ["| " + " | ".join(column.title for column in columns) + " |", "|" + "---|" * len(columns)]
        body = ["| " + " | ".join(c.text(row.get(c.key)) for c in columns) + " |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", self.note, "", *head, *body])

    def folded(self) -> str:
        """The same behind its title, for GitHub."""
        body = self.markdown().partition("\n\n")[2]
        return f"<details>\n<summary>{self.title}</summary>\n\n{body}\n\n</details>"

    def measured(self) -> "Table":
        """Without rows of what was skipped."""
        rows = (row for row in self.rows if not str(row.get("note")).startswith(SKIPPED))
        return replace(self, rows=tuple(rows))

    def json(self) -> dict[str, Any]:
        """For ``--json``."""
        rows = [{key: asdict(c) if isinstance(c, Spread) else c for key, c in row.items()} for row in self.rows]
        return {"title": self.title, "note": self.note, "rows": rows}
