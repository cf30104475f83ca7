"""What travels without a broker in sight: doorbells as bytes, inboxes of followers, the seams of a batch."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from perdure.bus.doorbell import Doorbell, decode, encode
from perdure.bus.fanout import MOST_BYTES, MOST_FRAMES, Inbox, Lagged, LiveDelta, LiveEvent
from perdure.bus.stream import Box
from perdure.errors import Malformed, Unavailable, UnsupportedVersion
from perdure.ids import JobId, StreamSeq, Tenant

GOLDEN = Path(__file__).parents[1] / "golden" / "bus" / "doorbell-1.json"
GOLDEN_ALARM = GOLDEN.with_name("alarm-1.json")
JOB, RING = JobId("0199aaaa-0000-7000-8000-00000000000c"), "0199aaaa-0000-7000-8000-0000000000ff"
BELL = Doorbell(1, Tenant("t1"), JOB, RING, b'{"v":1,"type":"job.submitted"}', StreamSeq(17))


def test_a_doorbell_lies_in_the_queue_as_it_did_in_release_1() -> None:
    stored = GOLDEN.read_bytes().strip()
    assert encode(BELL) == stored
    assert decode(stored) == BELL


def test_an_alarm_bears_its_name() -> None:
    alarm, stored = Doorbell(1, Tenant("t1"), JOB, RING, alarm="q3-r1"), GOLDEN_ALARM.read_bytes().strip()
    assert encode(alarm) == stored
    assert decode(stored) == alarm


def test_a_bare_doorbell_says_whose_and_which() -> None:
    bare = Doorbell(1, Tenant("t1"), JOB, RING)
    assert encode(bare) == f'{{"v":1,"tenant":"t1","job":"{JOB}","ring":"{RING}"}}'.encode()
    assert decode(encode(bare)) == bare


def test_a_doorbell_of_a_newer_format_is_left_to_a_newer_runner() -> None:
    with pytest.raises(UnsupportedVersion):
        decode(f'{{"v":2,"tenant":"t1","job":"{JOB}","ring":"{RING}","more":1}}'.encode())


@pytest.mark.parametrize("field", ["tenant", "job", "ring"])
@pytest.mark.parametrize("text", ["*", ">", "a.b", "", "X"])
def test_a_doorbell_with_an_id_that_is_none_is_refused(field: str, text: str) -> None:
    fields = {"tenant": "t1", "job": str(JOB), "ring": RING, field: text}
    with pytest.raises(Malformed):
        decode(f'{{"v":1,"tenant":"{fields["tenant"]}","job":"{fields["job"]}","ring":"{fields["ring"]}"}}'.encode())


@given(st.binary())
def test_any_bytes_are_a_doorbell_or_refused(body: bytes) -> None:
    try:
        decode(body)
    except (Malformed, UnsupportedVersion):
        return


async def drained(inbox: Inbox) -> list[LiveEvent | LiveDelta | Lagged]:
    frames = []
    while (frame := await inbox.next(0)) is not None:
        frames.append(frame)
    return frames


async def test_an_inbox_keeps_the_order() -> None:
    inbox = Inbox()
    inbox.put(LiveEvent(StreamSeq(4), StreamSeq(2), b"a"))
    inbox.put(LiveDelta(b"b"))
    assert await drained(inbox) == [LiveEvent(StreamSeq(4), StreamSeq(2), b"a"), LiveDelta(b"b")]


async def test_a_full_inbox_says_once_that_it_lagged_and_takes_what_comes_after() -> None:
    inbox = Inbox()
    for _ in range(MOST_FRAMES + 1):
        inbox.put(LiveDelta(b"x"))
    inbox.put(LiveDelta(b"later"))
    assert await drained(inbox) == [Lagged(), LiveDelta(b"later")]


async def test_an_inbox_is_bounded_in_bytes_too() -> None:
    inbox = Inbox()
    for _ in range(3):
        inbox.put(LiveDelta(b"x" * (MOST_BYTES // 2)))
    assert await drained(inbox) == [Lagged()]
    inbox.put(LiveDelta(b"y" * (2 * MOST_BYTES)))  # on its own a frame may be larger: else it could never pass
    assert len(await drained(inbox)) == 1


async def test_a_reader_is_woken_by_a_frame() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.next(None))
    await asyncio.sleep(0)
    inbox.put(LiveDelta(b"x"))
    assert await waiting == LiveDelta(b"x")


def message(seq: int, before: int) -> Msg:
    headers = {
        "Nats-Subject": "ev.0.t1.x", "Nats-Sequence": str(seq), "Nats-Last-Sequence": str(before),
        "Nats-Time-Stamp": "2026-01-01T00:00:00.123456789Z",
    }  # fmt: skip
    return Msg(Client(), "_SVC.x", "", b"{}", headers)


def end(status: str, left: int = 0) -> Msg:
    return Msg(Client(), "_SVC.x", "", b"", {"Status": status, "Nats-Num-Pending": str(left)})


async def test_a_batch_ends_with_its_status_and_says_what_is_left() -> None:
    box = Box()
    for m in (message(3, 0), message(7, 3), end("204", 5)):
        box.hear(m)
    reads, left = await box.batch()
    assert ([r.seq for r in reads], left) == ([3, 7], 5)
    box.hear(end("404"))
    assert await box.batch() == ([], 0)


async def test_a_message_missing_inside_a_batch_is_noticed() -> None:
    box = Box()
    for m in (message(3, 0), message(9, 7), end("204")):
        box.hear(m)
    with pytest.raises(Unavailable):
        await box.batch()


@pytest.mark.parametrize("status", ["503", "408", "413"])
async def test_a_batch_that_was_refused_is_not_an_empty_one(status: str) -> None:
    box = Box()
    box.hear(end(status))
    with pytest.raises(Unavailable):
        await box.batch()
