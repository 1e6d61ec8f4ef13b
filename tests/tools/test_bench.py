import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bench
from benchmarks import isolate
from benchmarks.clock import RuntimeClock
from benchmarks.feeds import spool, stream
from benchmarks.isolate import Failure
from benchmarks.peer import PeerReader
from benchmarks.settings import find_assets
from benchmarks.tables import Column, Spread, Table
from models.gemm import gemm

TABLE = Table(
    "A title",
    "A note.",
    (Column("name", "name"), Column("x", "x", 2), Column("empty", "empty")),
    ({"name": "one", "x": Spread(1.0, 0.5, 2.0)}, {"name": "two", "x": None}),
)
EVALUATION = """
import numpy as np
import onnxruntime as ort


def calibration_samples(n):
    return [{"x": np.full((3, 8), i, np.float32)} for i in range(n)]


def evaluate(model, float_model=None):
    ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return {"acc": 0.5, "sqnr_db": 30.0}
"""


def _asset(folder: Path, name: str = "tiny") -> Path:
    (folder / name).mkdir()
    (folder / name / "eval.py").write_text(EVALUATION)
    (folder / name / "model.onnx").write_bytes(gemm((5,)).SerializeToString())
    return folder / name


def test_markdown_shows_spreads_and_leaves_empty_columns_out() -> None:
    assert TABLE.markdown().splitlines()[-4:] == [
        "| name | x |",
        "|---|---|",
        "| one | 1.00 (0.50-2.00) |",
        "| two | - |",
    ]


def test_json_keeps_the_figures() -> None:
    assert json.loads(json.dumps(TABLE.json()))["rows"][0]["x"] == {"median": 1.0, "low": 0.5, "high": 2.0}


def test_spread_of_equal_values_is_one_number() -> None:
    assert Spread.of([2.0]).text(1) == "2.0"
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_readme_is_changed_between_its_markers_only(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("head\n<!-- bench:begin -->\nold\n<!-- bench:end -->\ntail\n")
    bench.write_readme(path, [TABLE])
    text = path.read_text()
    assert text.startswith("head\n<!-- bench:begin -->\n")
    assert text.endswith("\n<!-- bench:end -->\ntail\n")
    assert "### A title" in text
    assert "old" not in text


def test_assets_are_found_by_part_of_their_name(tmp_path: Path) -> None:
    _asset(tmp_path, "one")
    (_asset(tmp_path, "two") / "model.onnx").unlink()
    assert [(asset.name, asset.missing) for asset in find_assets(tmp_path, ())] == [
        ("one", ""),
        ("two", "there is no model.onnx"),
    ]
    assert [asset.name for asset in find_assets(tmp_path, ("tw",))] == ["two"]
    assert find_assets(None, ()) == ()


def test_feeds_come_back_from_files_in_order(tmp_path: Path) -> None:
    assert spool(({"x": np.full(2, i)} for i in range(12)), tmp_path / "feeds") == 12
    assert [int(feed["x"][0]) for feed in stream(tmp_path / "feeds", 11)] == list(range(11))
    reader = PeerReader(tmp_path / "feeds", 1)
    assert reader.get_next() is not None
    assert reader.get_next() is None


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    failure = isolate.run("spool", asset=tmp_path, count=1, folder=tmp_path / "feeds")
    assert isinstance(failure, Failure)
    assert "eval.py" in failure.reason


def test_clock_counts_the_runtime_and_puts_its_methods_back(tmp_path: Path) -> None:
    import onnxruntime as ort

    run = ort.InferenceSession.run
    with RuntimeClock() as clock:
        session = ort.InferenceSession(gemm(None).SerializeToString(), providers=["CPUExecutionProvider"])
        made = clock.seconds
        session.run(None, {"x": np.zeros((3, 8), np.float32)})
    assert 0 < made < clock.seconds
    assert ort.InferenceSession.run is run


@pytest.mark.slow
@pytest.mark.peer
def test_bench_measures_an_asset_and_skips_one_without_a_model(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    _asset(assets)
    (_asset(assets, "empty") / "model.onnx").unlink()
    options = ["--section", "models", "--repeat", "1", "--samples", "9", "--rounds", "3", "--json", str(tmp_path / "j")]
    command = [sys.executable, Path(bench.__file__), "--assets", assets, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skipped: there is no model.onnx" in done.stdout
    tables = {table["title"]: table["rows"] for table in json.loads((tmp_path / "j").read_text())}
    row = next(row for row in tables["tiny"] if row["tool"] == "onnxruntime, default")
    assert row["sqnr_db"] == 30.0
    assert row["peak_mib"]["median"] > 10
    assert row["latency"]["low"] <= row["latency"]["median"] <= row["latency"]["high"]
