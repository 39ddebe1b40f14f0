"""Messages to token ids, exactly as the published processors do it (spec valley2, sections 4, 10.1 and 11)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from valley_cli.api import Flavour, Message
from valley_cli.engine.checkpoint.literal import IMAGE, Escaper, unescape
from valley_cli.engine.checkpoint.tokenizer import TextTokenizer
from valley_cli.errors import ModelError, PromptError, option

IMAGE_ID = -200
WRAPPED_IMAGE = "<im_start><image><im_end>"
END_OF_TURN = "<|im_end|>\n"
DEFAULT_SYSTEM = "You are a helpful assistant."
CHATML = (  # for checkpoints that ship no template
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Turn = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """``text`` with ``<image>`` still literal, and its ids with -200 at every picture."""

    text: str
    input_ids: tuple[int, ...]

    @property
    def n_placeholders(self) -> int:
        return self.input_ids.count(IMAGE_ID)


def place_pictures(
    messages: Sequence[Message],
    attached: Sequence[int],
    unplaced: int,
    *,
    flavour: Flavour = "hf",
    wrap: bool = True,
) -> list[Turn]:
    """The conversation as the template sees it, with a placeholder for every picture.

    ``attached[i]`` pictures belong to message i, ``unplaced`` to the request as a whole: they go in front of the
    first user message. A message that already holds ``<image>`` is left as written. ``wrap`` puts
    ``<im_start>``/``<im_end>`` around each placeholder. Raises PromptError for roles out of order.
    """
    turns: list[Turn] = [
        {"role": m.role, "content": DEFAULT_SYSTEM if m.content is None else m.content} for m in messages
    ]
    counts = list(attached)
    if not turns or turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
        counts.insert(0, 0)
    _check_roles(turns)
    counts[1] += unplaced
    n_pictures = sum(counts)
    if flavour == "github":
        return _place_github(turns, counts, n_pictures, WRAPPED_IMAGE if wrap else IMAGE)
    for turn, count in zip(turns, counts, strict=True):
        if count and IMAGE not in turn["content"]:
            turn["content"] = " ".join([IMAGE] * count) + "\n" + turn["content"]
    if wrap:
        for turn in turns[1:]:
            turn["content"] = turn["content"].replace(IMAGE, WRAPPED_IMAGE)
    return turns


def _place_github(turns: list[Turn], counts: list[int], n_pictures: int, placeholder: str) -> list[Turn]:
    """The GitHub chat class: no system prompt, no space between placeholders, surplus ones deleted (spec 11)."""
    turns = turns[1:]
    if any("<video>" in turn["content"] for turn in turns):
        raise PromptError(
            "the github flavour cannot take <video> in a message", f"leave it out, or use {option('flavour')} hf"
        )
    for turn, count in zip(turns, counts[1:], strict=True):
        if count and IMAGE not in turn["content"]:
            turn["content"] = IMAGE * count + "\n" + turn["content"]
        parts = turn["content"].split(IMAGE)
        turn["content"] = placeholder.join(parts[: n_pictures + 1]) + "".join(parts[n_pictures + 1 :])
    return turns


def _check_roles(turns: list[Turn]) -> None:
    if len(turns) < 2 or turns[-1]["role"] != "user":
        raise PromptError("the last message must be the user's", "end the conversation with a question")
    for index, turn in enumerate(turns[1:]):
        expected = "user" if index % 2 == 0 else "assistant"
        if turn["role"] != expected:
            raise PromptError(
                f"message {index + 1} after the system prompt is the {turn['role']}'s, expected the {expected}'s",
                "user and assistant messages must take turns, the user first",
            )


def check_placeholders(prompt: Prompt, n_pictures: int) -> None:
    """Raises PromptError for more placeholders than pictures. After rendering: a template may drop some."""
    found = prompt.n_placeholders
    if found > n_pictures:
        raise PromptError(
            f"the messages hold {found} {IMAGE} placeholders but the request has {n_pictures} pictures",
            f"attach {found - n_pictures} more, or take the word {IMAGE} out of the text",
        )


class PromptBuilder:
    """Renders the chat template and tokenises the result part by part. Raises ModelError for a template that cannot
    be parsed."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.escape = Escaper(tokenizer.added).escape
        self._render = _compile_template(tokenizer.template or CHATML)
        longest_first = sorted(map(re.escape, tokenizer.added), key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(longest_first) or '(?!)'})")

    def build(self, turns: list[Turn], think: bool | None, *, escaped: bool = False) -> Prompt:
        """``think`` None leaves the template's own default. ``escaped``: the turns are of messages that went through
        ``escape``, and no text of theirs becomes a token; else all text is read as published.

        Raises PromptError if the template fails, and for text that is not Unicode (broken bytes typed).
        """
        switch = {} if think is None else {"enable_thinking": think}
        try:
            text = self._render(messages=turns, add_generation_prompt=True, **self.tokenizer.special, **switch)
        except Exception as error:  # Jinja errors, and whatever a template's own code raises
            raise PromptError(f"the checkpoint's chat template fails: {error}") from None
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError("the prompt holds bytes that are not UTF-8", "write it as UTF-8 text") from None
        if escaped:
            return Prompt(unescape(text), tuple(self._encode(text, self._read_escaped)))
        return Prompt(text, tuple(self._encode(text, self.tokenizer.encode)))

    def _encode(self, text: str, read: Callable[[str], list[int]]) -> Iterator[int]:
        """Each turn, and each stretch between placeholders, is tokenised on its own (spec 4, step 6)."""
        *turns, last = text.split(END_OF_TURN)
        for part in [turn + END_OF_TURN for turn in turns if turn] + [last]:
            first, *rest = part.split(IMAGE)
            yield from read(first)
            for chunk in rest:
                yield IMAGE_ID
                yield from read(chunk)

    def _read_escaped(self, text: str) -> list[int]:
        """Added tokens become their ids where they stand as such; all between them, and all that is escaped, is text.

        That is what the tokenizer itself does, but for flags such as ``rstrip``, which no published token here has.
        """
        ids: list[int] = []
        for index, piece in enumerate(self._added.split(text)):
            ids += [self.tokenizer.added[piece]] if index % 2 else self.tokenizer.encode_plain(unescape(piece))
        return ids


def _compile_template(source: str) -> Callable[..., str]:
    """The template in Jinja's sandbox, with what transformers' own renderer offers templates."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source).render
    except TemplateError as error:
        raise ModelError(f"the checkpoint's chat template cannot be parsed: {error}") from None
