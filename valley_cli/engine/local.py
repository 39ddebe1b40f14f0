"""The engine in this process: each request reads its media on a thread of its own, the model runs on one for all."""

from __future__ import annotations

import logging
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
from valley_cli.engine.families import open_model
from valley_cli.engine.families.base import (
    Model,
    Prepared,
    PromptPlan,
    answer_room,
    check_fits,
)
from valley_cli.engine.hub.registry import find
from valley_cli.engine.hub.resolve import resolve_checkpoint
from valley_cli.engine.run.answer import LocalAnswer
from valley_cli.engine.run.worker import Worker
from valley_cli.engine.schedule.detokenize import Detokenizer, ThinkSplitter
from valley_cli.engine.schedule.sequence import Sequence
from valley_cli.errors import ValleyError
from valley_cli.media.request import MediaReader, ReadTimings

if TYPE_CHECKING:
    from valley_cli.engine.run.runner import Runner

log = logging.getLogger(__name__)
AUTO_CUDA, AUTO_OTHER = "valley2-dpo", "valley-mini"
ROOM_BESIDE_WEIGHTS = 1.15  # cache and activations


def open_local(options: EngineOptions, on_stage: OnStage = unheard) -> LocalEngine:
    """The engine for ``options.model``, downloading it if it is not here. Raises ModelError."""
    model = choose_model(options) if options.model == "auto" else options.model
    checkpoint = resolve_checkpoint(model, revision=options.revision, offline=options.offline, on_stage=on_stage)
    log.info("%s is read from %s", checkpoint.name, checkpoint.folder)
    return LocalEngine(open_model(checkpoint.folder, checkpoint.info), checkpoint.name, options)


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

    def __init__(self, model: Model, name: str, options: EngineOptions) -> None:
        self.model = model
        self.about = About(name, model.notice, model.context_tokens, model.can)
        self.options = options
        self.media = MediaReader(options.limits, options.media_cache_bytes, probe.usable_cores())
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

        return load_runner(self.model, self.options.device, self.options.dtype, unless_closed)

    def submit(self, request: Request) -> LocalAnswer:
        """See ``Engine.submit``."""
        return _Asked(self, request).answer.begin()

    def price(self, request: Request) -> Cost:
        """See ``Engine.price``. Nothing is loaded; memory is what the weights and the cache would take."""
        model, options = self.model, self.options
        request = model.with_defaults(request)
        plan = model.plan(request, self.media, ReadTimings(), pixels=False)
        max_new_tokens = max(answer_room(plan, request, model.context_tokens), 0)
        value_bytes = probe.value_bytes(options.device, options.dtype, model.stored_dtype, model.weight_bytes)
        return Cost(
            model=self.about.name,
            pictures=plan.costs,
            prompt_tokens=plan.prompt_tokens,
            image_tokens=plan.image_tokens,
            max_new_tokens=max_new_tokens,
            context_tokens=model.context_tokens,
            kv_bytes=model.cached_values * value_bytes * (plan.prompt_tokens + max_new_tokens),
            weight_bytes=model.n_values * value_bytes,
            decoder_bytes=model.n_decoder_values * value_bytes,
            available_bytes=probe.available_bytes(options.device),
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
        self._engine, self._request, self._model = engine, request, engine.model
        self._loaded_before = self._is_loaded()
        self._plan: PromptPlan | None = None
        self._media_s = 0.0
        self.answer = LocalAnswer(request.timeout_s, self._read, self._end, self._is_loaded)

    def _is_loaded(self) -> bool:
        worker = self._engine._worker
        return worker is not None and worker.load_s > 0

    def _read(self, answer: LocalAnswer) -> None:
        """Media to tensors, messages to ids, and into the worker's queue: on the answer's own thread."""
        engine, model, context = self._engine, self._model, self._model.context_tokens
        request = model.with_defaults(self._request)
        plan = model.plan(request, engine.media, answer.read_timings)
        room = answer_room(plan, request, context)
        check_fits(plan, room, context)
        prepared = model.prepare(plan, engine.media, answer.read_timings, begin=engine._start)
        worker = engine._start()  # where there is no picture; a damaged one is said at once, not after loading
        self._media_s = time.perf_counter() - answer.began
        log.debug("read %d pictures in %.3f s", len(plan.costs), self._media_s)
        self._plan = PromptPlan(plan.costs, plan.prompt_tokens, plan.notes)
        del plan  # which holds pictures
        sequence = self._sequence(request, prepared, room)
        if answer.take(sequence):
            worker.submit(sequence)

    def _sequence(self, request: Request, prepared: Prepared, room: int) -> Sequence:
        model, sampling = self._model, request.sampling
        return Sequence(
            payload=prepared,
            units=prepared.reusable_units,
            prompt_tokens=prepared.prompt_tokens,
            prompt_ids=prepared.token_ids,
            max_new_tokens=room,
            sampling=sampling,
            eos_ids=() if sampling.ignore_eos else model.eos_ids,
            detokenizer=Detokenizer(model.token_bytes, model.hidden_ids(request.exact), sampling.stop),
            splitter=ThinkSplitter() if request.think else None,
            events=self.answer.events,
        )

    def _end(self, answer: LocalAnswer, reason: FinishReason) -> Done:
        worker, sequence, plan = self._engine._worker, answer.sequence, self._plan
        timings = Timings(
            media_s=self._media_s, fetch_s=answer.read_timings.fetch_s, decode_media_s=answer.read_timings.decode_s
        )
        if worker is None or sequence is None or plan is None:  # cancelled before its prompt was ready
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
                prompt_tokens=plan.prompt_tokens,
                image_tokens=plan.image_tokens,
                completion_tokens=len(sequence.new_ids),
                cached_tokens=min(sequence.reused_tokens, plan.prompt_tokens),
            ),
            timings=with_pace(timings, sequence, answer.began),
            model=self._engine.about.name,
            token_ids=tuple(sequence.new_ids),
            notes=plan.notes,
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
