"""Speech: every delta before what settles it, numbers dense, texts in mouthfuls, the first words at once."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from perdure.bus.delta import Deltas
from perdure.clock import SystemClock
from perdure.ids import JobRef, Tenant, new_job_id
from perdure_runner import speech
from perdure_runner.speech import Speech

REF = JobRef(Tenant("main"), new_job_id())


class Heard(Deltas):
    """What would have been published."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def publish(self, ref: JobRef, body: bytes) -> None:
        assert ref == REF
        self.said.append(msgspec.json.decode(body))

    @property
    def short(self) -> list[tuple[int, int, str, Any, Any]]:
        return [(d["n"], d["after"], d["type"], d.get("pos"), d.get("text")) for d in self.said]


def text(speech: Speech, words: str, pos: int, channel: str = "m") -> None:
    speech.say("delta.text", {"step": "draft", "occurrence": 1, "channel": channel, "pos": pos, "text": words})


async def test_the_first_words_go_out_at_once_and_the_next_ones_together(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    heard, seq = Heard(), 2
    speaker = Speech(REF, heard, SystemClock(), lambda: (1, seq))
    for pos, word in enumerate("hello"):
        text(speaker, word, pos)
    assert heard.short == [(1, 2, "delta.text", 0, "h")]
    await eventually(lambda: len(heard.said) == 2)
    assert heard.short[1] == (2, 2, "delta.text", 1, "ello")
    await eventually(lambda: not speaker._held)  # it fell silent: its next words are first words
    text(speaker, "!", 5)
    assert heard.short[2] == (3, 2, "delta.text", 5, "!")
    speaker.close()


async def test_what_is_held_goes_out_before_anything_that_follows_it() -> None:
    heard, seq = Heard(), 2
    speaker = Speech(REF, heard, SystemClock(), lambda: (1, seq))
    for pos, word in enumerate("ab"):
        text(speaker, word, pos)
    speaker.say("delta.log", {"step": "draft", "occurrence": 1, "level": "info", "text": "line"})
    assert [each[4] for each in heard.short] == ["a", "b", "line"]
    text(speaker, "c", 2)
    text(speaker, "x", 0, "other")
    text(speaker, "y", 1, "other")
    speaker.flush()
    seq = 3  # the event that settles them
    text(speaker, "A", 0)  # the step runs again: its place is not behind what was said
    text(speaker, "B", 1)
    speaker.close()
    text(speaker, "nobody hears this", 2)
    assert [(n, after, words) for n, after, _, _, words in heard.short[3:]] == [
        (4, 2, "x"),
        (5, 2, "c"),
        (6, 2, "y"),
        (7, 3, "AB"),
    ]


async def test_a_mouthful_is_bounded() -> None:
    heard = Heard()
    speaker = Speech(REF, heard, SystemClock(), lambda: (1, 2))
    words = "x" * 1000
    for turn in range(20):
        text(speaker, words, turn * 1000)
    speaker.close()
    assert all(len(each["text"]) < speech.MOST_CHARS + 1000 for each in heard.said)
    assert "".join(each["text"] for each in heard.said) == words * 20
    assert [each["n"] for each in heard.said] == list(range(1, len(heard.said) + 1))


def start(speech: Speech, step: str) -> None:
    speech.say("delta.step", {"step": step, "occurrence": 1, "kind": "started"})


async def test_a_step_that_takes_long_is_told_and_one_that_has_ended_is_not(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    heard = Heard()
    speaker = Speech(REF, heard, SystemClock(), lambda: (1, 2))
    start(speaker, "short")
    start(speaker, "long")
    speaker.settle(("", "short", 1))
    assert heard.said == []
    await eventually(lambda: heard.said)
    start(speaker, "next")
    await eventually(lambda: len(heard.said) == 2)
    start(speaker, "last")
    speaker.close()
    assert [(each["n"], each["step"]) for each in heard.said] == [(1, "long"), (2, "next")]


async def test_a_start_is_told_before_what_its_step_says() -> None:
    heard = Heard()
    speaker = Speech(REF, heard, SystemClock(), lambda: (1, 2))
    start(speaker, "draft")
    text(speaker, "a", 0)
    speaker.close()
    assert [(each["n"], each["type"]) for each in heard.said] == [(1, "delta.step"), (2, "delta.text")]
