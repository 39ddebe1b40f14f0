"""The floors of the house: imports go down."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "valley_cli"
# From the top floor down: a module may import its own room and whatever lies on a lower floor, nothing of a room beside
# it. A module belongs to the longest name here that it begins with. Imports inside functions count.
FLOORS: list[tuple[str, ...]] = [
    ("__main__",),
    ("app",),
    ("commands",),
    ("commands.shared",),
    ("chat", "batch"),
    ("terminal",),
    ("sources",),
    ("engine",),
    ("engine.local",),
    ("engine.run",),
    ("engine.schedule",),
    ("engine.families.valley",),
    ("engine.families",),
    ("engine.layers",),
    ("engine.hub",),
    ("engine.checkpoint",),
    ("engine.device",),
    ("media.request",),
    ("media.cache", "media.clip"),
    ("media.picture",),
    ("media.fetch",),
    ("media",),
    ("settings",),
    ("api",),
    ("libraries", "descriptors"),
    ("text", "errors"),
    ("",),
]
# What decodes a clip runs in a process of its own and starts as light as it can.
CHILD = {f"media.clip.{name}" for name in ("libav", "decord", "pillow", "select", "types", "worker")}
TORCH_ALLOWED = {
    "engine.device.probe",
    "engine.checkpoint.mapped",
    *(f"engine.layers.{name}" for name in ("basic", "decoder", "fused", "matmul", "vision")),
    *(f"engine.families.valley.{name}" for name in ("model", "projector", "weights", "opened")),
    *(f"engine.run.{name}" for name in ("cuda_graphs", "decode_step", "encoders", "kvcache", "runner", "sampler")),
    "engine.run.unread",
    "engine.families.base",
}
# of these only for the names of what they carry: at run time they do without
NAMES_ONLY = {"engine.families.base", "engine.families.valley.opened", "engine.run.unread"}
HEAVY = {"torch", "transformers", "safetensors"}
# packages that only some modules may import, wherever the import stands
RESERVED = {
    "typer": {"app", "commands.shared.options"}
    | {f"commands.{name}" for name in ("describe", "video", "chat", "batch", "bench")},
    "requests": {"media.fetch.pinned", "media.fetch.web"},
    "huggingface_hub": {f"engine.hub.{name}" for name in ("resolve", "errors", "shards", "download")},
}


def modules() -> list[str]:
    """Dotted names under valley_cli; packages by their own name."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def imports(module: str) -> Iterator[str]:
    """Every module ``module`` imports, in full."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (_submodule(f"{node.module}.{alias.name}") or str(node.module) for alias in node.names)


def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _submodule(name: str) -> str | None:
    path = ROOT.joinpath(*name.split("."))
    return name if path.is_dir() or path.with_suffix(".py").is_file() else None


def room_of(module: str) -> tuple[int, str]:
    """(floor, room) of a module: of the longest name that it begins with."""
    rooms = [(floor, room) for floor, names in enumerate(FLOORS) for room in names]
    fitting = [(floor, room) for floor, room in rooms if module == room or (room and module.startswith(f"{room}."))]
    assert fitting, f"{module} stands on no floor"
    return max(fitting, key=lambda found: len(found[1]))


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    floor, room = room_of(module)
    for name in imports(module):
        if name.split(".")[0] != "valley_cli":
            continue
        imported = name.removeprefix("valley_cli").lstrip(".")
        to_floor, to_room = room_of(imported)
        may = to_room == room or to_floor > floor
        assert may, f"{module} (floor {floor}, {room}) imports {imported} (floor {to_floor}, {to_room})"


@pytest.mark.parametrize("module", sorted(CHILD))
def test_what_decodes_clips_starts_light(module: str) -> None:
    ours = {name.removeprefix("valley_cli.") for name in imports(module) if name.startswith("valley_cli")}
    assert ours <= CHILD | {"media.clip", "api", "errors", "text", "libraries"}


@pytest.mark.parametrize("module", sorted(NAMES_ONLY))
def test_what_only_names_tensors_runs_without_torch(module: str) -> None:
    code = f"import valley_cli.{module}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_have_one_door(module: str) -> None:
    packages = {name.split(".")[0] for name in imports(module)}
    if module not in TORCH_ALLOWED:
        assert not packages & HEAVY
    for package, owners in RESERVED.items():
        assert package not in packages or module in owners, f"{module} imports {package}"


def test_names_are_imported_from_where_they_are_made() -> None:
    made = {f"valley_cli.{module}".rstrip("."): set(names_made(module)) for module in modules()}
    for path in sorted(
        path for folder in ("valley_cli", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in made:
                passed_on = {
                    alias.name
                    for alias in node.names
                    if alias.name not in made[node.module] and not _submodule(f"{node.module}.{alias.name}")
                }
                assert not passed_on, (
                    f"{path.name} imports {passed_on} from {node.module}, which has them from elsewhere"
                )


def names_made(module: str) -> Iterator[str]:
    """What a module defines at its top."""
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def test_the_table_names_no_room_that_is_gone() -> None:
    rooms = {room for names in FLOORS for room in names}
    assert rooms <= set(modules())
    assert {room_of(module)[1] for module in modules()} == rooms
    assert set(modules()) >= CHILD | TORCH_ALLOWED
