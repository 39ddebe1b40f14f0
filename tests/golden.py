"""Run golden cases through the product's own code: ``python -m tests.golden FOLDER...``

A FOLDER is a golden checkpoint folder (``checkpoint/`` and ``cases/``), ``geometry/`` or a folder with
``golden_tokens.json``. One line a case, with the first stage that differs; exit code 1 if any does.
The format and the tolerances are those of the golden README.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.answers import generate, pictures_of, plan_of, prepared_of
from valley_cli.api import EngineOptions, Media, Message, Request, Sampling, TextDelta
from valley_cli.engine.checkpoint.tokenizer import load_tokenizer
from valley_cli.engine.families.base import Prepared
from valley_cli.engine.families.valley import geometry
from valley_cli.engine.families.valley.model import Valley
from valley_cli.engine.families.valley.opened import CheckpointFiles, read_checkpoint
from valley_cli.engine.families.valley.prepare import ValleyPlan
from valley_cli.engine.families.valley.preprocess import CLIP_MEAN, CLIP_STD, Picture
from valley_cli.engine.families.valley.prompt import IMAGE_ID, PromptBuilder, place_pictures
from valley_cli.engine.local import LocalEngine
from valley_cli.engine.run.runner import load_runner
from valley_cli.engine.schedule.detokenize import Detokenizer
from valley_cli.engine.schedule.slots import Slot

FEATURE_TOLERANCE = 2e-4
LOGIT_TOLERANCE = 1e-3
MARGIN = 0.002  # below this the reference's own next token depends on rounding
UNIT = 28 * 28
LIMITS: dict[str, tuple[int | None, int | None]] = {
    "default": (None, None),
    "max1280": (None, 1280 * UNIT),
    "max256": (None, 256 * UNIT),
    "min1280": (1280 * UNIT, None),
    "100_1280": (100 * UNIT, 1280 * UNIT),
}


class DiffersError(AssertionError):
    """A stage differs from the reference; the text says which and how."""


def same(stage: str, found: Any, expected: Any) -> None:
    """Raise DiffersError naming ``stage`` unless the two are equal."""
    if found != expected:
        raise DiffersError(f"{stage}: {str(found)[:120]} instead of {str(expected)[:120]}")


def close(stage: str, found: Any, expected: Any, tolerance: float) -> None:
    """Raise DiffersError unless no element is further away than ``tolerance``."""
    same(f"{stage} shape", found.shape, expected.shape)
    worst = float(np.abs(found - expected).max(initial=0.0))
    if not worst <= tolerance:
        raise DiffersError(f"{stage}: off by {worst:.2g}, allowed {tolerance:.2g}")


def sha256(array: Any) -> str:
    """Of the bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class Case:
    """One golden case, run stage by stage and then as a whole through the engine."""

    def __init__(self, path: Path) -> None:
        self.expected: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as arrays:
            self.arrays = dict(arrays)
        self.folder = path.parent.parent
        self.request_json = self.expected["request"]

    @cached_property
    def files(self) -> CheckpointFiles:
        files = read_checkpoint(self.folder / "checkpoint", self.request_json.get("config_overrides"))
        init = dict((self.request_json.get("processor_kwargs") or {}).get("init") or {})
        if "only_navit" in init:
            init["siglip"] = not init.pop("only_navit")
        return replace(files, preprocess=replace(files.preprocess, **init))

    @property
    def images(self) -> list[str]:
        """Empty if there are none or the first is: the reference then takes its black picture."""
        names: list[str] = self.request_json.get("images") or []
        return names if names and names[0] else []

    @cached_property
    def request(self) -> Request:
        call = (self.request_json.get("processor_kwargs") or {}).get("call") or {}
        root = self.folder.parent
        return Request(
            messages=tuple(Message(m["role"], m["content"]) for m in self.request_json["conversations"]),
            images=tuple(Media(name, path=str(root / name)) for name in self.images),
            sampling=Sampling(max_new_tokens=self.expected["greedy"].get("max_new_tokens", 32)),
            think=self.request_json.get("enable_thinking"),
            flavour=self.expected["flavour"],
            exact=True,
            min_pixels=call.get("min_pixels"),
            max_pixels=call.get("max_pixels"),
        )

    def check(self) -> None:
        """Raises DiffersError at the first stage that is not the reference's."""
        plan = plan_of(self.files, self.request)
        prepared = prepared_of(self.files, plan)
        self._prompt(plan)
        self._pixels(plan, prepared)
        self._numbers(plan, prepared)
        self._answer()

    def _prompt(self, plan: ValleyPlan) -> None:
        prompt = plan.prompt
        same("prompt_text", prompt.text, self.expected["prompt_text"])
        same("input_ids", list(prompt.input_ids), self.expected["input_ids"])
        same("placeholders", prompt.n_placeholders, self.expected["input_ids"].count(IMAGE_ID))

    def _pixels(self, plan: ValleyPlan, prepared: Prepared) -> None:
        pictures = pictures_of(prepared)
        expected = self.expected["images_encoded"]
        costs = iter(plan.costs)
        for index, entry in enumerate(expected):
            if index >= len(pictures):
                break  # a picture without a placeholder: the reference encodes and then ignores it
            picture, cost = pictures[index], next(costs)
            where = f"picture {index}"
            same(f"{where} size", list(picture.plan.size_wh), entry["size"])
            if entry.get("siglip") and picture.tiles is not None:
                self._tiles(where, picture, entry["siglip"], index)
            elif picture.tiles is not None or (entry.get("siglip") and self.files.config.siglip):
                raise DiffersError(f"{where}: SigLIP tiles on one side only")
            self._patches(where, picture, entry["qwen2vl"], index)
            self._token_count(where, cost.tokens, entry["tokens"])

    def _tiles(self, where: str, picture: Picture, entry: dict[str, Any], index: int) -> None:
        tiles = picture.tiles
        assert tiles is not None
        same(f"{where} tiles", list(tiles.shape), entry["shape"])
        same(f"{where} tile bytes", sha256(np.round((tiles * 0.5 + 0.5) * 255).astype(np.uint8)), entry["sha256_u8"])
        same(f"{where} tile floats", sha256(tiles), entry["sha256_f32"])
        if (name := f"siglip_{index}_sub") in self.arrays:
            close(f"{where} tile values", tiles[:, :, ::32, ::32], self.arrays[name], 1e-6)

    def _patches(self, where: str, picture: Picture, entry: dict[str, Any], index: int) -> None:
        patches = picture.patches
        assert patches is not None
        same(f"{where} grid", [1, *picture.plan.grid_hw], entry["grid_thw"])
        mean, std = (np.repeat(np.array(v, np.float32), 392) for v in (CLIP_MEAN, CLIP_STD))
        same(
            f"{where} patch bytes", sha256(np.round((patches * std + mean) * 255).astype(np.uint8)), entry["sha256_u8"]
        )
        same(f"{where} patch floats", sha256(patches), entry["sha256_f32"])
        if (name := f"qwen2vl_{index}_rows") in self.arrays:
            close(f"{where} patch rows", patches[self.arrays[f"{name}_idx"]], self.arrays[name], 1e-6)

    def _token_count(self, where: str, found: int, entry: dict[str, int]) -> None:
        config = self.files.config
        expected = entry.get("siglip", 0) * bool(config.siglip) + entry.get("qwen2vl", 0) * bool(config.vit)
        same(f"{where} tokens", found, expected)

    def _numbers(self, plan: ValleyPlan, prepared: Prepared) -> None:
        """Features, merged length and last-position logits, through the runner."""
        runner = load_runner(self.files, "cpu", "float32")
        assert isinstance(runner.model, Valley)
        for index, picture in enumerate(pictures_of(prepared)):
            for name, rows in zip(("siglip", "qwen2vl"), runner.model.encode_towers([picture])[0], strict=True):
                key = f"feat_{name}_{index}"
                if key in self.arrays and rows is not None:
                    found = rows.numpy()[self.arrays[f"{key}_idx"]]
                    close(f"picture {index} {name} features", found, self.arrays[key], FEATURE_TOLERANCE)
        self._places(plan)
        merged = runner.embed_prompt(prepared.units, prepared.items, prepared.prompt_tokens)
        same("merged_length", len(merged), self.expected["merged_length"])
        same("counted length", plan.prompt_tokens, self.expected["merged_length"])
        runner.resize(len(merged))
        logits = runner.prefill(Slot(0, len(merged)), merged).numpy()
        top = self.expected["prefill"]["top5"]
        if np.diff(np.sort(logits)[-6:]).min() > MARGIN:
            same("top 5", list(np.argsort(-logits)[:5]), top)
        close("prefill logits", logits, self.arrays["prefill_logits_last"], LOGIT_TOLERANCE)

    def _places(self, plan: ValleyPlan) -> None:
        """Where each picture's rows stand in the merged sequence, and how many there are."""
        place = index = 0
        for token in plan.prompt.input_ids:
            if token != IMAGE_ID:
                place += 1
                continue
            cost = plan.costs[index]
            vit_rows = plan.plans[index].vit_tokens if self.files.config.vit else 0
            starts = {"siglip": place, "qwen2vl": place + cost.tokens - vit_rows}
            counts = {"siglip": cost.tokens - vit_rows, "qwen2vl": vit_rows}
            for name, entry in (self.expected["images_encoded"][index].get("features") or {}).items():
                same(f"picture {index} {name} rows", counts[name], entry["rows"])
                same(f"picture {index} {name} offset", starts[name], entry["offset_in_sequence"])
            place, index = place + cost.tokens, index + 1

    def _answer(self) -> None:
        """Greedy tokens and text, through the engine's own door."""
        options = EngineOptions(device="cpu", dtype="float32")
        engine = LocalEngine(self.files, self.folder.name, options)
        self.check_answer(engine)
        engine.close()

    def check_answer(self, engine: LocalEngine) -> None:
        """Greedy tokens and text through ``engine``."""
        *deltas, done = generate(engine, self.request)
        expected = self.expected["greedy"]
        ids, margins = list(done.token_ids), expected["top1_minus_top2"]  # type: ignore[union-attr]
        sure = next((step for step, margin in enumerate(margins) if margin < MARGIN), None)
        if ids == expected["ids"]:
            same("text_raw", decode(self.files, ids), expected["text_raw"])
            same("text of the ids", decode(self.files, ids).replace("<|im_end|>", ""), expected["text"])
            if not self.request.think:  # thinking is split off the stream
                same("text", "".join(d.text for d in deltas if isinstance(d, TextDelta)), expected["text"])
            return
        if sure is None or ids[:sure] != expected["ids"][:sure]:
            raise DiffersError(f"greedy ids: {ids} instead of {expected['ids']}")


def decode(files: CheckpointFiles, ids: list[int]) -> str:
    """The text of all ``ids``, special tokens kept."""
    detokenizer = Detokenizer(files.tokenizer.token_bytes)
    return "".join([*map(detokenizer.push, ids), detokenizer.finish()])


def check_geometry_row(row: dict[str, Any]) -> None:
    """One picture size of ``geometry.json``."""
    size = (row["size"][0], row["size"][1])
    layout = geometry.tile_layout(size, "(1x1),...,(3x3)", 384)
    same("best_resolution", list(layout.canvas_wh), row["best_resolution"])
    same("grid_wh", list(layout.grid_wh), row["grid_wh"])
    same("resized", list(layout.resized_wh), row["resized"])
    same("paste", list(layout.paste_xy), row["paste"])
    rows, cols = geometry.tile_map_hw(size, layout.grid_wh, 100_000)
    same("unpad", [rows, cols], [row["unpad"]["rows"], row["unpad"]["cols"]])
    if row["unpad"]["top"] is not None:
        map_hw = (layout.grid_wh[1] * 14, layout.grid_wh[0] * 14)
        top, _, left, _ = geometry.unpad_window(map_hw, size)
        same("unpad corner", [top, left], [row["unpad"]["top"], row["unpad"]["left"]])
    same("siglip_tokens", 196 + rows * cols, row["siglip_tokens"])
    fetched = geometry.fetch_size(size)
    same("fetch_image_wh", list(fetched), row["fetch_image_wh"])
    for name, expected in row["qwen2vl"].items():
        w, h = geometry.patch_size(fetched, *LIMITS[name])
        same(f"{name} final_wh", [w, h], expected["final_wh"])
        same(f"{name} grid_thw", [1, h // 14, w // 14], expected["grid_thw"])
        same(f"{name} tokens", h * w // UNIT, expected["tokens"])


def check_prompt(builder: PromptBuilder, row: dict[str, Any]) -> None:
    """One rendered prompt of ``golden_tokens.json``."""
    messages = [Message(m["role"], m["content"]) for m in row["conversations"]]
    turns = place_pictures(messages, [0] * len(messages), max(1, row["n_images"]))
    prompt = builder.build(turns, None)
    same("prompt_text", prompt.text, row["prompt_text"])
    same("input_ids", list(prompt.input_ids), row["input_ids"])


def check_plain(builder: PromptBuilder, row: dict[str, Any]) -> None:
    """One text of ``golden_tokens.json``, there and back."""
    tokenizer = builder.tokenizer
    same("ids", tokenizer.encode(row["text"]), row["ids"])
    detokenizer = Detokenizer(tokenizer.token_bytes)
    decoded = "".join([*map(detokenizer.push, row["ids"]), detokenizer.finish()])
    same("decoded", decoded, row["decoded"])


def cases_of(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) of everything in ``folder``; a check raises DiffersError."""
    if (folder / "geometry.json").is_file():
        for row in json.loads((folder / "geometry.json").read_text()):
            yield f"geometry/{row['size'][0]}x{row['size'][1]}", lambda row=row: check_geometry_row(row)  # type: ignore[misc]
    if (folder / "golden_tokens.json").is_file():
        golden = json.loads((folder / "golden_tokens.json").read_text(encoding="utf-8"))
        builder = PromptBuilder(load_tokenizer(folder))
        for index, row in enumerate(golden["prompts"]):
            yield f"{folder.name}/prompt-{index}", lambda row=row: check_prompt(builder, row)  # type: ignore[misc]
        for index, row in enumerate(golden["plain"]):
            yield f"{folder.name}/plain-{index}", lambda row=row: check_plain(builder, row)  # type: ignore[misc]
    for path in sorted(folder.glob("cases/*.json")):
        yield f"{folder.name}/{path.stem}", lambda path=path: Case(path).check()  # type: ignore[misc]


def run(folders: list[Path]) -> int:
    """Print a line a case and the totals; how many failed."""
    passed, failed = 0, 0
    for folder in folders:
        for name, check in cases_of(folder):
            try:
                check()
            except Exception as error:
                failed += 1
                print(f"FAIL {name}: {error if isinstance(error, DiffersError) else repr(error)}", flush=True)
            else:
                passed += 1
                print(f"ok   {name}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed if passed + failed else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.golden FOLDER...")
    sys.exit(1 if run([Path(argument) for argument in sys.argv[1:]]) else 0)
