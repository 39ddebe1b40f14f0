"""The engine in this process: pictures are read in the caller's thread, the model runs on one worker thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING

from valley_cli.engine import probe
from valley_cli.engine.base import Cost, Done, EngineOptions, Event, Request, Stage, Timings, Usage
from valley_cli.engine.checkpoint import CheckpointFiles, read_checkpoint
from valley_cli.engine.detokenize import Detokenizer, ThinkSplitter
from valley_cli.engine.hub import resolve_checkpoint
from valley_cli.engine.limit import TimeLimit
from valley_cli.engine.prepare import Layout, Prepared, Preparer, answer_room, check_fits
from valley_cli.engine.prompt import IMAGE_ID
from valley_cli.engine.reading import Effort
from valley_cli.engine.registry import ModelInfo, family_info, find
from valley_cli.engine.sequence import PictureUnit, Sequence, Unit, count_tokens
from valley_cli.engine.worker import Worker
from valley_cli.errors import ValleyError

if TYPE_CHECKING:
    from valley_cli.engine.runner import Runner

END_OF_TURN_TOKEN = "<|im_end|>"
AUTO_CUDA, AUTO_OTHER = "valley2-dpo", "valley-mini"
ROOM_BESIDE_WEIGHTS = 1.15  # cache and activations


def open_local(options: EngineOptions) -> LocalEngine:
    """The engine for ``options.model``, downloading it if it is not here. Raises ModelError."""
    model = choose_model(options) if options.model == "auto" else options.model
    checkpoint = resolve_checkpoint(
        model, revision=options.revision, offline=options.offline, on_stage=options.on_stage
    )
    files = read_checkpoint(checkpoint.folder)
    return LocalEngine(files, checkpoint.info or family_info(files.config.family), checkpoint.name, options)


def choose_model(options: EngineOptions, cuda_free_bytes: Callable[[int], int] = probe.cuda_free_bytes) -> str:
    """``auto``: a published model where the CUDA card that is asked for holds it, else the embedded one.

    ``cuda_free_bytes``: of the card with this index, 0 where there is none.
    """
    wanted = find(AUTO_CUDA)
    assert wanted is not None
    cuda_asked = options.device == "auto" or options.device.startswith("cuda")
    needed = wanted.weight_bytes * ROOM_BESIDE_WEIGHTS
    return AUTO_CUDA if cuda_asked and cuda_free_bytes(probe.card_index(options.device)) >= needed else AUTO_OTHER


class LocalEngine:
    """One checkpoint, loaded at the first request and kept until ``close``. ``name`` is what answers are signed with.

    ``generate`` may be called from any number of threads; their requests share the model's steps.
    """

    def __init__(self, files: CheckpointFiles, info: ModelInfo | None, name: str, options: EngineOptions) -> None:
        self.files = files
        self.name = name
        self.notice = info.notice if info else None
        self.options = options
        self._preparer = Preparer(files, info, options.limits, options.on_stage, options.media_cache_bytes)
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> Worker:
        """Begin to load, if that has not begun. Raises ValleyError after ``close``."""
        with self._lock:
            if self._closed:
                raise ValleyError("the engine was closed")
            if self._worker is None:
                self._worker = Worker(self._load)
            return self._worker

    def _load(self) -> Runner:
        show = self.options.on_stage or (lambda stage: None)

        def unless_closed(stage: Stage) -> None:
            if self._closed:  # nobody waits for the rest of the weights
                raise ValleyError("the engine was closed")
            show(stage)

        unless_closed(Stage("starting torch"))
        from valley_cli.engine.runner import load_runner

        runner = load_runner(self.files, self.options.device, self.options.dtype, unless_closed)
        runner.on_stage = show
        return runner

    def generate(self, request: Request) -> Generator[Event, None, None]:
        """See ``Engine.generate``. Closing the iterator frees the slot at the next token."""
        begun, limit = time.perf_counter(), TimeLimit(request.timeout_s)
        effort = Effort(limit.over)
        request = self._preparer.with_defaults(request)
        with limit.of_reading():
            layout = self._preparer.layout(request, effort)
        room = answer_room(layout, request, self.files)
        check_fits(layout, room, self.files)
        loaded_before = self._worker is not None and self._worker.load_s > 0
        with limit.of_reading():
            prepared = self._preparer.prepare(layout, effort, begin=self.start)
        worker = self.start()  # where there is no picture; a damaged one is said at once, not after loading
        media_s = time.perf_counter() - begun
        sequence = self._sequence(request, prepared, room)
        worker.submit(sequence)
        del prepared  # megabytes of pixels, which the sequence lets go of when it ends
        layout = replace(layout, images=())
        try:
            while not isinstance(item := limit.next_of(sequence.events, lambda: worker.load_s > 0), str):
                if isinstance(item, BaseException):
                    raise item
                yield item
            load_s = 0.0 if loaded_before else worker.load_s  # told by the request that waited for it
            timings = Timings(
                load_s=load_s,
                media_s=media_s,
                memory_bytes=worker.memory_bytes,
                fetch_s=effort.fetch_s,
                decode_media_s=effort.decode_s,
                encode_s=sequence.encode_s,
                wait_s=sequence.wait_s,
            )
            yield self._done(item, sequence, layout, begun, timings)
        finally:
            sequence.cancelled = True

    def _sequence(self, request: Request, prepared: Prepared, room: int) -> Sequence:
        sampling, layout = request.sampling, prepared.layout
        end_of_turn = self.files.tokenizer.token_id(END_OF_TURN_TOKEN)
        hidden = {end_of_turn} if request.exact else {end_of_turn, *self.files.eos_ids}
        return Sequence(
            payload=replace(prepared, layout=replace(layout, images=())),
            units=prompt_units(prepared),
            prompt_tokens=layout.prompt_tokens,
            prompt_ids=tuple(token for token in layout.prompt.input_ids if token != IMAGE_ID),
            max_new_tokens=room,
            sampling=sampling,
            eos_ids=() if sampling.ignore_eos else self.files.eos_ids,
            detokenizer=Detokenizer(
                self.files.tokenizer.token_bytes, {token for token in hidden if token is not None}, sampling.stop
            ),
            splitter=ThinkSplitter() if request.think else None,
        )

    def _done(self, reason: str, sequence: Sequence, layout: Layout, begun: float, timings: Timings) -> Done:
        first, last = sequence.first_token_at, sequence.last_token_at
        decode_s = last - first if first and last else 0.0
        steps = len(sequence.new_ids) - 1
        return Done(
            finish_reason=reason,  # type: ignore[arg-type]  # every string in the queue is a FinishReason
            usage=Usage(
                prompt_tokens=layout.prompt_tokens,
                image_tokens=layout.image_tokens,
                completion_tokens=len(sequence.new_ids),
                cached_tokens=min(sequence.reused_tokens, layout.prompt_tokens),
            ),
            timings=replace(
                timings,
                ttft_s=first - begun if first else 0.0,
                decode_s=decode_s,
                tokens_per_s=steps / decode_s if decode_s > 0 else 0.0,
            ),
            model=self.name,
            token_ids=tuple(sequence.new_ids),
            notes=layout.notes,
        )

    def measure(self, request: Request) -> Cost:
        """See ``Engine.measure``. Nothing is loaded; memory is what the weights and the cache would take."""
        request = self._preparer.with_defaults(request)
        layout = self._preparer.layout(request, pixels=False)
        text = self.files.config.text
        max_new_tokens = max(answer_room(layout, request, self.files), 0)
        value_bytes = probe.value_bytes(self.options.device, self.options.dtype, self.files)
        per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * value_bytes
        return Cost(
            model=self.name,
            pictures=layout.costs,
            prompt_tokens=layout.prompt_tokens,
            image_tokens=layout.image_tokens,
            max_new_tokens=max_new_tokens,
            context_tokens=text.max_position_embeddings,
            kv_bytes=per_token * (layout.prompt_tokens + max_new_tokens),
            weight_bytes=self.files.n_values * value_bytes,
            decoder_bytes=self.files.n_decoder_values * value_bytes,
            available_bytes=probe.available_bytes(self.options.device),
        )

    def close(self) -> None:
        """See ``Engine.close``."""
        with self._lock:
            self._closed = True
            worker = self._worker
        if worker:
            worker.close()


def prompt_units(prepared: Prepared) -> tuple[Unit, ...]:
    """The prompt as the cache knows it; empty if the checkpoint's length limit cut it, which nothing may continue."""
    costs = iter(zip(prepared.pictures, prepared.layout.costs, strict=True))
    units: list[Unit] = []
    for token in prepared.layout.prompt.input_ids:
        if token == IMAGE_ID:
            picture, cost = next(costs)
            units.append(PictureUnit(picture.key, cost.tokens))
        else:
            units.append(token)
    return tuple(units) if count_tokens(units) == prepared.layout.prompt_tokens else ()
