"""What one does with a job over HTTP beside submitting: wait, signal, retry, delete, look at its state."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from perdure.bus.connection import Bus
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import delta_subject
from perdure.core import event as ev
from perdure.core.instant import later
from perdure.db.engine import Database
from perdure.db.jobs import get_row, upsert
from perdure.ids import new_job_id
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's


@pytest.fixture
def dialect() -> str:
    """One database is enough: what differs between them is tested with `db`."""
    return "sqlite"


async def running(gateway: Gateway) -> Hand:
    hand: Hand = await gateway.submit()
    await hand.start()
    return hand


async def test_a_submit_waits_until_the_job_has_ended_or_sleeps(
    gateway: Gateway, eventually: Callable[..., Awaitable[None]]
) -> None:
    async def submitted(key: str) -> Any:
        return await gateway.client.post(
            "/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key=key, prefer="wait=30"
        )

    jobs = (await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key="a")).body["id"]
    waiting = asyncio.create_task(submitted("a"))
    hand = gateway.hand(jobs)
    await hand.start()
    await hand.complete(out="done")
    done = await waiting
    assert (done.status, done.body["status"], done.headers["Preference-Applied"]) == (200, "completed", "wait=30")
    other = (await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key="b")).body["id"]
    waiting = asyncio.create_task(submitted("b"))
    hand = gateway.hand(other)
    await hand.start()
    await hand.suspend(await hand.ask())
    asleep = await waiting
    assert (asleep.status, asleep.body["status"]) == (202, "suspended")
    short = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, prefer="wait=1")
    assert (short.status, short.body["status"]) == (202, "queued")
    assert short.headers["Preference-Applied"] == "wait=1"


async def test_a_read_waits_for_another_seq_or_for_the_end(gateway: Gateway) -> None:
    hand = await running(gateway)
    path = f"/api/jobs/{hand.ref.job}"
    other = await gateway.client.call("GET", path, headers={"Prefer": "wait=30", "If-None-Match": '"1"'})
    assert other.body["seq"] == 2  # it has another one already
    headers = {"Prefer": "wait=30", "If-None-Match": '"2"'}
    changed = asyncio.create_task(gateway.client.call("GET", path, headers=headers))
    ended = asyncio.create_task(gateway.client.get(path, Prefer="wait=30"))
    await hand.step("a")
    assert (await changed).body["seq"] == 3
    await hand.complete()
    assert (await ended).body["status"] == "completed"
    same = await gateway.client.call("GET", path, headers={"Prefer": "wait=1", "If-None-Match": '"4"'})
    assert (same.status, same.raw) == (304, b"")


async def test_a_signal_is_in_the_log_once_a_key(gateway: Gateway) -> None:
    hand = await running(gateway)
    path = f"/api/jobs/{hand.ref.job}/signals/go"
    first, again = await asyncio.gather(
        *(gateway.client.post(path, {"payload": {"n": None}}, idempotency_key="k") for _ in range(2))
    )
    assert (first.status, again.status, first.body) == (202, 202, again.body)
    third = await gateway.client.post(path, {"payload": {"n": None}}, idempotency_key="k")
    assert (third.body, third.headers["Idempotency-Replayed"]) == (first.body, "true")
    await hand.log.refresh()
    signals = [event for event in hand.log.events if isinstance(event, ev.SignalReceived)]
    assert [(s.seq, s.data.name, s.data.payload, s.data.by) for s in signals] == [(3, "go", {"n": None}, "user:ann")]
    for where, body in ((path, {"payload": 2}), (path.replace("/go", "/stop"), {"payload": {"n": None}})):
        other = await gateway.client.post(where, body, idempotency_key="k")
        assert (other.status, other.body["code"]) == (422, "idempotency-key-reused")
    assert (await gateway.client.post(path)).body["seq"] == 4  # no body, no key
    for name in ("$retry_now", "$comment", "", "a b", "x" * 64):
        assert (await gateway.client.post(f"/api/jobs/{hand.ref.job}/signals/{name}", {})).status == 404
    assert (await gateway.client.post(path, {"other": 1})).body["errors"][0]["pointer"] == "/other"
    await hand.complete()
    ended = await gateway.client.post(path, {})
    assert (ended.status, ended.body["code"], ended.body["job_status"]) == (409, "job-terminal", "completed")
    assert (await gateway.client.post(f"/api/jobs/{new_job_id()}/signals/go", {})).status == 404


async def test_a_signal_rings_for_the_job(gateway: Gateway, bus: Bus) -> None:
    hand = await running(gateway)
    await hand.add(ev.SuspendedData(waiting=(ev.Waiting(kind="signal", name="go"),)))
    work = f"work.default.normal.{hand.ref.job}"
    before = await leader_get(bus, "WORK", Ask(last_by_subj=work))
    await gateway.client.post(f"/api/jobs/{hand.ref.job}/signals/go", {"payload": 1})
    after = await leader_get(bus, "WORK", Ask(last_by_subj=work))
    assert before is not None
    assert after is not None
    assert after.seq > before.seq
    await hand.log.refresh()
    assert hand.log.state.suspension is not None
    assert [cause.kind for cause in hand.log.state.suspension.causes] == ["signal"]


async def test_a_retry_ends_a_backoff_and_nothing_else(gateway: Gateway) -> None:
    hand = await running(gateway)
    path = f"/api/jobs/{hand.ref.job}/retry"
    refused = await gateway.client.post(path)
    assert (refused.status, refused.body["code"], refused.body["job_status"]) == (409, "job-not-retrying", "running")
    until = later(gateway.desk.clock.broker_now(), 3600.0)
    await hand.add(ev.SuspendedData(waiting=(ev.Waiting(kind="backoff", name="s", occurrence=1, until=until),)))
    done = await gateway.client.post(path)
    assert (done.status, done.body["status"]) == (202, "retrying")
    await hand.log.refresh()
    assert hand.log.state.suspension is not None
    assert hand.log.state.suspension.causes
    await hand.start()
    await hand.complete()
    assert (await gateway.client.post(path)).body["code"] == "job-terminal"


async def test_a_deleted_job_is_gone_everywhere_at_once(
    start_gateway: Callable[[], Awaitable[Gateway]],
    gateway: Gateway,
    database: Database,
    eventually: Callable[..., Awaitable[None]],
) -> None:
    other = await start_gateway()
    asked = {"flow": "echo", "input": "x"}
    job = (await gateway.client.post("/api/jobs", asked, idempotency_key="mine")).body["id"]
    hand, path = gateway.hand(job), f"/api/jobs/{job}"
    assert (await other.client.get(path)).status == 200
    early = await gateway.client.call("DELETE", path)
    assert (early.status, early.body["code"]) == (409, "job-not-terminal")
    await hand.start()
    await hand.complete()
    assert (await gateway.client.call("DELETE", path)).status == 204
    for suffix in ("", "/events", "/requests", "/state"):
        assert (await gateway.client.get(path + suffix)).status == 404
    assert (await gateway.client.get(path + "/events", Accept="text/event-stream")).status == 404
    for method, suffix in (("POST", "/cancel"), ("POST", "/signals/x"), ("POST", "/retry"), ("DELETE", "")):
        assert (await gateway.client.call(method, path + suffix)).status == 404

    async def gone() -> bool:
        return bool((await other.client.get(path)).status == 404)

    await eventually(gone)
    for one in (gateway, other, await start_gateway()):
        replayed = await one.client.post("/api/jobs", asked, idempotency_key="mine")
        assert (replayed.status, replayed.body["code"]) == (410, "job-deleted")
    async with database.read() as conn:
        row = await get_row(conn, hand.ref)
    assert row is not None
    assert row.deleted_at is not None


async def test_the_projection_does_not_bring_a_deleted_job_back(gateway: Gateway, database: Database) -> None:
    hand = await running(gateway)
    await hand.complete()
    assert (await gateway.client.call("DELETE", f"/api/jobs/{hand.ref.job}")).status == 204
    async with database.transaction() as conn:
        await upsert(conn, hand.ref, hand.log.state, hand.log.tail, epoch=2)
    assert (await gateway.client.get("/api/jobs")).body["data"] == []


async def test_the_state_is_the_fold_at_any_event(gateway: Gateway, bus: Bus) -> None:
    hand = await running(gateway)
    path = f"/api/jobs/{hand.ref.job}/state"
    await hand.step("a", "secret words", path="/1.1")
    body = {"v": 1, "type": "delta.text", "attempt": 1, "after": 3, "step": "b", "occurrence": 1, "channel": "m"}
    for n, text in enumerate(("he", "llo"), start=1):
        said = msgspec.json.encode(body | {"n": n, "pos": 2 * (n - 1), "text": text})
        await bus.publish(delta_subject(hand.ref), said)
    await bus.flush()
    now = await gateway.client.get(path)
    assert (now.headers["ETag"], now.body["offset"], now.body["job"]["status"]) == ('"3"', "3", "running")
    (step,) = now.body["steps"]
    assert (step["path"], step["step"], step["status"], step["result"]) == ("/1.1", "a", "completed", "secret words")
    assert [delta["text"] for delta in now.body["deltas"]] == ["hello"]
    asked = await hand.ask(proposal="secret words")
    await hand.complete(out="secret words")
    end = await gateway.client.get(path)
    assert (end.body["deltas"], end.body["job"]["outputs"]) == ([], {"out": "secret words"})
    assert [(r["id"], r["status"]) for r in end.body["requests"]] == [(asked, "withdrawn")]
    early = await gateway.client.get(path + "?at=2")
    assert (early.body["offset"], early.body["steps"], early.body["job"]["status"]) == ("2", [], "running")
    assert b"secret" not in (await gateway.client.get(path + "?values=false")).raw
    for query, status, code in (
        ("?at=99", 410, "offset-ahead"),
        ("?at=0", 400, "invalid-parameter"),
        ("?at=x", 400, "invalid-parameter"),
        ("?when=1", 400, "invalid-parameter"),
    ):
        refused = await gateway.client.get(path + query)
        assert (refused.status, refused.body["code"]) == (status, code), query
    assert (await gateway.client.get(f"/api/jobs/{new_job_id()}/state")).status == 404
