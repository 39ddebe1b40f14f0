"""A decoder twice over the same random weights: transformers' and valley's, at the sizes that benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from valley_cli.engine.families.valley.config import ValleyConfig
from valley_cli.engine.families.valley.model import Valley
from valley_cli.engine.layers.config import TextConfig
from valley_cli.engine.run.runner import Runner


def text_config(vocab: int, hidden: int, inner: int, layers: int, heads: int, kv: int, **other: Any) -> TextConfig:
    """Qwen3's, tied, with heads that fill the width, unless ``other`` says otherwise."""
    rest: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 4096}
    rest |= {"head_dim": hidden // heads, "qkv_bias": False, "qk_norm": True, "tie_word_embeddings": True} | other
    return TextConfig(vocab, hidden, inner, layers, heads, kv, **rest)


@dataclass(frozen=True)
class Size:
    """A decoder to measure."""

    name: str
    config: TextConfig
    dtype: torch.dtype

    def layers(self, n: int) -> Size:
        """The same, ``n`` layers deep."""
        return replace(self, config=replace(self.config, num_hidden_layers=n))

    @property
    def layer_values(self) -> int:
        """Weights of one layer's matrices."""
        c = self.config
        attention = c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads)
        return attention + 3 * c.hidden_size * c.intermediate_size

    @property
    def n_bytes(self) -> int:
        """Of the weights, about."""
        heads = 1 if self.config.tie_word_embeddings else 2
        values = self.config.num_hidden_layers * self.layer_values
        return (values + heads * self.config.vocab_size * self.config.hidden_size) * self.dtype.itemsize

    def step_bytes(self, rows: int, tokens: int) -> int:
        """Read by one step of ``rows`` rows of ``tokens`` tokens each: matrices, head, keys and values."""
        c = self.config
        weights = c.num_hidden_layers * self.layer_values + c.vocab_size * c.hidden_size
        kept = rows * tokens * 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim
        return (weights + kept) * self.dtype.itemsize


UNTIED = {"tie_word_embeddings": False}
QWEN2 = UNTIED | {"qkv_bias": True, "qk_norm": False}
MINI = Size("mini float32", text_config(729, 192, 384, 6, 4, 2), torch.float32)
HALF_B = text_config(151_936, 896, 4864, 24, 14, 2)
HALF_B_FLOAT32 = Size("0.5B float32", HALF_B, torch.float32)
HALF_B_BFLOAT16 = Size("0.5B bfloat16", HALF_B, torch.bfloat16)
TINY = Size("tiny bfloat16", text_config(512, 64, 128, 2, 4, 2, **QWEN2), torch.bfloat16)
VALLEY2 = Size("Valley2 bfloat16", text_config(152_064, 3584, 18_944, 28, 28, 4, **QWEN2), torch.bfloat16)
VALLEY25 = Size("Valley2.5 bfloat16", text_config(151_936, 4096, 12_288, 36, 32, 8, **UNTIED), torch.bfloat16)


@torch.no_grad()
def reference_model(size: Size, device: torch.device) -> Any:
    """transformers' model with random weights made on ``device``."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    c = size.config
    shape: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "rms_norm_eps": c.rms_norm_eps,
        "max_position_embeddings": c.max_position_embeddings,
        "tie_word_embeddings": c.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
        "dtype": size.dtype,
    }
    with torch.device("meta"):
        model: Any = (
            Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=c.head_dim))
            if c.qk_norm
            else Qwen2ForCausalLM(Qwen2Config(**shape))
        )
    with torch.device(device):
        rotary = type(model.model.rotary_emb)(model.config)  # its frequencies are no weights
    model = model.to(size.dtype).to_empty(device=device)
    model.model.rotary_emb = rotary
    model.tie_weights()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.02)
    return model.eval().requires_grad_(False)


def valley_runner(size: Size, reference: Any, device: torch.device) -> Runner:
    """valley's runner over the reference's tensors."""
    with torch.device("meta"):
        model = Valley(
            ValleyConfig("valley2.5", size.config, None, None, None, False, "", 384, True, 100_000, None, "")
        )
    state = dict(reference.state_dict())
    if size.config.tie_word_embeddings:
        del model.lm_head
        state.pop("lm_head.weight", None)
    model.load_state_dict(state, assign=True)
    return Runner(model.eval().requires_grad_(False), device)
