import subprocess
import sys

import numpy as np
import pytest

from models import digits


def test_float_model_reads_nearly_all_digits() -> None:
    assert digits.evaluate(digits.MODEL) == pytest.approx(99.84, abs=0.02)


def test_calibration_never_overlaps_evaluation() -> None:
    seen = {feed["input"].tobytes() for feed in digits.calibration_samples(digits.CALIBRATION_SIZE)}
    images, _ = digits._split(slice(digits.CALIBRATION_SIZE, None))
    assert len(images) == 9_000
    assert not seen & {digits._normalised(images[i : i + 1]).tobytes() for i in range(len(images))}


def test_more_samples_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"count must lie in 0\.\.1000, got 1001"):
        digits.calibration_samples(1001)


def test_samples_command_writes_one_file_each(tmp_path) -> None:
    command = [sys.executable, "-m", "models.digits", "samples", str(tmp_path), "--count", "3"]
    subprocess.run(command, check=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["0000.npz", "0001.npz", "0002.npz"]
    with np.load(tmp_path / names[2]) as sample:
        np.testing.assert_array_equal(sample["input"], digits.calibration_samples(3)[2]["input"])


@pytest.mark.slow
def test_compare_command_fails_on_a_drop() -> None:
    command = [sys.executable, "-m", "models.digits", "compare", digits.MODEL, digits.MODEL]
    same = subprocess.run([*command, "--limit", "0"], capture_output=True, text=True, check=False)
    assert same.returncode == 0
    assert same.stdout.count("99.84 %") == 2
    worse = subprocess.run([*command, "--limit", "-1"], capture_output=True, text=True, check=False)
    assert worse.returncode == 1
    assert "accuracy dropped by 0.00 points; at most -1.0 were allowed" in worse.stderr
