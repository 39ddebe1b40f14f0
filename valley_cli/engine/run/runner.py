"""The model on its device: encode pictures, read a prompt, add one token. Runs on one thread only."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from valley_cli.api import OnStage, Sampling, unheard
from valley_cli.engine.checkpoint.mapped import MappedTensors
from valley_cli.engine.device.probe import available_bytes, default_dtype
from valley_cli.engine.families.base import Compute, Item, Model, Unit
from valley_cli.engine.layers.fused import fuse_decoder
from valley_cli.engine.layers.matmul import choose_layout
from valley_cli.engine.run.cuda_graphs import RECORD_AFTER, Batch, DecodeGraphs
from valley_cli.engine.run.encoders import EncodedCache
from valley_cli.engine.run.kvcache import KVCache
from valley_cli.engine.run.sampler import SamplerState, make_sampler_state, sample
from valley_cli.engine.run.unread import Piece, PromptRows, Unread
from valley_cli.engine.schedule.slots import Move, Slot
from valley_cli.errors import DeviceError, UsageError, option

# Below this, on a CPU, starting operations costs more than their arithmetic: one thread (at 3 M parameters, on two busy
# cores, 1 thread decodes 174 tokens/s and 2 threads 22), and the fused decoder.
SMALL_PARAMETERS = 50_000_000
FREE_SHARE = {"cpu": 0.5, "cuda": 0.8}  # of the memory beside the weights, for the cache; the rest is for activations
ROW_TOKENS = 8192  # no more memory than so many for every row: a large picture, what is said about it, a long answer


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA where there is one. Raises DeviceError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}", f"give {option('device')} cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"no such device: {name}", f"run with {option('device')} cpu, or check the driver with nvidia-smi"
        )
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported", f"give {option('device')} cpu, cuda or cuda:N")
    return device


def choose_dtype(name: str, files: Model, device: torch.device) -> torch.dtype:
    """The torch dtype ``name``; ``auto`` as ``probe.default_dtype`` says. Raises UsageError for float16 on a CPU.

    Measured on 0.55 B parameters, 2 cores: first token after 17 s in bfloat16, 39 s in float32, 209 s in float16.
    """
    if name == "auto":
        name = default_dtype(device.type == "cuda", files.stored_dtype, files.weight_bytes)
    if name == "float16" and device.type == "cpu":
        raise UsageError("float16 is for CUDA", f"on a CPU give {option('dtype')} bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def load_runner(files: Model, device_name: str, dtype_name: str, on_stage: OnStage = unheard) -> Runner:
    """The runner of a checkpoint, for the calling thread, which then has its device and number of threads.

    Raises DeviceError if there is no such device or the weights do not fit it.
    """
    device = choose_device(device_name)
    dtype = choose_dtype(dtype_name, files, device)
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # graphs, events and streams are made on the thread's own card
    elif files.n_values < SMALL_PARAMETERS:
        compute_alone()  # before the weights are converted: that would start the others
    try:
        compute, mapped = files.build(device, dtype, on_stage)
        return Runner(compute, device, mapped=mapped)
    except (RuntimeError, MemoryError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)):
            raise
        raise DeviceError(
            f"{files.folder.name} ({files.weight_bytes / 1e9:.1f} GB) does not fit on {device}",
            f"free the device, or run with {option('device')} cpu",
        ) from None


def compute_alone() -> None:
    """From now on the calling thread computes with no others; every other thread, now and later, as before.

    torch keeps a number for each thread and one that a new thread begins with, and sets both at once. So a thread that
    ends at once puts the second one back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restoring = threading.Thread(target=torch.set_num_threads, args=(before,))
    restoring.start()
    restoring.join()


class Runner:
    """Holds weights and cache. Every method runs without gradients.

    ``record_after``: how often a kind of step is taken before it is recorded (see ``graphs``); None: RECORD_AFTER on
    CUDA, and never on a CPU.
    """

    def __init__(
        self,
        model: Compute,
        device: torch.device,
        record_after: int | None = None,
        mapped: MappedTensors | None = None,
    ) -> None:
        """``model`` gives its decoder away. ``mapped``: where its tensors come from, if not all are in memory yet."""
        self.model, parts = model, model.decoder
        self._text = parts.config
        self.device = device
        self.record_after = RECORD_AFTER if record_after is None and device.type == "cuda" else record_after
        self.cache = KVCache(parts.config, device, model.dtype, token_major=self.record_after is not None)
        self._graphs: DecodeGraphs | None = None
        self.encoded = EncodedCache(model, device)
        small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_PARAMETERS
        mapped = mapped or MappedTensors({}, ())
        self.decoder = fuse_decoder(parts, choose_layout(device, model.dtype, small), mapped.release)
        mapped.read_the_rest()
        self._mapped_bytes = mapped.kept_bytes
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the pieces that were fused
        self._weight_bytes = sum(parameter.nbytes for parameter in model.parameters()) + self.decoder.n_bytes

    @property
    def memory_bytes(self) -> int:
        """Weights, cache and kept pictures; on CUDA the most that was ever allocated."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return self._weight_bytes + self.encoded.n_bytes + self.cache.n_bytes

    def embed_prompt(self, units: Sequence[Unit], items: Sequence[Item], most_tokens: int | None = None) -> PromptRows:
        """``embed_prompts`` of one prompt."""
        return self.embed_prompts([Unread(units, items, most_tokens=most_tokens)])[0]

    @torch.inference_mode()
    def embed_prompts(self, prompts: Sequence[Unread], on_stage: OnStage = unheard) -> list[PromptRows]:
        """What the decoder reads of each prompt, [T, C]: text, and pictures in their places. The pictures of all
        prompts share the towers' passes."""
        needed = [prompt.needed for prompt in prompts]
        rows = self.encoded.rows([item for items in needed for item in items], on_stage)
        found = []
        for prompt, items in zip(prompts, needed, strict=True):
            mine, rows = rows[: len(items)], rows[len(items) :]
            merged = self.model.embed(prompt.left, mine)
            end, limit = len(merged) - len(prompt.said), prompt.most_tokens
            is_cut = limit is not None and not prompt.skip and end > limit
            found.append(torch.cat((merged[:limit], merged[end:])) if is_cut else merged)
        return found

    def cache_tokens(self, rows: int) -> int:
        """Tokens that the cache may hold for ``rows`` sequences: of the memory that is free now or its own, a share."""
        free = available_bytes(str(self.device)) + self.cache.n_bytes
        free -= self._mapped_bytes  # mapped pages count as free, but are needed
        if self.device.type == "cuda":  # what the allocator holds in reserve
            free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        affordable = int(max(free, 0) * FREE_SHARE[self.device.type]) // self.cache.token_bytes
        context = self._text.max_position_embeddings
        return min(affordable, max(rows * min(ROW_TOKENS, context), context))

    @torch.inference_mode()
    def resize(self, tokens: int, moves: Sequence[Move] = ()) -> None:
        """See ``KVCache.resize``."""
        self._graphs = None  # before the tensors it holds on to are replaced
        self.cache.resize(tokens, moves)

    @torch.inference_mode()
    def attach_slot(self, slot: Slot, kept: int = 0, source: Slot | None = None) -> None:
        """See ``KVCache.attach_slot``."""
        self._changed(slot)
        self.cache.attach_slot(slot, kept, source)

    def drop_caches(self) -> None:
        """Let go of every kept picture and of what the allocator holds in reserve."""
        self.encoded.drop_caches()
        self._graphs = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def prefill(self, slot: Slot, rows: PromptRows, start: int = 0) -> Tensor:
        """``prefill_pieces`` of one piece. -> logits [vocabulary]"""
        return self.prefill_pieces([Piece(slot, rows, start)])[0]

    @torch.inference_mode()
    def prefill_pieces(self, pieces: Sequence[Piece]) -> Tensor:
        """Read a piece of each of several prompts, in one pass whatever their lengths. -> logits [n, vocabulary] behind
        the last row of each."""
        for piece in pieces:
            self._changed(piece.slot)
        lengths = [len(piece.rows) for piece in pieces]
        places = [torch.arange(p.start, p.start + n, device=self.device) for p, n in zip(pieces, lengths, strict=True)]
        rows, positions = torch.cat([piece.rows for piece in pieces]), torch.cat(places)  # [sum T, C], [sum T]
        attend = self.cache.prefill_pieces([(piece.slot, piece.start) for piece in pieces], lengths)
        hidden = self.decoder.hidden(rows[None], positions[None], attend)[0]
        last = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        return self.decoder.logits(hidden[last])

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], slots: Sequence[Slot], lengths: Sequence[int]) -> Tensor:
        """One more token a row: row i says ``tokens[i]`` at place ``lengths[i]``. -> logits [B, vocabulary]"""
        ids = torch.tensor(tokens, device=self.device)
        positions = torch.tensor(lengths, device=self.device)
        embedded = F.embedding(ids, self.model.embedding)  # [B, C]
        hidden = self.decoder.hidden(embedded[:, None], positions[:, None], self.cache.decode(slots, lengths))
        return self.decoder.logits(hidden[:, -1])

    @torch.inference_mode()
    def step(
        self, tokens: Sequence[int], slots: Sequence[Slot], lengths: Sequence[int], samplers: Sequence[SamplerState]
    ) -> list[int]:
        """``decode``, then ``choose``; by a recorded step where there is one."""
        if self.record_after is not None:
            graphs, batch = self._current_graphs(self.record_after), as_batch(tokens, slots, lengths)
            if recorded := graphs.find(batch):
                self.cache.note_step(slots, lengths, 2)  # the next one may have begun
                if all(sampler.plain for sampler in samplers):
                    return graphs.greedy(recorded, batch)
                return self.sample(graphs.logits(recorded, batch), samplers)
        return self.sample(self.decode(tokens, slots, lengths), samplers)

    def _current_graphs(self, record_after: int) -> DecodeGraphs:
        """Of the cache's tensors, which it may have replaced."""
        if self._graphs is None or self._graphs.keys is not self.cache.keys:
            embedding, keys, values = self.model.embedding, self.cache.keys, self.cache.values
            context = self._text.max_position_embeddings
            self._graphs = DecodeGraphs(embedding, self.decoder, keys, values, context, record_after)
        return self._graphs

    @property
    def takes_recorded_steps(self) -> bool:
        """Whether any kind of step is recorded by now."""
        return self._graphs is not None and self._graphs.n_recorded > 0

    def _changed(self, slot: Slot) -> None:
        """``slot`` is written by something else than a step."""
        if self._graphs:
            self._graphs.changed(slot.start)

    @torch.inference_mode()
    def sample(self, logits: Tensor, samplers: Sequence[SamplerState]) -> list[int]:
        """The next token of every row of ``logits`` [B, vocabulary]; NO_TOKEN where the numbers are broken."""
        ids: list[int] = sample(logits, samplers).tolist()  # the one wait for the device in a step
        return ids

    @torch.inference_mode()
    def sampler(self, sampling: Sampling, seen_ids: Iterable[int], drawn: int = 0) -> SamplerState:
        """How a request's tokens are chosen, after ``drawn`` of them; ``seen_ids``: of prompt and answer."""
        return make_sampler_state(sampling, seen_ids, self._text.vocab_size, self.device, drawn)


def as_batch(tokens: Sequence[int], slots: Sequence[Slot], lengths: Sequence[int]) -> Batch:
    """The rows of a step as the recorded ones know them."""
    starts, rooms = [slot.start for slot in slots], [slot.tokens for slot in slots]
    return Batch(tuple(tokens), tuple(starts), tuple(lengths), tuple(rooms))
