import subprocess
import sys
from pathlib import Path

import shape

CODE = '''
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frozen:
    x: Any

    def method(self, a, *, b):
        """Docstring
        of two lines."""
        if a:
            for _ in b:
                pass
        return a


@dataclass
class Open:
    y: int
'''


def _sources(folder: Path) -> list[shape.Source]:
    (folder / "code.py").write_text(CODE)
    return shape.read(folder)


def test_functions_are_measured_without_their_docstrings(tmp_path: Path) -> None:
    assert list(shape.functions(_sources(tmp_path))) == [
        shape.Function("code.py:method", lines=4, arguments=2, complexity=3)
    ]


def test_figures_of_a_tree(tmp_path: Path) -> None:
    figures = {row.what: row.value for row in shape.measure(_sources(tmp_path), test_lines=42)}
    assert figures["files / lines"] == "1 / 21"
    assert figures["frozen dataclasses"] == "1 of 2"
    assert figures["most arguments"] == "2 (code.py:method)"
    assert figures["test lines / source lines"] == "2.00"
    assert figures["`Any` per 1000 lines"] == "47.6"


def test_it_prints_a_table_and_the_files() -> None:
    done = subprocess.run([sys.executable, shape.__file__, "--files"], capture_output=True, text=True, check=True)
    assert "| largest file |" in done.stdout
    assert "vqonnx/errors.py" in done.stdout.replace("\\", "/")
