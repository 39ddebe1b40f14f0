"""A small byte-level BPE tokenizer, trained on the world's own questions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from training import clips, questions, several, talk
from training.scenes import make_scene
from training.world import Dice

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<im_start>", "<im_end>", "<vi_start>", "<vi_end>")
THINKING = ("<think>", "</think>")  # plain added tokens, as in Qwen3
VOCAB_SIZE = 720
SYSTEM = "You are a helpful assistant."
CORPUS_SEED, CORPUS_SCENES = 7, 5000


def corpus() -> Iterator[str]:
    """Questions and answers of every kind. Words drawn in pictures are left out, so they stay single characters."""
    rng = Dice(CORPUS_SEED)
    yield from ["system\n", "user\n", "assistant\n", SYSTEM] * 50
    for number in range(CORPUS_SCENES):
        if number % 5 == 0:
            found = several.several_pictures(rng)[1] + clips.clip(rng)[1] + talk.talk(rng).asked
        else:
            found = questions.ask_all(rng, make_scene(rng, with_text=0.2))
        for question in found:
            yield "\n" + question.text
            yield question.answer.split('"')[0]


def train_tokenizer() -> Tokenizer:
    """The tokenizer; the same on every run of the same world."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, min_frequency=5, show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in THINKING])
    return tokenizer


class Encoder:
    """Text to ids, one chunk at a time as the program does, with a memory for repeated chunks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.encode = lru_cache(maxsize=50_000)(self._encode)
        self.pad_id = self.encode("<|endoftext|>")[0]

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """The tokenizer at ``path``; it is trained and written there when missing."""
        if not path.exists():
            train_tokenizer().save(str(path))
        return cls(Tokenizer.from_file(str(path)))

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
