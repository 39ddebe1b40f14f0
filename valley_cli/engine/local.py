"""The engine in this process: each request reads its media on a thread of its own, the model runs on one for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from valley_cli.api import (
    About,
    Cost,
    Done,
    EngineOptions,
    FinishReason,
    OnStage,
    Request,
    Stage,
    Timings,
    Usage,
    unheard,
)
from valley_cli.engine.device import probe
from valley_cli.engine.families.valley.opened import CheckpointFiles, read_checkpoint
from valley_cli.engine.families.valley.prepare import Layout, Prepared, Preparer, answer_room, check_fits
from valley_cli.engine.families.valley.prompt import IMAGE_ID
from valley_cli.engine.hub.registry import ModelInfo, family_info, find
from valley_cli.engine.hub.resolve import resolve_checkpoint
from valley_cli.engine.run.answer import LocalAnswer
from valley_cli.engine.run.worker import Worker
from valley_cli.engine.schedule.detokenize import Detokenizer, ThinkSplitter
from valley_cli.engine.schedule.sequence import PictureUnit, Sequence, Unit, count_tokens
from valley_cli.errors import ValleyError

if TYPE_CHECKING:
    from valley_cli.engine.run.runner import Runner

END_OF_TURN_TOKEN = "<|im_end|>"
AUTO_CUDA, AUTO_OTHER = "valley2-dpo", "valley-mini"
ROOM_BESIDE_WEIGHTS = 1.15  # cache and activations


def open_local(options: EngineOptions, on_stage: OnStage = unheard) -> LocalEngine:
    """The engine for ``options.model``, downloading it if it is not here. Raises ModelError."""
    model = choose_model(options) if options.model == "auto" else options.model
    checkpoint = resolve_checkpoint(model, revision=options.revision, offline=options.offline, on_stage=on_stage)
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

    ``submit`` may be called from any number of threads; their requests share the model's steps.
    """

    def __init__(self, files: CheckpointFiles, info: ModelInfo | None, name: str, options: EngineOptions) -> None:
        self.files = files
        self.about = About(
            name,
            info.notice if info else None,
            files.config.text.max_position_embeddings,
            frozenset(["exact", "price", "video", *(["think"] if info is None or info.think_system_prompt else [])]),
        )
        self.options = options
        self._preparer = Preparer(files, info, options.limits, options.media_cache_bytes)
        self._worker: Worker | None = None
        self._closed = False
        self._lock = threading.Lock()

    def load(self, on_stage: OnStage = unheard) -> None:
        """See ``Engine.load``."""
        self._start().listen(on_stage)

    def _start(self) -> Worker:
        """The worker, which begins to load when there is one. Raises ValleyError after ``close``."""
        with self._lock:
            if self._closed:
                raise ValleyError("the engine was closed")
            if self._worker is None:
                self._worker = Worker(self._load)
            return self._worker

    def _load(self, on_stage: OnStage) -> Runner:
        def unless_closed(stage: Stage) -> None:
            if self._closed:  # nobody waits for the rest of the weights
                raise ValleyError("the engine was closed")
            on_stage(stage)

        unless_closed(Stage("starting torch"))
        from valley_cli.engine.run.runner import load_runner

        return load_runner(self.files, self.options.device, self.options.dtype, unless_closed)

    def submit(self, request: Request) -> LocalAnswer:
        """See ``Engine.submit``."""
        return _Asked(self, request).answer.begin()

    def price(self, request: Request) -> Cost:
        """See ``Engine.price``. Nothing is loaded; memory is what the weights and the cache would take."""
        request = self._preparer.with_defaults(request)
        layout = self._preparer.layout(request, pixels=False)
        text = self.files.config.text
        max_new_tokens = max(answer_room(layout, request, self.files), 0)
        value_bytes = probe.value_bytes(self.options.device, self.options.dtype, self.files)
        per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * value_bytes
        return Cost(
            model=self.about.name,
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


class _Asked:
    """One request on its way through ``engine``, with what its last event tells."""

    def __init__(self, engine: LocalEngine, request: Request) -> None:
        self._engine, self._request, self._files = engine, request, engine.files
        self._loaded_before = self._is_loaded()
        self._layout: Layout | None = None
        self._media_s = 0.0
        self.answer = LocalAnswer(request.timeout_s, self._read, self._end, self._is_loaded)

    def _is_loaded(self) -> bool:
        worker = self._engine._worker
        return worker is not None and worker.load_s > 0

    def _read(self, answer: LocalAnswer) -> None:
        """Media to tensors, messages to ids, and into the worker's queue: on the answer's own thread."""
        engine = self._engine
        request = engine._preparer.with_defaults(self._request)
        layout = engine._preparer.layout(request, answer.effort)
        room = answer_room(layout, request, self._files)
        check_fits(layout, room, self._files)
        prepared = engine._preparer.prepare(layout, answer.effort, begin=engine._start)
        worker = engine._start()  # where there is no picture; a damaged one is said at once, not after loading
        self._media_s = time.perf_counter() - answer.began
        self._layout = replace(layout, images=())
        sequence = self._sequence(request, prepared, room)
        if answer.take(sequence):
            worker.submit(sequence)

    def _sequence(self, request: Request, prepared: Prepared, room: int) -> Sequence:
        files, sampling, layout = self._files, request.sampling, prepared.layout
        end_of_turn = files.tokenizer.token_id(END_OF_TURN_TOKEN)
        hidden = {end_of_turn} if request.exact else {end_of_turn, *files.eos_ids}
        return Sequence(
            payload=replace(prepared, layout=replace(layout, images=())),
            units=prompt_units(prepared),
            prompt_tokens=layout.prompt_tokens,
            prompt_ids=tuple(token for token in layout.prompt.input_ids if token != IMAGE_ID),
            max_new_tokens=room,
            sampling=sampling,
            eos_ids=() if sampling.ignore_eos else files.eos_ids,
            detokenizer=Detokenizer(
                files.tokenizer.token_bytes, {token for token in hidden if token is not None}, sampling.stop
            ),
            splitter=ThinkSplitter() if request.think else None,
            events=self.answer.events,
        )

    def _end(self, answer: LocalAnswer, reason: FinishReason) -> Done:
        worker, sequence, layout = self._engine._worker, answer.sequence, self._layout
        timings = Timings(media_s=self._media_s, fetch_s=answer.effort.fetch_s, decode_media_s=answer.effort.decode_s)
        if worker is None or sequence is None or layout is None:  # cancelled before its prompt was ready
            return Done(reason, Usage(), timings, self._engine.about.name)
        timings = replace(
            timings,
            load_s=0.0 if self._loaded_before else worker.load_s,  # told by the request that waited for it
            memory_bytes=worker.memory_bytes,
            encode_s=sequence.encode_s,
            wait_s=sequence.wait_s,
        )
        return Done(
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=layout.prompt_tokens,
                image_tokens=layout.image_tokens,
                completion_tokens=len(sequence.new_ids),
                cached_tokens=min(sequence.reused_tokens, layout.prompt_tokens),
            ),
            timings=with_pace(timings, sequence, answer.began),
            model=self._engine.about.name,
            token_ids=tuple(sequence.new_ids),
            notes=layout.notes,
        )


def with_pace(timings: Timings, sequence: Sequence, began: float) -> Timings:
    """``timings`` with what the answer's tokens tell."""
    first, last = sequence.first_token_at, sequence.last_token_at
    decode_s = last - first if first and last else 0.0
    return replace(
        timings,
        ttft_s=first - began if first else 0.0,
        decode_s=decode_s,
        tokens_per_s=(len(sequence.new_ids) - 1) / decode_s if decode_s > 0 else 0.0,
    )


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
