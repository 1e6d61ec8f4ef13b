"""Targets by name: shipped, registered by other packages, and unknown ones."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

import vqonnx.targets.registry as registry
from models.matmuls import linear_bias
from tests.quantizers.flow import plan_of
from vqonnx.errors import OptionError
from vqonnx.targets.cpu import CPU_X86_VNNI
from vqonnx.targets.directml import DIRECTML
from vqonnx.targets.registry import get_target, target_names

THIRD_PARTY = replace(DIRECTML, name="toaster", description="of another package")
NOT_A_TARGET = {"name": "toaster"}


def register(patch: pytest.MonkeyPatch, **objects: str) -> None:
    entries = [EntryPoint(name, f"{__name__}:{value}", registry.ENTRY_POINT_GROUP) for name, value in objects.items()]

    def entry_points(*, group: str) -> list[EntryPoint]:
        return entries if group == "vqonnx.targets" else []

    patch.setattr(registry, "entry_points", entry_points)


def test_the_shipped_targets_are_found_by_name() -> None:
    assert {"cpu-x86-vnni", "cpu-x86-avx2", "cpu-arm", "directml"} <= set(target_names())
    assert target_names() == sorted(target_names())
    for name in target_names():
        assert get_target(name).name == name


def test_another_package_adds_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, toaster="THIRD_PARTY")
    monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.attr])
    assert "toaster" in target_names()
    assert get_target("toaster") is THIRD_PARTY
    assert plan_of(linear_bias(), "toaster").target == "toaster"


def test_a_shipped_target_cannot_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, **{"cpu-x86-vnni": "THIRD_PARTY"})
    assert get_target("cpu-x86-vnni") is CPU_X86_VNNI
    assert target_names().count("cpu-x86-vnni") == 1


def test_an_entry_point_must_be_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, toaster="NOT_A_TARGET")
    monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.attr])
    with pytest.raises(OptionError) as caught:
        get_target("toaster")
    assert str(caught.value) == (
        "the entry point 'toaster' of group 'vqonnx.targets' is a dict, not a vqonnx.core.target.Target."
    )
    assert caught.value.option == "target"


def test_an_unknown_target_is_an_error_that_offers_the_nearest() -> None:
    with pytest.raises(OptionError) as caught:
        get_target("cpu-x86-vnnii")
    assert str(caught.value).startswith("target 'cpu-x86-vnnii' is not known (did you mean 'cpu-x86-vnni'")
    assert "Known are 'cpu' (this machine), 'cpu-arm', " in str(caught.value)
    assert "'vqonnx.targets'" in str(caught.value)
    assert caught.value.option == "target"
