"""Work that grows faster than the graph; see the index."""

from pathlib import Path
from typing import Any

from models.chains import conv_chain
from tests.faults.flow import static
from tests.quantizers.flow import normals


def test_work_grows_in_line_with_the_graph(count_calls: Any, tmp_path: Path) -> None:
    feeds = normals(2, {"x": (1, 4, 4, 4)})

    def work(convs: int) -> int:
        made: int = count_calls(lambda: static(conv_chain(convs), tmp_path / "m.onnx", feeds, verify=False))
        return made

    work(5)  # what is loaded and compiled once
    small, middle, large = work(5), work(15), work(35)
    assert large - middle < 1.15 * 2 * (middle - small)
