"""The messages of an AG-UI thread as a client of one connection has them.

    posted      what the client sent with the run
    kept        messages of the log, and at the end the texts that the job gave out
    provisional a text that is streamed, or whose step has ended; a tool call. The log has them nowhere: a client that
                comes later does not see them, and where the run ends or is interrupted they are taken back, unless they
                have become messages

An id is made of what streamed the text, the attempt and the tries before among it, so no id ever has two texts.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from perdure.core.stream.agui.words import ASSISTANT, Said, as_text, event
from perdure.core.stream.delta import Call, Delta
from perdure.core.surface.runinput import said_last

CHANNEL = "m-1"  # of a step that says one text
Kind = Literal["text", "reasoning", "tool"]
Key = tuple[str, Call, str]


class Message:
    """One message that is not the client's own. `open`: more of it may come; `kept`: the log has it; `settled`: its
    step has ended well; `base`: so many characters of its beginning are lost. Of a tool call `text` are the arguments.
    """

    def __init__(self, mid: str, kind: Kind, call: Call, role: str = ASSISTANT, *, key: Key = ("", ("", "", 1), "")):
        self.id, self.kind, self.call, self.role, self.key = mid, kind, call, role, key
        self.text = self.tool = ""
        self.base = 0
        self.result: str | None = None
        self.open, self.settled, self.kept = True, False, False

    def records(self) -> Iterator[Said]:
        """It, as a snapshot has it: a tool call with a result is two."""
        if self.kind != "tool":
            yield {"id": self.id, "role": "reasoning" if self.kind == "reasoning" else self.role, "content": self.text}
            return
        call = {"id": self.id, "type": "function", "function": {"name": self.tool, "arguments": self.text}}
        yield {"id": self.id, "role": ASSISTANT, "toolCalls": [call]}
        if self.result is not None:
            yield {"id": f"{self.id}:result", "role": "tool", "toolCallId": self.id, "content": self.result}

    def begins(self, text: str) -> bool:
        """Whether `text` goes on from what there is of it."""
        return not self.base and text.startswith(self.text)

    def start(self) -> list[Said]:
        """It begins, or goes on for a client that has it from a snapshot."""
        if self.kind == "text":
            return [event("TEXT_MESSAGE_START", messageId=self.id, role=self.role)]
        opened = event("REASONING_MESSAGE_START", messageId=self.id, role="reasoning")
        return [event("REASONING_START", messageId=f"{self.id}:span"), opened]

    def more(self, text: str) -> list[Said]:
        """`text` behind what there is."""
        self.text += text
        kind = "TEXT_MESSAGE_CONTENT" if self.kind == "text" else "REASONING_MESSAGE_CONTENT"
        return [event(kind, messageId=self.id, delta=text)] if text else []

    def end(self) -> list[Said]:
        """No more of it comes."""
        self.open = False
        if self.kind == "text":
            return [event("TEXT_MESSAGE_END", messageId=self.id)]
        span = event("REASONING_END", messageId=f"{self.id}:span")
        return [event("REASONING_MESSAGE_END", messageId=self.id), span]

    def tool_result(self, value: Any) -> list[Said]:  # Any: JSON
        """What the tool said."""
        self.result = as_text(value)
        members = {"messageId": f"{self.id}:result", "toolCallId": self.id, "content": self.result, "role": "tool"}
        return [event("TOOL_CALL_RESULT", **members)]


class Thread:
    """All messages of a thread, in the order in which they came."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._posted: list[Said] = []
        self._asked: str | None = None
        self._ours: dict[str, Message] = {}
        self._tries: dict[Call, int] = {}
        self._streamed: dict[Key, Message] = {}
        self._spent: set[str] = set()  # ids that messages of the log have or had
        self._named: dict[str, str] = {}  # a message of the log: the id that it has here
        self._returned: dict[str, str] = {}  # what steps returned as text: the id of the message that it would be

    def post(self, messages: Any) -> None:  # Any: JSON
        """The messages that the client sent, each id once."""
        seen: dict[str, Said] = {}
        for message in messages if isinstance(messages, list) else []:
            if isinstance(message, dict) and isinstance(message.get("id"), str):
                seen.setdefault(message["id"], message)
        self._posted = list(seen.values())
        self._asked = said_last(self._posted)

    def snapshot(self) -> Said:
        """Everything, as MESSAGES_SNAPSHOT."""
        posted = [message for message in self._posted if message["id"] not in self._ours]
        ours = [record for message in self._ours.values() for record in message.records()]
        return event("MESSAGES_SNAPSHOT", messages=posted + ours)

    def open(self) -> list[Message]:
        """The texts of which more may come."""
        return [message for message in self._ours.values() if message.open and message.kind != "tool"]

    def streaming(self, delta: Delta) -> Message | None:
        """The text that a delta belongs to, if it has begun and not ended."""
        return self._streamed.get((delta.type, delta.call, delta.channel))

    def begin(self, delta: Delta) -> Message:
        """The text that a delta begins."""
        kind: Kind = "text" if delta.type == "delta.text" else "reasoning"
        mid = self._id(delta.attempt, delta.call, delta.channel or CHANNEL)
        mid = self._free(mid if kind == "text" else f"{mid}:reasoning")
        key = (delta.type, delta.call, delta.channel)
        message = self._ours[mid] = self._streamed[key] = Message(mid, kind, delta.call, key=key)
        message.base = delta.pos
        return message

    def end(self, message: Message) -> list[Said]:
        """No more of a streamed text comes."""
        del self._streamed[message.key]
        return message.end()

    def tool(self, delta: Delta, name: str) -> tuple[Message, bool]:
        """The tool call of a delta, and whether it is new."""
        message = self._ours.get(delta.call_id)
        if message is not None and message.kind == "tool":
            return message, False
        message = self._ours[delta.call_id] = Message(delta.call_id, "tool", delta.call)
        message.open, message.tool = False, name
        return message, True

    def returned(self, attempt: int, call: Call, text: str) -> None:
        """A step has returned `text`: should the job give it out, it is the message that the step streamed.

        Where several return it the first one counts: the others have passed it on.
        """
        self._returned.setdefault(text, self._id(attempt, call, CHANNEL))

    def failed(self, call: Call) -> None:
        """A step has failed: what it says when it is tried again is another text."""
        self._tries[call] = self._tries.get(call, 0) + 1

    def message(self, attempt: int, call: Call, channel: str, role: str, text: str) -> tuple[list[Said], bool]:
        """A message of the log: what is said of it, and whether only a snapshot can say the rest.

        That of the user which the client has posted is there already.
        """
        if role == "user" and text == self._asked:
            return [], False
        mid, streamed = self._free(self._id(attempt, call, channel)), self._of(call, channel)
        self._named[channel] = mid
        if streamed is None:
            return self.whole(mid, role, text), False
        if (streamed.id, streamed.role) == (mid, role) and streamed.begins(text):
            said = streamed.more(text[len(streamed.text) :]) + self.end(streamed)
            streamed.kept = True
            self._spent.add(mid)
            return said, False
        said = self.end(streamed)
        del self._ours[streamed.id]
        self.whole(mid, role, text)
        return said, True

    def removed(self, channel: str) -> None:
        """A message of the log was taken back."""
        self._ours.pop(self._named.pop(channel, ""), None)

    def whole(self, mid: str, role: str, text: str) -> list[Said]:
        """A message that nobody has begun."""
        message = self._ours[mid] = Message(mid, "text", ("", "", 1), role)
        message.kept = True
        self._spent.add(mid)
        return message.start() + message.more(text) + message.end()

    def give_out(self, name: str, text: str) -> tuple[list[Said], bool]:
        """A text output that becomes a message; as `message`."""
        mid = self._returned.get(text) or f"{self._job}:output:{name}"
        before = self._ours.get(mid)
        if before is None:
            return self.whole(mid, ASSISTANT, text), False
        differs, before.text, before.kept = before.text != text, text, True
        return [], differs

    def answered(self) -> bool:
        """Whether the log has a message of the assistant."""
        return any(message.kept and message.role == ASSISTANT for message in self._ours.values())

    def drop(self, which: Callable[[Message], bool]) -> bool:
        """Take back the messages that are `which`, none of them open; whether there were any."""
        gone = [mid for mid, message in self._ours.items() if which(message)]
        for mid in gone:
            del self._ours[mid]
        return bool(gone)

    def unsettled(self) -> list[Message]:
        """What neither the log nor the good end of a step has."""
        return [message for message in self._ours.values() if not (message.kept or message.settled)]

    def of(self, call: Call) -> list[Message]:
        """What a call has said and no log has."""
        return [message for message in self._ours.values() if message.call == call and not message.kept]

    def _of(self, call: Call, channel: str) -> Message | None:
        """The open text of a channel, whichever occurrence of the step says it: a message names none."""
        path, step, _ = call
        found = (m for (kind, where, its), m in self._streamed.items() if (kind, its) == ("delta.text", channel))
        return next((message for message in found if message.call[:2] == (path, step)), None)

    def _id(self, attempt: int, call: Call, channel: str) -> str:
        """The id of what a call says."""
        path, step, occurrence = call
        place = f"{path}/{step}" + (f"#{occurrence}" if occurrence > 1 else "")
        tries = self._tries.get(call, 0)
        rest = (f":try{tries + 1}" if tries else "") + ("" if channel == CHANNEL else f":{channel}")
        return f"{self._job}:{attempt}:{place}{rest}"

    def _free(self, mid: str) -> str:
        """`mid`, or where a message of the log has or had it, the next that none ever had."""
        found, number = mid, 1
        while found in self._spent:
            number += 1
            found = f"{mid}~{number}"
        return found


def known(posted: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:  # Any: JSON
    """Messages and state as they were posted; the state's key `perdure` is ours and left out."""
    state = posted.get("state")
    mine = {name: value for name, value in state.items() if name != "perdure"} if isinstance(state, dict) else {}
    return posted.get("messages"), mine
