"""The arrows of vqonnx/DESIGN.md: which room may import which, and which packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1] / "vqonnx"

# Each room and the rooms it stands on; what those stand on is allowed too.
STANDS_ON = {
    "core": (),
    "kernels": ("core",),
    "algorithms": ("kernels",),
    "targets": ("core",),
    "graph": ("kernels",),
    "ops": ("graph",),
    "runtime": ("ops",),
    "planning": ("graph", "targets", "algorithms"),
    "transforms": ("runtime",),
    "emitters": ("runtime", "targets"),
    "calibration": ("runtime",),
    "report": ("runtime", "planning"),
    "stages": ("planning", "transforms", "emitters", "calibration", "report", "algorithms"),
    "quantizers": ("stages",),
    "flows": ("quantizers",),
    "api": ("flows",),
    "cli": ("api",),
    "compat": ("api",),
}
EVERYWHERE = {"errors", "version", "progress"}
TOP = {"__init__", "__main__"}

NO_ONNX = {"core", "kernels", "algorithms", "targets"}
ONNX_PACKAGES = {"onnx", "onnx_ir", "onnxruntime"}
PROTOBUF_ROOMS = {"graph", "quantizers", "api", "compat"}
PROTOBUF_FILES = {
    "transforms/opset.py",  # ONNX's version converter and schemas
    "transforms/symbolic.py",  # shape inference
    "calibration/folder.py",  # samples stored as TensorProto
    "planning/selection.py",  # the schemas' operator names
    "stages/verify.py",  # ONNX's checker
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


class _WithoutTypes(ast.NodeTransformer):
    """Drops ``if TYPE_CHECKING`` blocks: what only annotations name is not loaded."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)


@cache
def imported(path: Path) -> list[tuple[str, int]]:
    """Each module that the file imports when it runs, at any depth, with its line."""
    return list(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(_WithoutTypes().visit(ast.parse(path.read_text("utf-8")))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def reach(start: str) -> set[str]:
    """``start`` and all rooms below it."""
    return {start}.union(*(reach(below) for below in STANDS_ON[start]))


def test_the_table_has_every_room():
    rooms = {room(path) for path in sources()} - EVERYWHERE - TOP
    assert rooms <= set(STANDS_ON)


def test_imports_follow_the_arrows():
    for path in sources():
        own = room(path)
        allowed = EVERYWHERE | (set(STANDS_ON) if own in TOP else EVERYWHERE if own in EVERYWHERE else reach(own))
        for module, line in imported(path):
            if module.startswith("vqonnx."):
                assert module.split(".")[1] in allowed, f"{path}:{line}: {own} must not import {module}"


def test_onnx_stays_in_its_rooms():
    for path in sources():
        own, name = room(path), path.relative_to(ROOT).as_posix()
        for module, line in imported(path):
            package = module.split(".")[0]
            if own in NO_ONNX | EVERYWHERE:
                assert package not in ONNX_PACKAGES, f"{path}:{line}: {own} must not import {package}"
            if package == "onnx":
                assert own in PROTOBUF_ROOMS or name in PROTOBUF_FILES, f"{path}:{line}: protobuf outside its rooms"


def test_files_import_each_other_without_cycles():
    modules = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sources()}
    edges = {
        name: {
            found for module, _ in imported(path) for found in (module, module.rpartition(".")[0]) if found in modules
        }
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for below in sorted(edges[name]):
                visit(below, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_importing_vqonnx_loads_nothing_heavy():
    heavy = ("onnxruntime", "numba", "onnx_ir", "sympy", "typer")
    code = f"import sys, vqonnx; print(*[name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=60
    )
    assert result.stdout.split() == []
