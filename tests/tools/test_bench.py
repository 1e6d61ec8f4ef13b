import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bench
from benchmarks import isolate
from benchmarks.clock import RuntimeClock
from benchmarks.comparison import Comparison, defaults
from benchmarks.dynamic_variants import DYNAMIC_VARIANTS
from benchmarks.feeds import spool, stream
from benchmarks.isolate import Failure
from benchmarks.memory import AnonymousPeak, anonymous_mib, peak_mib
from benchmarks.peer import PeerReader
from benchmarks.settings import Settings, find_assets
from benchmarks.tables import Column, Spread, Table
from benchmarks.variants import FLOAT, OURS, PEER
from benchmarks.weights import failed
from models.gemm import gemm
from models.weights import decoder_with_cache

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


def test_readme_is_changed_between_the_markers_of_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    one, two = (f"<!-- bench:{name} -->\n{name} old\n<!-- end of bench:{name} -->\n" for name in ("one", "two"))
    path.write_text(f"head\n{one}middle\n{two}tail\n")
    bench.write_readme(path, {"two": [TABLE]})
    text = path.read_text()
    assert text.startswith(f"head\n{one}middle\n<!-- bench:two -->\n")
    assert text.endswith("\n<!-- end of bench:two -->\ntail\n")
    assert "### A title" in text
    assert "two old" not in text
    with pytest.raises(ValueError, match="no lines <!-- bench:three -->"):
        bench.write_readme(path, {"three": [TABLE]})


def test_readme_folds_details_behind_the_rest_and_leaves_out_what_was_skipped(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("<!-- bench:one -->\n<!-- end of bench:one -->\n")
    skipped = replace(TABLE, title="Last", rows=(*TABLE.rows, {"name": "three", "note": "skipped: no such module"}))
    nothing = replace(TABLE, title="Nothing", rows=skipped.rows[-1:])
    bench.write_readme(path, {"one": [replace(TABLE, detail=True), nothing, skipped]})
    text = path.read_text()
    assert text.index("### Last") < text.index("<details>\n<summary>A title</summary>\n\nA note.\n\n| name")
    assert "three" not in text
    assert "Nothing" not in text


def test_the_first_table_compares_default_calls(tmp_path: Path) -> None:
    rows = [{"tool": tool, "sqnr_db": 1.0} for tool in (FLOAT, OURS, PEER, "another setting")]
    table = defaults([replace(TABLE, title=name, rows=tuple(rows)) for name in ("a", "b")])
    assert [row["tool"] for row in table.rows] == [FLOAT, OURS, PEER] * 2
    assert [row["model"] for row in table.rows] == ["a", "", "", "b", "", ""]


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


@pytest.mark.skipif(anonymous_mib() is None, reason="the system does not tell anonymous memory")
def test_anonymous_peak_sees_memory_that_is_given_back() -> None:
    with AnonymousPeak() as peak:
        block = np.ones(16 << 20)
        time.sleep(0.1)
        del block
    assert 128 < peak.mib < peak_mib()
    assert anonymous_mib() < peak.mib


def test_anonymous_peak_is_left_out_where_it_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.memory._STATUS", tmp_path / "absent")
    with AnonymousPeak() as peak:
        pass
    assert peak.mib is None


def test_a_tool_that_is_not_installed_is_skipped() -> None:
    assert failed(Failure("ModuleNotFoundError: No module named 'quark'")).startswith("skipped: ")
    assert failed(Failure("ValueError: no")) == "fails: ValueError: no"


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


LANGUAGE = """
import numpy as np
import onnxruntime as ort


def calibration_samples(n):
    return [{"ids": np.arange(i, i + 8) % 24} for i in range(n)]


def evaluate(model):
    ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return {"perplexity": 24.0}
"""


@pytest.mark.slow
@pytest.mark.peer
def test_bench_packs_the_weights_of_a_language_model(tmp_path: Path) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    _asset(assets, "image")
    folder = _asset(assets, "language")
    (folder / "eval.py").write_text(LANGUAGE)
    (folder / "model.onnx").write_bytes(decoder_with_cache().SerializeToString())
    options = ["--section", "weights", "--repeat", "1", "--json", str(tmp_path / "j")]
    command = [sys.executable, Path(bench.__file__), "--assets", assets, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads((tmp_path / "j").read_text())
    assert table["title"] == "language, weights"
    rows = {row["tool"]: row for row in table["rows"]}
    for tool in ("vqonnx gptq asym, block 32", "onnxruntime asym, block 32"):
        assert rows[tool]["perplexity"] == 24.0
        assert rows[tool]["seconds"]["median"] > 0
    assert all("perplexity" in row or row["note"].startswith(("skipped: ", "fails: ")) for row in rows.values())


@pytest.mark.slow
@pytest.mark.peer
def test_solvers_are_measured_against_the_peers_on_equal_terms() -> None:
    run = isolate.run("weight_kernel", kernel="rtn asym against quantize_matmul_4bits")
    assert not isinstance(run, Failure)
    assert run["ours"] > 0
    assert run["error"] == pytest.approx(1, rel=0.01)


@pytest.mark.slow
def test_dynamic_variants_need_no_samples(tmp_path: Path) -> None:
    settings = Settings(assets=(), repeat=1, samples=8, rounds=2, full=False, work=tmp_path)
    (asset,) = find_assets(_asset(tmp_path).parent, ())
    ours = {OURS: DYNAMIC_VARIANTS[OURS]}
    table = Comparison(asset, settings, tmp_path, ours, "dynamic").table()
    assert table.title == "tiny, dynamic"
    assert "No samples." in table.note
    _, row = table.rows
    assert row["task"] == "accuracy 50.00%"
    assert row["megabytes"] < 1
    assert "mib_per_sample" not in row
