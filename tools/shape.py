"""Prints the shape of the source: lines per file, and figures that tell whether it stays easy to change.

    python tools/shape.py [--files] [--json]

Python files of vqonnx/ are measured; tests/ only for the last row. Nothing here fails: it is a mirror, not a gate.
"""

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG_FILE, LONG_FUNCTION, TOO_COMPLEX = 300, 50, 8

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True, slots=True)
class Function:
    """What is measured of one function."""

    name: str
    lines: int
    arguments: int
    complexity: int


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Lines, blank ones and comments included."""
        return self.text.count("\n")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside the value to stay at or under."""

    what: str
    value: str
    aim: str


def read(folder: Path) -> list[Source]:
    """The Python files under ``folder``, in order of their names."""
    paths = sorted(folder.rglob("*.py"))
    return [Source(path, text, ast.parse(text)) for path in paths for text in [path.read_text(encoding="utf-8")]]


def functions(sources: Iterable[Source]) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FunctionNode):
                yield Function(f"{source.path.name}:{node.name}", _length(node), _arguments(node), _complexity(node))


def _length(node: FunctionNode) -> int:
    """Lines of the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 1


def _arguments(node: FunctionNode) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in given)


def _complexity(node: FunctionNode) -> int:
    """McCabe's number as lint rule C901 counts it: branching statements + 1."""
    return 1 + sum(isinstance(part, _BRANCHES) for part in ast.walk(node))


def _frozen_share(sources: Iterable[Source]) -> tuple[int, int]:
    decorators = [
        ast.unparse(decorator)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
    ]
    classes = [text for text in decorators if re.match(r"(dataclasses\.)?dataclass\b", text)]
    return sum("frozen=True" in text for text in classes), len(classes)


def _count_any(sources: Iterable[Source]) -> int:
    return sum(isinstance(node, ast.Name) and node.id == "Any" for source in sources for node in ast.walk(source.tree))


def measure(sources: list[Source], test_lines: int) -> list[Row]:
    """The figures of one tree."""
    lines = sum(source.lines for source in sources)
    long_files = sum(source.lines for source in sources if source.lines > LONG_FILE)
    found = list(functions(sources))
    sizes = sorted(function.lines for function in found)
    widest = max(found, key=lambda function: function.arguments)
    largest = max(sources, key=lambda source: source.lines)
    frozen, classes = _frozen_share(sources)
    long_share = sum(size > LONG_FUNCTION for size in sizes) / len(sizes)
    return [
        Row("files / lines", f"{len(sources)} / {lines}", ""),
        Row(f"lines in files > {LONG_FILE}", f"{long_files / lines:.1%}", "0 %"),
        Row("largest file", f"{largest.lines} ({largest.path.name})", f"{LONG_FILE}"),
        Row("function lines, median / p90", f"{statistics.median(sizes):.0f} / {_p90(sizes)}", "9 / 30"),
        Row(f"functions > {LONG_FUNCTION} lines", f"{long_share:.1%}", "2 %"),
        Row("functions > 100 lines", str(sum(size > 100 for size in sizes)), "0"),
        Row(f"complexity > {TOO_COMPLEX}", str(sum(f.complexity > TOO_COMPLEX for f in found)), "0"),
        Row("most arguments", f"{widest.arguments} ({widest.name})", "6 outside public signatures"),
        Row("frozen dataclasses", f"{frozen} of {classes}", "all"),
        Row("`Any` per 1000 lines", f"{1000 * _count_any(sources) / lines:.1f}", "2"),
        Row("test lines / source lines", f"{test_lines / lines:.2f}", "1.0 to 2.0"),
    ]


def _p90(sizes: list[int]) -> int:
    return sizes[int(0.9 * (len(sizes) - 1))]


def main() -> int:
    """Print the table, and with --files each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the lines of each file too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    sources = read(ROOT / "vqonnx")
    rows = measure(sources, sum(source.lines for source in read(ROOT / "tests")))
    sizes = {str(source.path.relative_to(ROOT)): source.lines for source in sources}
    if arguments.json:
        print(json.dumps({"figures": {row.what: row.value for row in rows}, "files": sizes}, indent=2))
        return 0
    print("| figure | value | aim |\n|---|---|---|")
    print("\n".join(f"| {row.what} | {row.value} | {row.aim} |" for row in rows))
    if arguments.files:
        print("\n" + "\n".join(f"{size:5d} {path}" for path, size in sorted(sizes.items(), key=lambda item: -item[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
