"""The shipped model's folder, whose tokenizer, sizes and preprocessing every new model shares; text to ids and back."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

SHIPPED = Path(__file__).parent.parent / "valley_cli" / "assets" / "valley-mini"
SYSTEM = "You are a helpful assistant."


class Encoder:
    """Text to ids, one chunk at a time as the program does, with a memory for repeated chunks."""

    def __init__(self, folder: Path = SHIPPED) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.encode = lru_cache(maxsize=50_000)(self._encode)
        self.pad_id = self.encode("<|endoftext|>")[0]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
