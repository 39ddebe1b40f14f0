"""Tiny decoders with random weights, run in every way there is. Needs no pytest: ``tests.cuda`` runs without it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from valley_cli.engine.layers.basic import RMSNorm
from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.layers.decoder import DecoderLayer, causal_attend, decode_hidden
from valley_cli.engine.layers.fused import FusedDecoder, fuse
from valley_cli.engine.layers.matmul import WeightLayout, product
from valley_cli.engine.run.cuda_graphs import RECORD_AFTER, DecodeGraphs

POOL_TOKENS, ROOM = 400, 100


class Decoder(torch.nn.Module):
    """Embeddings, layers, norm and head under the names transformers gives them."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def logits(self, ids: Tensor, positions: Tensor, attend: Any = causal_attend) -> Tensor:
        hidden = decode_hidden(self.layers, self.config, self.embed_tokens(ids), positions, attend)
        return self.lm_head(self.norm(hidden))


def tiny(kind: str) -> tuple[Any, Decoder]:
    """(transformers' model, ours with the same random weights)"""
    shape: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(5)
    reference: Any
    if kind == "qwen2":
        from transformers import Qwen2Config, Qwen2ForCausalLM

        reference = Qwen2ForCausalLM(Qwen2Config(**shape, rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
    else:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        shape["head_dim"] = 16  # not hidden_size / heads
        reference = Qwen3ForCausalLM(Qwen3Config(**shape, rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
    for parameter in reference.parameters():  # biases and norms too, which start as zeros and ones
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else torch.nn.init.uniform_(parameter, -0.5, 1)
    config = TextConfig(
        head_dim=shape.pop("head_dim", 8), rope_theta=1e6, qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3", **shape
    )
    ours = Decoder(config)
    ours.load_state_dict({name.removeprefix("model."): tensor for name, tensor in reference.state_dict().items()})
    return reference.eval().requires_grad_(False), ours.eval().requires_grad_(False)


def prompt(length: int, seed: int) -> Tensor:
    return torch.randint(0, 97, (length,), generator=torch.Generator().manual_seed(seed))


ROOM = 64


def fused_decoder(ours: Decoder, layout: WeightLayout) -> FusedDecoder:
    layers = [fuse(layer, ours.config, layout) for layer in ours.layers]  # type: ignore[arg-type]
    return FusedDecoder(layers, ours.config, ours.norm.weight, product(layout, [ours.lm_head.weight]))


class Served:
    """A tiny decoder and its pools."""

    def __init__(self, kind: str = "qwen3", device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.plain = tiny(kind)[1].to(device, dtype)
        self.device = torch.device(device)
        self.decoder = fused_decoder(self.plain, "rows")
        shape = (POOL_TOKENS, self.plain.config.num_key_value_heads, self.plain.config.head_dim)
        layers = range(self.plain.config.num_hidden_layers)
        self.keys = [
            torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in layers
        ]  # what nobody wrote must not be read
        self.values = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in layers]

    @property
    def embedding(self) -> Tensor:
        return self.plain.embed_tokens.weight.detach()

    def read(self, ids: Tensor, start: int) -> int:
        """Fill the pool from ``start`` with a prompt. -> the greedy next token"""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for pool, new in ((self.keys, k), (self.values, v)):
                pool[layer][start : start + len(ids)] = new[0].transpose(0, 1)
            return causal_attend(layer, q, k, v)

        hidden = self.decoder.hidden(
            self.plain.embed_tokens(ids[None]), torch.arange(len(ids), device=self.device)[None], attend
        )
        return int(self.decoder.logits(hidden[:, -1]).argmax())

    def graphs(self, ahead: bool, record_after: int = RECORD_AFTER) -> DecodeGraphs:
        return DecodeGraphs(self.embedding, self.decoder, self.keys, self.values, 512, record_after, ahead)


def full_logits(plain: Decoder, ids: Tensor) -> Tensor:
    """Of the last position, nothing kept. [vocabulary]"""
    return plain.logits(ids[None], torch.arange(len(ids), device=ids.device)[None])[0, -1]


def greedy_alone(plain: Decoder, ids: Tensor, count: int) -> list[int]:
    for _ in range(count):
        ids = torch.cat((ids, full_logits(plain, ids).argmax()[None]))
    return ids[-count:].tolist()
