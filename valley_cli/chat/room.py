"""Whether a question fits into the model's context, said before it is sent, with what would make room."""

from __future__ import annotations

from collections.abc import Callable

from valley_cli.api import Cost, Engine, Request
from valley_cli.chat.conversation import Conversation
from valley_cli.errors import PromptError

SHORT_ANSWER_TOKENS = 200  # less room than this is said

ToRequest = Callable[[Conversation], Request]


def check_room(engine: Engine, asked: Conversation, to_request: ToRequest) -> tuple[Cost | None, str | None]:
    """What the last question of ``asked`` takes, and a remark if little room is left for its answer.

    None where the engine cannot tell. Raises PromptError if there is no room, and what ``Engine.price`` raises. Memory
    is not looked at: the model is loaded, and what it keeps of earlier turns gives way.
    """
    request = to_request(asked)
    cost = engine.price(request)
    if cost is None:
        return None, None
    if cost.max_new_tokens < 1:
        raise PromptError(
            f"not sent: with this the conversation is {cost.prompt_tokens} tokens ({cost.image_tokens} for pictures), "
            f"the context holds {cost.context_tokens}",
            what_frees(engine, asked, cost, to_request),
        )
    cut_by_context = cost.prompt_tokens + cost.max_new_tokens >= cost.context_tokens
    wanted = min(request.sampling.max_new_tokens or SHORT_ANSWER_TOKENS, SHORT_ANSWER_TOKENS)
    if cut_by_context and cost.max_new_tokens < wanted:
        freed = what_frees(engine, asked, cost, to_request)
        return cost, f"the context has room for an answer of {cost.max_new_tokens} tokens; {freed}"
    return cost, None


def what_frees(engine: Engine, asked: Conversation, cost: Cost, to_request: ToRequest) -> str:
    """What each command would free if the same were asked after it, in tokens."""
    last, before = asked.exchanges[-1], asked.undone()
    smaller: dict[str, Conversation] = {}
    if before.exchanges:
        smaller["/undo"] = before.undone().asked(last.question)
        smaller["/clear"] = before.cleared().asked(last.question)
    if asked.attachments:
        smaller["/detach all"] = asked.without(asked.attachments)
    freed = {
        name: cost.prompt_tokens - then.prompt_tokens
        for name, conversation in smaller.items()
        if (then := engine.price(to_request(conversation)))
    }
    found = [f"{name} frees {tokens} tokens" for name, tokens in freed.items() if tokens > 0]
    return ", ".join(found) or "ask something shorter"
