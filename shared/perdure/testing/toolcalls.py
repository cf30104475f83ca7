"""Which tools the local chat model calls: those that the user's last message names, one a turn, in its order.

A line of that message that is the name of an offered tool and a JSON object is a call:

    send_mail {"to": "ann@example.com"}

When each has its result the model says what came back.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

_LINE: Final = re.compile(r"\s*([A-Za-z0-9_-]{1,64})\s+(\{.*\})\s*")


class Message(Struct):
    """A message of a conversation, as far as this server looks at it."""

    role: str
    content: str | None = None
    tool_call_id: str | None = None


class ToolCall(Struct, frozen=True):
    """A call that the model makes: its id, the tool's name, and its arguments as JSON text."""

    id: str
    name: str
    arguments: str

    def as_protocol(self) -> dict[str, Any]:  # JSON
        """The call as the protocol has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def wanted(messages: Sequence[Message], tools: Sequence[str]) -> tuple[ToolCall | None, str | None]:
    """The call to make next; or, when all were made, what to say. Both None where nothing is to be called at all."""
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
    if last is None:
        return None, None
    calls = [
        ToolCall(f"call_{last}_{n}", name, arguments)
        for n, (name, arguments) in enumerate(_named(messages[last].content or "", tools), 1)
    ]
    results = {message.tool_call_id: message.content or "" for message in messages[last:] if message.role == "tool"}
    for call in calls:
        if call.id not in results:
            return call, None
    return None, "\n".join(f"{call.name}: {results[call.id]}" for call in calls) if calls else None


def _named(text: str, tools: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and match[1] in tools and _is_object(match[2]):
            found.append((match[1], match[2]))
    return found


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False
