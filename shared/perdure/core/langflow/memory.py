"""The chat memory of a job of a Langflow flow: what its log holds of what was said, as Langflow records messages."""

from collections.abc import Iterable

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue

Message = dict[str, UserValue]


def said(log: Iterable[AnyEvent]) -> list[Message]:
    """The messages, oldest first; values that lay in blobs are there. What a component says that has not finished does
    not count: it says it again. Nor does what was taken back.
    """
    events = list(log)
    finished = {event.data.step for event in events if isinstance(event, ev.StepCompleted)}
    found: dict[str, Message] = {}
    for event in events:
        if isinstance(event, ev.Message):
            message = event.data
            if message.removed:
                found.pop(message.message_id, None)
            elif message.step in finished and isinstance(message.original, dict):
                found[message.message_id] = message.original
    return list(found.values())
