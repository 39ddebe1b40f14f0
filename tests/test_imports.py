"""Imports go one way (each entry lists what a module may import of valley_cli; imports inside functions count)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "valley_cli"
EVERYWHERE = {"", "errors", "text"}
PLAIN = EVERYWHERE | {"engine.base", "engine.registry", "libraries"}
MEDIA = {"media", "media.address", "media.cache", "media.fetch", "media.image", "media.pinned", "media.web"}
VIDEO = {"media.video", "media.video_sheet", "media.video_child", "media.video_reader", "media.video_select"}
DECODING = {f"media.video_{name}" for name in ("av", "decord", "pillow", "select", "types", "worker")}  # in the child
PREVIEW = {"media.preview", "media.preview_sixel"}
CONFIG = {"engine.models.config"}
FILES = {"engine.geometry", "engine.tokenizer", "engine.literal", "engine.prompt", "engine.preprocess"}
FILES |= {"engine.checkpoint"} | CONFIG
MODELS = {
    f"engine.models.{name}"
    for name in ("config", "fused", "layers", "products", "projector", "text", "valley", "vision")
}
COMMAND = {"commands", "commands.options", "commands.output", "settings", "render", "engine"} | PLAIN
BATCH = {
    "batch",
    *(f"batch.{name}" for name in ("disk", "dryrun", "filing", "index", "lines", "output", "pipeline")),
    *(f"batch.{name}" for name in ("progress", "records", "report", "rows", "run")),
}
TALK = {"messages", "moments", "inputs", "render", "settings"} | PLAIN
SLASH = {"chat.attach", "chat.conversation", "chat.session", "chat.store"} | TALK
RUNNING = {"engine.detokenize", "engine.failure", "engine.sequence", "engine.scheduler", "engine.space"}
TENSORS = {
    "engine.graphs",
    "engine.static",
    "engine.towers",
    "engine.runner",
    "engine.sampler",
    "engine.kvcache",
    "engine.mapped",
    "engine.weights",
} | MODELS

ALLOWED: dict[str, set[str]] = {
    "": set(),
    "__main__": {"app"} | EVERYWHERE,
    "app": EVERYWHERE,
    "errors": set(),
    "text": set(),
    "libraries": {"errors", "text"},
    "settings": PLAIN,
    "descriptors": {"errors"},
    "gather": PLAIN,
    "inputs": {"descriptors", "gather"} | PLAIN,
    "moments": PLAIN,
    "messages": {"", "moments", "settings"} | PLAIN,
    "render": PLAIN,
    "chat": set(),
    "chat.conversation": PLAIN,
    "chat.opening": PLAIN,
    "chat.store": PLAIN,
    "chat.attach": {"chat.conversation", "media.fetch", "media.image", "media.video"} | TALK,
    "chat.room": {"chat.conversation"} | PLAIN,
    "chat.session": {f"chat.{name}" for name in ("attach", "conversation", "opening", "room", "store")} | TALK,
    "chat.stages": {"chat.session"} | TALK,
    **dict.fromkeys(PREVIEW, PREVIEW | MEDIA | PLAIN),
    **{f"chat.slash_{name}": SLASH | PREVIEW for name in ("media", "model", "files")},
    "chat.slash": {"chat"} | {f"chat.slash_{name}" for name in ("media", "model", "files")} | SLASH,
    "chat.complete": {"chat.slash", "chat.slash_model"} | PLAIN,
    "chat.lines": {"chat.session", "chat.slash"} | PLAIN,
    "chat.editor": {"chat.complete", "chat.slash", "chat.store"} | PLAIN,
    "chat.terminal": {f"chat.{name}" for name in ("editor", "session", "slash", "slash_media", "stages")} | TALK,
    "commands": set(),
    "commands.options": {"settings"} | PLAIN,
    "commands.output": PLAIN,
    "commands.batch": COMMAND | {"inputs", "engine.probe"} | BATCH,
    **dict.fromkeys(BATCH, BATCH | {"inputs", "messages", "moments", "settings", "render"} | PLAIN),
    "batch.report": BATCH | {"media.image", "media.video", "render"} | PLAIN,
    "commands.chat": COMMAND
    | {"chat"}
    | {f"chat.{name}" for name in ("attach", "lines", "opening", "session", "stages", "store", "terminal")},
    "commands.answering": COMMAND | {"media.preview"},
    "commands.describe": COMMAND | {"commands.answering", "inputs"},
    "commands.clips": COMMAND | MEDIA | VIDEO,
    "commands.pictures_out": COMMAND | MEDIA | VIDEO,
    "commands.video": COMMAND
    | {"commands.answering", "commands.clips", "commands.pictures_out", "inputs", "moments"}
    | MEDIA
    | VIDEO,
    "commands.bench": COMMAND | {"engine.probe"},
    "media": set(),
    **dict.fromkeys(MEDIA - {"media"}, MEDIA | {"descriptors"} | PLAIN),
    **dict.fromkeys(DECODING, {"media"} | DECODING | PLAIN),
    **dict.fromkeys(VIDEO, MEDIA | VIDEO | PLAIN),
    "engine": {"engine.local"} | PLAIN,
    "engine.base": set(),
    "engine.registry": {"engine.base"},
    "engine.tensorfiles": {"errors"},
    "engine.snapshot": {"engine.tensorfiles", "errors"},
    "engine.hub_errors": {"engine.snapshot"} | PLAIN,
    "engine.shards": {"engine.snapshot", "engine.hub_errors"} | PLAIN,
    "engine.download": {"engine.tensorfiles", "engine.snapshot", "engine.hub_errors", "engine.shards"} | PLAIN,
    "engine.hub": {"engine.snapshot", "engine.hub_errors", "engine.download"} | PLAIN,
    "engine.geometry": PLAIN,
    "engine.limit": {"errors"},
    "engine.models": set(),
    "engine.models.config": PLAIN,
    "engine.tokenizer": PLAIN,
    "engine.literal": PLAIN,
    "engine.prompt": {"engine.literal", "engine.tokenizer"} | PLAIN,
    "engine.preprocess": {"engine", "engine.geometry"} | PLAIN,
    "engine.checkpoint": {"engine.tensorfiles"} | FILES | PLAIN,
    "engine.reading": {"engine", "engine.probe"} | FILES | MEDIA | VIDEO | PLAIN,
    "engine.prepare": {"engine", "engine.reading", "media.cache"} | FILES | PLAIN,
    "engine.probe": {"engine.checkpoint"} | PLAIN,
    **dict.fromkeys(RUNNING, RUNNING | PLAIN),
    # the names of what it carries and does not look into
    "engine.sequence": {"engine.prepare", "engine.runner", "engine.sampler"} | RUNNING | PLAIN,
    **{name: {"engine", "engine.geometry"} | MODELS | PLAIN for name in MODELS - CONFIG},
    "engine.kvcache": {"engine.space"} | MODELS | PLAIN,
    "engine.sampler": PLAIN,
    "engine.towers": FILES | MODELS | PLAIN,
    "engine.static": {"engine.sampler"} | MODELS | PLAIN,
    "engine.graphs": {"engine.static"} | MODELS | PLAIN,
    "engine.mapped": {"engine.tensorfiles"} | PLAIN,
    "engine.weights": {"engine.mapped", "engine.probe"} | FILES | MODELS | PLAIN,
    "engine.runner": {"engine.probe", "engine.space"} | TENSORS | FILES | PLAIN,
    "engine.budget": {"engine.runner"} | RUNNING | PLAIN,
    "engine.worker": {"engine.budget", "engine.runner", "engine.sampler"} | RUNNING | PLAIN,
    "engine.local": {
        "engine",
        "engine.hub",
        "engine.limit",
        "engine.prepare",
        "engine.probe",
        "engine.reading",
        "engine.runner",
        "engine.worker",
    }
    | RUNNING
    | FILES
    | PLAIN,
}
TORCH_ALLOWED = TENSORS | {"engine.probe"}
HEAVY = {"torch", "transformers", "safetensors"}
# packages that only some modules may import, wherever the import stands
RESERVED = {
    "typer": {"app"} | {f"commands.{name}" for name in ("options", "describe", "video", "chat", "batch", "bench")},
    "requests": {"media.pinned", "media.web"},
    "huggingface_hub": {"engine.hub", "engine.hub_errors", "engine.shards", "engine.download"},
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


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str) -> None:
    allowed = ALLOWED[module] | {module}
    ours = {
        name.removeprefix("valley_cli").lstrip(".") for name in imports(module) if name.split(".")[0] == "valley_cli"
    }
    assert ours <= allowed, f"{module} imports {sorted(ours - allowed)}"


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


def test_the_table_names_no_module_that_is_gone() -> None:
    assert set(ALLOWED) <= set(modules())
