"""One life of a job, as every protocol shows it: golden streams, from the beginning and of who comes in the middle.

To write them anew: `PERDURE_GOLDEN=write pytest tests/unit/core/test_stream_golden.py`. A release may add members.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.registry import adapter
from perdure.testing.agui import check, events_of
from perdure.testing.factory import JOB, Story
from perdure.testing.telling import Heard, tell

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "streams"
NAMES: Final = ("agui", "native")


def said(delta: str, attempt: int, n: int, after: int, **members: Any) -> Said:
    base = {"v": 1, "type": delta, "attempt": attempt, "n": n, "after": after, "occurrence": 1}
    found = read_delta(msgspec.json.encode(base | members))
    assert found is not None
    return found


def life() -> list[Heard]:
    """Words of an attempt that dies, a tool, thoughts, a message, a request and its answer, and the end."""
    story = Story()
    submitted = story.submitted()
    thread = {"messages": [{"id": "u1", "role": "user", "content": "hello"}], "state": {"theme": "dark"}}
    source = ev.Source(surface="agui", thread_id="t1", run_id="r1")
    first = replace(submitted, data=replace(submitted.data, thread=thread, source=source))
    heard: list[Heard] = [first, story.started()]
    heard.append(said("delta.step", 1, 1, 2, step="draft", kind="started"))
    heard.append(said("delta.text", 1, 2, 2, step="draft", channel="m-1", pos=0, text="Dead wor"))
    heard.append(story.started("lease_lost"))
    heard.append(said("delta.step", 2, 1, 3, step="draft", kind="started"))
    heard.append(said("delta.reasoning", 2, 2, 3, step="draft", channel="r", pos=0, text="Hm."))
    tool = {"call_id": "call-1", "name": "search", "arguments": {"q": "tea"}}
    heard.append(said("delta.tool", 2, 3, 3, step="draft", **tool))
    heard.append(said("delta.tool", 2, 4, 3, step="draft", **tool, result={"hits": 3}))
    heard.append(said("delta.log", 2, 5, 3, step="draft", level="info", text="three hits"))
    heard.append(said("delta.text", 2, 6, 3, step="draft", channel="m-1", pos=0, text="Three kinds "))
    heard.append(said("delta.text", 2, 7, 3, step="draft", channel="m-1", pos=12, text="of té"))
    heard.append(story.step("draft", "Three kinds of té."))
    heard.append(story.add(ev.ProgressData(name="p", occurrence=1, done=1, total=2, text="half")))
    heard.append(story.add(ev.StepSkippedData(step="else", occurrence=1, reason="no edge")))
    asked = story.asked("publish")
    heard.append(story.events[-1])
    heard.append(story.suspended(ev.Waiting(kind="input", name="publish", request_id=asked)))
    heard.append(story.answered(asked))
    heard.append(story.started("resumed", because_seq=9, cause="answer"))
    heard.append(story.step("show", "Three kinds of té.", output=ev.Named(name="show", kind="text")))
    heard.append(story.completed(show="Three kinds of té."))
    return heard


def transcript(name: str) -> bytes:
    """From the beginning, and again each time the stream ends before the job does; then who comes in the middle."""
    heard, found = life(), list[bytes]()
    for begin in (1, 13, 16, len(heard)):
        reader = Attach(job=JOB, thread_id="t1", run_id="r1")
        frames = list(tell(adapter(name, reader), heard, begin))
        found.append(f": a reader who comes when {begin} of {len(heard)} have happened\n\n".encode())
        found += [frame.encode() for frame in frames]
        if name == "agui":
            check(events_of(frames), "t1", "r1")
    return b"".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_life_is_shown_as_it_always_was(name: str) -> None:
    found = transcript(name)
    file = GOLDEN / f"{name}.sse"
    if os.environ.get("PERDURE_GOLDEN") == "write":
        file.write_bytes(found)
    assert found == file.read_bytes()


def test_the_life_that_is_told_is_one_that_can_be() -> None:
    events = [item for item in life() if not isinstance(item, Said)]
    assert all(after.seq == before.seq + 1 for before, after in pairwise(events))
    kinds = {type(item) for item in events}
    assert kinds >= {ev.StepCompleted, ev.InputAnswered, ev.JobSuspended, ev.JobCompleted}
