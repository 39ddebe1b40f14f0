"""A request made ready for the runner: media read, pictures preprocessed, prompt tokenised. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL.Image import Image

from valley_cli.api import Message, PictureCost, Request
from valley_cli.engine.families.base import MediaUnit, Prepared, PromptPlan, Unit, answer_room, check_fits
from valley_cli.engine.families.valley import geometry
from valley_cli.engine.families.valley.preprocess import (
    GITHUB_MAX_IMAGES,
    Picture,
    PicturePlan,
    PreprocessOptions,
    black_picture,
    picture_key,
    plan_picture,
    preprocess,
)
from valley_cli.engine.families.valley.prompt import END_OF_TURN, IMAGE_ID, Prompt, check_placeholders, place_pictures
from valley_cli.errors import PromptError, UsageError, option
from valley_cli.media.request import MediaReader, Reading, ReadTimings, Source

if TYPE_CHECKING:
    from valley_cli.engine.families.valley.opened import CheckpointFiles

MAX_PART_CHARACTERS = 50_000  # a turn longer than this raises in the published code


@dataclass(frozen=True, kw_only=True)
class ValleyPlan(PromptPlan):
    """A request's pictures in the order of their placeholders, and the prompt around them."""

    images: tuple[Source, ...]
    prompt: Prompt
    options: PreprocessOptions
    plans: tuple[PicturePlan, ...]

    @property
    def n_used(self) -> int:
        """Pictures that have a place in the text; others are never decoded."""
        return self.prompt.n_placeholders

    def units(self, keys: Iterable[str]) -> tuple[Unit, ...]:
        """The prompt, with a unit for each picture, whose tensors ``keys`` name."""
        media = (MediaUnit(key, cost.tokens) for key, cost in zip(keys, self.costs, strict=True))
        return tuple(next(media) if token == IMAGE_ID else token for token in self.prompt.input_ids)


class Preparer:
    """What a checkpoint makes of requests.

    ``files.info`` None: the bare published processor, without the limits and prompts that its demos pass in.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        self.files = files
        self.info = files.info

    def prepare(
        self, plan: ValleyPlan, media: MediaReader, timings: ReadTimings, begin: Callable[[], object] = lambda: None
    ) -> Prepared:
        """See ``Model.prepare``: the pictures that have a place in the text, one by one. Raises SourceError."""
        pictures: list[Picture] = []
        for number, source in enumerate(plan.images[: plan.n_used]):
            image = source.image()  # not in the turn that follows: it may wait for a turn of its own
            if not number:
                begin()
            pictures.append(self._tensors(image, plan, media, timings))
            del image  # before the next one is there
        return Prepared(plan.units(picture.key for picture in pictures), tuple(pictures), plan.prompt_tokens)

    def _tensors(self, image: Image, plan: ValleyPlan, media: MediaReader, timings: ReadTimings) -> Picture:
        """What the towers see of a picture."""
        n, options = len(plan.images), plan.options
        with media.decoding(timings):
            key = picture_key(image, plan_picture(image.size, n, options), options)
        return media.made(
            ("tensors", key), lambda: preprocess(image, n, options, key), lambda picture: picture.n_bytes, timings
        )

    def plan(self, request: Request, media: MediaReader, timings: ReadTimings, *, pixels: bool = True) -> ValleyPlan:
        """See ``Model.plan``. No picture is decoded, and no clip if ``pixels`` is false or the context has no room for
        it. ``request`` has its defaults (``with_defaults``).

        Raises SourceError for unreadable media and PromptError for requests that do not fit together.
        """
        self._check_options(request)
        with ExitStack() as clips:
            reading = Reading(request, media, timings, clips)
            images, attached, unplaced = self._read_media(request, reading)
            plan = self._lay_out(request, images, attached, unplaced)
            if pixels and reading.decode:
                context = self.files.context_tokens
                check_fits(plan, answer_room(plan, request, context), context)
                for decode in reading.decode:
                    decode()
            return replace(plan, notes=reading.notes())

    def _lay_out(self, request: Request, images: list[Source], attached: list[int], unplaced: int) -> ValleyPlan:
        options = self._options(request)
        turns = place_pictures(
            request.messages if request.exact else [self._as_text(message) for message in request.messages],
            attached,
            unplaced,
            flavour=request.flavour,
            wrap=options.use_special_start_end_token,
        )
        prompt = self.files.prompts.build(turns, request.think, escaped=not request.exact)
        check_placeholders(prompt, len(images))
        if request.exact and _too_long(prompt.text):
            raise PromptError(
                f"a message is longer than {MAX_PART_CHARACTERS} characters", f"leave {option('exact')} out"
            )
        plans = tuple(plan_picture(source.size_wh, len(images), options) for source in images)
        used = prompt.n_placeholders
        costs = tuple(self._cost(source.name, plan) for source, plan in zip(images[:used], plans[:used], strict=True))
        text_tokens = sum(token != IMAGE_ID for token in prompt.input_ids)
        total = text_tokens + sum(cost.tokens for cost in costs)
        if (limit := self.files.config.tokenizer_model_max_length) is not None:
            total = min(total, limit)
        return ValleyPlan(
            costs=costs, prompt_tokens=total, images=tuple(images), prompt=prompt, options=options, plans=plans
        )

    def _as_text(self, message: Message) -> Message:
        """``message`` so that nothing in it becomes a token, but for the tags in the family's own thinking prompt."""
        known = self.info.think_system_prompt if self.info else None
        is_known = message.role == "system" and message.content == known
        return message if message.content is None or is_known else self.files.prompts.escape(message)

    def _check_options(self, request: Request) -> None:
        """Raises UsageError for what the model's family does not have."""
        config = self.files.config
        if request.flavour == "github" and not (config.siglip and config.vit):
            raise UsageError(
                "the github flavour knows models with two towers only", f"leave {option('flavour')} github out"
            )
        if request.think and self.info and self.info.think_system_prompt is None:
            raise UsageError(
                f"{self.info.name} does not think",
                f"leave {option('think')} out, or choose {option('model')} valley2.5",
            )

    def with_defaults(self, request: Request) -> Request:
        """Fill in what the family decides: the answer's longest length, and the thinking system prompt."""
        sampling = request.sampling
        if sampling.max_new_tokens is None:
            sampling = replace(sampling, max_new_tokens=self.info.max_new_tokens if self.info else 1024)
        messages = request.messages
        think_prompt = self.info.think_system_prompt if self.info else None
        if request.think and think_prompt and messages and messages[0].role != "system":
            messages = (Message("system", think_prompt), *messages)
        return replace(request, sampling=sampling, messages=messages)

    def _read_media(self, request: Request, reading: Reading) -> tuple[list[Source], list[int], int]:
        """(pictures in order, number attached to each message, number without a place); a clip is its frames."""
        most = GITHUB_MAX_IMAGES if request.flavour == "github" else None
        sources = reading.sources(request.images, most)
        unplaced, attached = len(sources), []
        for message in request.messages:
            found = reading.sources(message.media)
            attached.append(len(found))
            sources += found
        if most is not None and len(sources) > most and any(attached):
            raise PromptError(
                "the github flavour takes at most 8 pictures", f"attach fewer, or use {option('flavour')} hf"
            )
        if not sources and request.exact:
            sources, unplaced = [Source("(black picture)", (3, 3), black_picture)], 1
        return sources, attached, unplaced

    def _options(self, request: Request) -> PreprocessOptions:
        """The checkpoint's options, then the family's pixel limits, then the flavour's, then the request's own."""
        options = self.files.preprocess
        if self.info and options.several_max_pixels is None:
            options = replace(options, several_max_pixels=self.info.max_pixels_several)
        options = replace(options.for_flavour(request.flavour), as_published=request.exact)
        if request.flavour == "github":  # its class reads config.json, the processor of the hub does not
            config = self.files.config
            options = replace(
                options,
                anyres=config.anyres,
                grid_pinpoints=config.grid_pinpoints,
                use_special_start_end_token=config.use_special_start_end_token,
            )
        if request.min_pixels is not None:
            options = replace(options, min_pixels=request.min_pixels, several_min_pixels=None)
        if request.max_pixels is not None:
            options = replace(options, max_pixels=request.max_pixels, several_max_pixels=None)
        return options

    def _cost(self, name: str, plan: PicturePlan) -> PictureCost:
        tokens = siglip_tokens(self.files, plan)
        if self.files.config.vit:
            tokens += plan.vit_tokens
        return PictureCost(name, plan.size_wh, plan.n_tiles, plan.grid_hw, tokens)


def siglip_tokens(files: CheckpointFiles, plan: PicturePlan) -> int:
    """Rows the SigLIP tower adds for a picture (spec valley2, section 7)."""
    config = files.config
    if not config.siglip or not config.projector:
        return 0
    side = geometry.MAP_SIDE
    if config.projector.kind == "mlp_pixel_shuffle":
        side = geometry.SIGLIP_PATCHES // config.projector.pixel_shuffle
    base = side * side
    if not config.anyres:
        return base
    if config.vit is None:
        if plan.n_tiles * base > config.max_vision_token:
            base = int((config.max_vision_token / plan.n_tiles) ** 0.5) ** 2
        return plan.n_tiles * base
    if plan.n_tiles == 1:
        return base
    rows, cols = geometry.tile_map_hw(plan.size_wh, plan.tile_grid_wh, config.max_vision_token, side)
    return base + rows * cols


def _too_long(text: str) -> bool:
    """Whether the published code would refuse a turn for its length; the separator counts, but for the last turn."""
    *turns, last = text.split(END_OF_TURN)
    return max([len(last), *(len(turn) + len(END_OF_TURN) for turn in turns if turn)]) > MAX_PART_CHARACTERS
