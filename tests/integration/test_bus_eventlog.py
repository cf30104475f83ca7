"""The logs on a real broker: the fence, the look, reading to the true end, replay from an offset, a shard's scan."""

import asyncio

import pytest
from msgspec import json
from msgspec.structs import replace

from perdure.bus import subject
from perdure.bus.connection import Bus
from perdure.bus.entry import Stored, Unread
from perdure.bus.eventlog import EventLog
from perdure.bus.shards import Scanned
from perdure.bus.stream import Read, direct_batch, store
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.errors import Malformed, TailMoved, TooLarge
from perdure.ids import JobId, JobRef, StreamSeq, Tenant, new_event_id, new_job_id
from perdure.testing.factory import Story
from perdure.testing.logs import Told

START = StreamSeq(0)


def submitted(ref: JobRef, value: str = "hello") -> AnyEvent:
    """A first event with an id of its own: the ids of a Story repeat."""
    event = Story(ref.job).submitted()
    assert isinstance(event, ev.JobSubmitted)
    return replace(event, id=new_event_id(), data=replace(event.data, input=value))


async def test_what_is_appended_is_read_back_as_it_was(eventlog: EventLog, tenant: Tenant) -> None:
    told = await Told(eventlog, tenant).begin(steps=3)
    stored = await eventlog.read(told.ref)
    assert [s.event for s in stored] == told.story.events
    assert [s.at for s in stored] == told.at
    assert [s.body for s in stored] == [codec.encode(e) for e in told.story.events]
    assert {s.ref for s in stored} == {told.ref}


async def test_a_log_that_nobody_began_is_empty_everywhere(eventlog: EventLog, tenant: Tenant) -> None:
    ref = JobRef(tenant, new_job_id())
    assert await eventlog.read(ref) == []
    assert await eventlog.look(ref, START) == []
    assert await eventlog.tail(ref) is None
    assert await eventlog.replay(ref) == []
    assert await eventlog.replay(ref, 700) == []


async def test_a_read_asks_for_no_more_than_there_is(eventlog: EventLog, bus: Bus, tenant: Tenant) -> None:
    """Or the broker would look through all that others wrote since."""
    told = await Told(eventlog, tenant).begin(steps=4)
    asked: list[int] = []
    direct = f"$JS.API.DIRECT.GET.{subject.event_stream(eventlog.shard_of(told.ref.job))}"
    listening = await bus.listen(direct, lambda message: asked.append(json.decode(message.data).get("batch", 1)))
    assert [s.at for s in await eventlog.read(told.ref)] == told.at
    assert [s.at for s in await eventlog.replay(told.ref)] == told.at
    assert [s.at for s in await eventlog.upto(told.ref, (await eventlog.read(told.ref))[3])] == told.at[:4]
    await bus.unsubscribe(listening)
    last = len(told.at) - 1
    assert asked == [last, 1, last, last, 3]


async def test_an_append_behind_a_tail_that_moved_is_refused(eventlog: EventLog, tenant: Tenant) -> None:
    told = await Told(eventlog, tenant).begin()
    late = told.story.step("late")
    with pytest.raises(TailMoved):
        await eventlog.append(told.ref, late, told.at[0])
    with pytest.raises(TailMoved):
        await eventlog.append(told.ref, late, START)
    with pytest.raises(TailMoved):
        await eventlog.append(told.ref, late, StreamSeq(told.last + 1))
    assert [s.at for s in await eventlog.read(told.ref)] == told.at


async def test_of_writers_that_race_for_one_place_exactly_one_wins(eventlog: EventLog, tenant: Tenant) -> None:
    for _ in range(20):
        ref = JobRef(tenant, new_job_id())
        events = [submitted(ref, str(i)) for i in range(8)]
        appends = [eventlog.append(ref, e, START) for e in events]
        results = await asyncio.gather(*appends, return_exceptions=True)
        won = [e.id for e, r in zip(events, results, strict=True) if isinstance(r, int)]
        assert [type(r) for r in results if not isinstance(r, int)] == [TailMoved] * 7
        assert [s.event.id for s in await eventlog.read(ref)] == won


async def test_the_same_append_again_is_refused_and_found_by_the_look(eventlog: EventLog, tenant: Tenant) -> None:
    ref = JobRef(tenant, new_job_id())
    event = submitted(ref)
    at = await eventlog.append(ref, event, START)
    with pytest.raises(TailMoved):
        await eventlog.append(ref, event, START)
    assert [(s.at, s.event.id) for s in await eventlog.look(ref, START)] == [(at, event.id)]


async def test_the_look_sees_every_event_after_a_place(eventlog: EventLog, tenant: Tenant) -> None:
    told, beside = await Told(eventlog, tenant).begin(), await Told(eventlog, tenant).begin()
    for number in range(4):
        await told.put(told.story.step(f"s{number}"))
        await beside.put(beside.story.step(f"s{number}"))
    assert [s.at for s in await eventlog.look(told.ref, told.at[1])] == told.at[2:]
    assert await eventlog.look(told.ref, told.last) == []


async def test_the_tail_is_the_last_event(eventlog: EventLog, tenant: Tenant) -> None:
    told = await Told(eventlog, tenant).begin(steps=2)
    tail = await eventlog.tail(told.ref)
    assert tail is not None
    assert (tail.at, tail.event) == (told.last, told.story.events[-1])


async def test_a_replica_that_is_behind_does_not_cut_a_log_short(
    eventlog: EventLog, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behind(bus: Bus, stream: str, name: str, after: int, most: int | None = None) -> list[Read]:
        return (await direct_batch(bus, stream, name, after, most))[:-2]

    told = await Told(eventlog, tenant).begin(steps=3)
    monkeypatch.setattr("perdure.bus.eventlog.direct_batch", behind)
    assert [s.at for s in await eventlog.read(told.ref)] == told.at


async def test_the_same_job_id_of_another_tenant_is_another_log(eventlog: EventLog, tenant: Tenant) -> None:
    told = await Told(eventlog, tenant).begin()
    other = JobRef(Tenant(tenant[:-1] + "z"), told.ref.job)
    assert await eventlog.read(other) == []
    await eventlog.append(other, submitted(other), START)
    assert len(await eventlog.read(told.ref)) == 2


async def test_a_long_log_is_replayed_from_any_offset(eventlog: EventLog, tenant: Tenant) -> None:
    told, beside = await Told(eventlog, tenant).begin(), await Told(eventlog, tenant).begin()
    for number in range(1198):
        await told.put(told.story.step(f"s{number}"))
        if number % 3 == 0:
            await beside.put(beside.story.step(f"s{number}"))
    for after in (0, 1, 499, 500, 501, 777, 1198, 1199):
        assert [s.event.seq for s in await eventlog.replay(told.ref, after)] == list(range(after + 1, 1201)), after
    assert await eventlog.replay(told.ref, 1200) == []
    assert await eventlog.replay(told.ref, 99_999) == []
    assert [s.at for s in await eventlog.read(told.ref)] == told.at  # three batches and the look


async def test_a_log_of_large_events_is_read_in_batches_bounded_in_bytes(eventlog: EventLog, tenant: Tenant) -> None:
    told = await Told(eventlog, tenant).begin()
    for number in range(60):
        await told.put(told.story.step(f"s{number}", "x" * 100_000))
    assert [s.at for s in await eventlog.read(told.ref)] == told.at
    assert len(await eventlog.replay(told.ref)) == 62


async def test_a_log_of_which_only_the_end_is_left_is_replayed_from_any_offset(
    bus: Bus, eventlog: EventLog, tenant: Tenant
) -> None:
    told = await Told(eventlog, tenant).begin(steps=700)
    shard = subject.shard_of(told.ref.job, 8)
    keep = json.encode({"filter": subject.event_subject(8, told.ref), "keep": 1})
    await bus.ask(f"$JS.API.STREAM.PURGE.EV_{shard}", keep)
    for after in (0, 1, 500, 650, 701):
        assert [s.event.seq for s in await eventlog.replay(told.ref, after)] == [702]
    assert await eventlog.replay(told.ref, 702) == []


async def test_a_scan_goes_through_a_shard_in_pieces(bus: Bus, eventlog: EventLog, tenant: Tenant) -> None:
    tolds = [await Told(eventlog, tenant).begin(steps=1) for _ in range(24)]
    shard = subject.shard_of(tolds[0].ref.job, 8)
    wanted = {(t.ref, at) for t in tolds if subject.shard_of(t.ref.job, 8) == shard for at in t.at}
    await store(bus, f"ev.{shard}.canary.canary", b"{}")
    await store(bus, f"ev.{shard}.{tenant}.junk", b"junk")
    junk = await store(bus, f"ev.{shard}.{tenant}.{tolds[0].ref.job}", b"junk in a job's log")
    found: list[Stored | Unread] = []
    after = START
    while batch := (await eventlog.shards.scan(shard, after, limit=2)).entries:
        assert len(batch) <= 2
        found += batch
        after = batch[-1].at
    mine = [(s.ref, s.at) for s in found if s.ref.tenant == tenant and isinstance(s, Stored)]
    assert set(mine) == wanted
    assert len(mine) == len(wanted)
    unread = [(s.ref, s.at, s.why) for s in found if s.ref.tenant == tenant and isinstance(s, Unread)]
    assert unread == [(tolds[0].ref, junk, "broken")]
    assert [s.at for s in found] == sorted(s.at for s in found)
    before = await eventlog.shards.extent(shard)
    end = await store(bus, f"ev.{shard}.canary.canary", b"{}")
    assert await eventlog.shards.scan(shard, after) == Scanned([], StreamSeq(end))
    assert (await eventlog.shards.extent(shard)).grew_by_canaries(before)
    await store(bus, f"ev.{shard}.{tenant}.junk", b"junk")
    assert not (await eventlog.shards.extent(shard)).grew_by_canaries(before)
    info = await eventlog.shards.info(shard)
    assert info.last >= after
    assert info.created_at == await eventlog.shards.created_at(shard)


async def test_a_log_with_junk_in_it_is_malformed_and_nobody_elses_suffers(
    bus: Bus, eventlog: EventLog, tenant: Tenant
) -> None:
    told, sound = await Told(eventlog, tenant).begin(), await Told(eventlog, tenant).begin()
    await store(bus, subject.event_subject(8, told.ref), b"junk")
    with pytest.raises(Malformed):
        await eventlog.read(told.ref)
    assert len(await eventlog.read(sound.ref)) == 2


async def test_an_event_beyond_its_bound_is_refused_before_it_is_sent(
    bus: Bus, eventlog: EventLog, tenant: Tenant
) -> None:
    ref = JobRef(tenant, new_job_id())
    with pytest.raises(TooLarge):
        await eventlog.append(ref, submitted(ref, "x" * 200_000), START)
    with pytest.raises(TooLarge):
        await bus.publish("job.x.y.delta", b"x" * 899_000, headers={"Padding": "y" * 30_000})
    with pytest.raises(TooLarge):
        await store(bus, f"blob.{tenant}.x.0", b"x" * 950_000)
    with pytest.raises(TooLarge):  # larger than the stream takes: its own refusal, and the connection goes on
        await store(bus, f"ev.0.{tenant}.x", b"x" * 300_000)
    assert await eventlog.append(ref, submitted(ref), START) > 0


@pytest.mark.parametrize("job", ["*", ">", "", "a.b", "a b", "x" * 5000, "a\r\nPUB ev.0.t.x 1\r\nx"])
async def test_an_id_that_is_none_never_reaches_the_broker(
    bus: Bus, eventlog: EventLog, tenant: Tenant, job: str
) -> None:
    bad = JobRef(tenant, JobId(job))
    good = JobRef(tenant, new_job_id())
    sent = bus.nc.stats["out_msgs"]
    for attempt in (
        eventlog.append(bad, submitted(good), START), eventlog.look(bad, START), eventlog.tail(bad), eventlog.read(bad),
        eventlog.replay(bad),
    ):  # fmt: skip
        with pytest.raises(Malformed):
            await attempt
    assert bus.nc.stats["out_msgs"] == sent
    assert await eventlog.append(good, submitted(good), START) > 0
