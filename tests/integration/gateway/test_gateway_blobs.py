"""Values too large for an event over HTTP: taken, shown by reference, given out to who may read the job."""

from typing import Any

import pytest

from perdure.core import event as ev
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant, new_job_id
from perdure.jobs.joblog import JobLog
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
LARGE = "x" * 200_000


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


async def answer(gateway: Gateway, request: str, body: Any) -> Any:
    return await gateway.client.post(f"/api/inbox/{request}/answer", body)


async def loaded(hand: Hand) -> JobLog:
    await hand.log.refresh()
    return hand.log


async def large_request(hand: Hand) -> str:
    """Ask with a proposal that does not fit into the event."""
    asked = await hand.ask(proposal=LARGE)
    await hand.suspend(asked)
    return asked


async def test_a_large_input_is_taken_and_given_out_again(gateway: Gateway) -> None:
    hand = await gateway.submit(LARGE)
    log = await gateway.client.get(f"/api/jobs/{hand.ref.job}/events")
    assert log.status == 200
    (event,) = [stored.event for stored in (await loaded(hand)).entries]
    assert isinstance(event, ev.JobSubmitted)
    ref = event.data.input_ref
    assert ref is not None
    assert ref.sha256 in event.refs
    found = await gateway.client.get(f"/api/jobs/{hand.ref.job}/blobs/{ref.sha256}")
    assert (found.status, found.body) == (200, {"brief": LARGE})
    assert found.headers["Content-Disposition"].startswith("attachment")
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    again = await gateway.client.get(
        f"/api/jobs/{hand.ref.job}/blobs/{ref.sha256}", **{"If-None-Match": f'"{ref.sha256}"'}
    )
    assert again.status == 304


async def test_the_same_key_with_the_same_large_input_is_the_same_job(gateway: Gateway) -> None:
    bodies = [
        await gateway.client.post("/api/jobs", {"flow": "echo", "input": LARGE}, idempotency_key="k") for _ in range(2)
    ]
    assert bodies[0].body["id"] == bodies[1].body["id"]
    assert bodies[1].headers["Idempotency-Replayed"] == "true"


async def test_only_what_an_event_of_this_job_refers_to_is_given_out(gateway: Gateway, database: Database) -> None:
    hand, other = await gateway.submit(LARGE), await gateway.submit("small")
    (digest,) = set((await loaded(hand)).entries[0].event.refs) - set((await loaded(other)).entries[0].event.refs)
    assert (await gateway.client.get(f"/api/jobs/{other.ref.job}/blobs/{digest}")).status == 404
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}/blobs/{'0' * 64}")).status == 404
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}/blobs/{digest.upper()}")).status == 404
    assert (await gateway.client.get(f"/api/jobs/{new_job_id()}/blobs/{digest}")).status == 404
    tenant, now = Tenant("elsewhere"), gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=now)
        key = await create_key(conn, tenant, Principal("user:eve"), now=now)
    headers = {"Authorization": f"Bearer {key}"}
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}/blobs/{digest}", **headers)).status == 404


async def test_a_large_proposal_is_answered_as_it_was_shown_and_the_same_answer_again_is_known(
    gateway: Gateway,
) -> None:
    hand = await gateway.submit()
    await hand.start()
    asked = await large_request(hand)
    shown = (await gateway.client.get(f"/api/inbox/{asked}")).body
    assert "proposal" not in shown
    assert shown["proposal_ref"]["size_bytes"] == len(LARGE) + 2
    body = {"action": "approve", "proposal_digest": shown["proposal_digest"], "payload": {"why": "y" * 150_000}}
    done = await answer(gateway, asked, body)
    assert done.status == 200, done.raw[:300]
    assert done.body["settled"]["payload_ref"]["size_bytes"] > 150_000
    assert not done.body["settled"].get("edited")
    again = await answer(gateway, asked, body)
    assert (again.status, again.body["replayed"]) == (200, True)
    other = await answer(gateway, asked, body | {"payload": {"why": "z" * 150_000}})
    assert (other.status, other.body["code"]) == (409, "already-answered")


async def test_what_may_not_be_edited_is_seen_although_the_proposal_lies_in_a_blob(gateway: Gateway) -> None:
    hand = await gateway.submit()
    await hand.start()
    asked = await large_request(hand)
    request_digest = (await gateway.client.get(f"/api/inbox/{asked}")).body["proposal_digest"]
    body = {"action": "approve", "proposal_digest": request_digest, "proposal": LARGE[:-1]}
    refused = await answer(gateway, asked, body)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/proposal")
    same = await answer(gateway, asked, body | {"proposal": LARGE})
    assert same.status == 200, same.raw[:300]
    assert not same.body["settled"].get("edited")


async def test_a_job_shows_outputs_that_are_too_large_by_reference(gateway: Gateway) -> None:
    hand = await gateway.submit()
    await hand.start()
    await hand.complete(text=LARGE, short="y")
    job = (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).body
    assert job["outputs"] == {"short": "y"}
    ref = job["outputs_ref"]["text"]
    found = await gateway.client.get(f"/api/jobs/{hand.ref.job}/blobs/{ref['sha256']}")
    assert found.body == LARGE
