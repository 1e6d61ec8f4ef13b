"""Targets by name: those shipped here, and those that other packages register as entry points."""

from collections.abc import Mapping
from importlib.metadata import entry_points

from vqonnx.core.target import Target
from vqonnx.errors import OptionError, nearest
from vqonnx.targets import cpu, directml, onnxruntime, openvino, qnn, tensorrt, vitis

ENTRY_POINT_GROUP = "vqonnx.targets"
_MODULES = (cpu, directml, onnxruntime, openvino, qnn, tensorrt, vitis)
_SHIPPED: Mapping[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}


def target_names() -> list[str]:
    """Names of all targets, shipped and registered, in alphabetical order."""
    return sorted({*_SHIPPED, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def get_target(name: str) -> Target:
    """The target of that name.

    Args:
        name: ``"cpu-x86-vnni"``, ``"directml"`` …; see ``target_names``. The name ``"cpu"`` is resolved to the
            machine at hand before it comes here (``runtime.machine``).

    Raises:
        OptionError: No such target, or an entry point that is not a ``Target``.
    """
    if name in _SHIPPED:
        return _SHIPPED[name]
    registered = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in registered:
        known = target_names()
        raise OptionError(
            f"target {name!r} is not known{nearest(name, known)}. Known are 'cpu' (this machine), "
            f"{', '.join(map(repr, known))}; other packages add targets by the entry point group "
            f"{ENTRY_POINT_GROUP!r}.",
            option="target",
        )
    target = registered[name].load()
    if not isinstance(target, Target):
        raise OptionError(
            f"the entry point {name!r} of group {ENTRY_POINT_GROUP!r} is a {type(target).__name__}, "
            f"not a vqonnx.core.target.Target.",
            option="target",
        )
    return target
