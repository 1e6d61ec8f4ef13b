import numpy as np
import pytest

from vqonnx.errors import OptionError
from vqonnx.runtime import machine


def vpmaddubsw_dot(activation: np.ndarray, weight: np.ndarray) -> int:
    """A uint8 x int8 dot product as AVX2 adds it: pairs in int16 with saturation (vpmaddubsw), then in int32."""
    products = activation.astype(np.int32) * weight.astype(np.int32)
    return int(np.clip(products.reshape(-1, 2).sum(axis=1), -(1 << 15), (1 << 15) - 1).sum())


def test_saturating_pairs_mean_avx2():
    activation = np.full(machine._DEPTH, machine._ACTIVATION, np.uint8)
    weight = np.full(machine._DEPTH, machine._WEIGHT, np.int8)
    dot = vpmaddubsw_dot(activation, weight)
    assert dot < machine.exact_dot()
    assert machine.target_of("AMD64", dot) == "cpu-x86-avx2"


@pytest.mark.parametrize("name", ["x86_64", "AMD64"])
def test_exact_sums_mean_vnni(name):
    assert machine.target_of(name, machine.exact_dot()) == "cpu-x86-vnni"


@pytest.mark.parametrize("name", ["aarch64", "arm64", "ARM64"])
def test_arm_is_told_by_its_name(name, monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: name)
    assert machine.cpu_target_name() == "cpu-arm"


def test_other_processors_must_be_named():
    with pytest.raises(
        OptionError, match=r"processor 'riscv64' is neither x86 nor Arm.*Name one with target="
    ) as caught:
        machine.target_of("riscv64", 0)
    assert caught.value.option == "target"


def test_this_machine_has_a_target():
    assert machine.cpu_target_name() in ("cpu-x86-vnni", "cpu-x86-avx2", "cpu-arm")


def test_the_probe_runs_the_kernel_it_asks_about():
    """Nothing is folded away, and the sums are either exact or those of the saturating instruction."""
    weight = np.full(machine._DEPTH, machine._WEIGHT, np.int8)
    activation = np.full(machine._DEPTH, machine._ACTIVATION, np.uint8)
    assert machine.largest_dot() in (machine.exact_dot(), vpmaddubsw_dot(activation, weight))
