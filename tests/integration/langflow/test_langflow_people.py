"""Lines 38 to 59, 72 and 73 that concern HTTP: stop, suspend, resume, pending, supersede."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.integration.gateway.conftest import Answer, StartGateway
from tests.integration.langflow.conftest import MASTER, Api, Somebody, ask, echoed, fail, suspend
from tests.unit.langflow import recordings

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.db import positions
from perdure.db.engine import Database
from perdure.ids import RequestId
from perdure.seal import MasterKeys
from perdure.testing.hand import Hand
from perdure_gateway.langflow.manner import Manner
from perdure_gateway.routes import langflow_acts

Project = Any


async def asking(api: Api, *names: str, **members: Any) -> tuple[Hand, list[str]]:
    """A job of a Langflow flow that waits for these gates; their ids."""
    hand = await api.background("agent", **members)
    await hand.start()
    ids = [await ask(hand, name=name) for name in names or ("HumanInput-g1",)]
    await suspend(hand)
    return hand, ids


async def seq(hand: Hand) -> int:
    """How long the log is."""
    await hand.log.refresh()
    return hand.log.state.seq


# ------------------------------------------------------------------------------------------------ stop


@pytest.mark.parametrize("state", ["queued", "suspended", "retrying"])
async def test_038_what_does_not_run_stops_at_once(langflows: Api, state: str) -> None:
    hand = await langflows.background("agent")
    if state != "queued":
        await hand.start()
    if state == "suspended":
        await ask(hand)
        await suspend(hand)
    if state == "retrying":
        until = later(hand.log.entries[0].event.at, 3600.0)
        await hand.add(ev.SuspendedData(waiting=(ev.Waiting(kind="backoff", until=until),)))
    answer = await langflows.stop(hand.ref.job)
    theirs = recordings.step(33, "stop, running")["response"]["json"]
    assert list(answer.body) == [*theirs, "status"]
    assert (answer.status, answer.body["status"]) == (200, "cancelled")
    status = (await langflows.status(hand.ref.job)).body
    assert status["status"] == "cancelled"
    assert status["cancel"].items() >= {"by": "user:ann", "reason": "stopped", "superseded_by": None}.items()
    again = await langflows.stop(hand.ref.job)
    assert (again.status, again.body["message"]) == (200, f"Job {hand.ref.job} is already cancelled.")


async def test_038_what_has_ended_stays_as_it_is(api: Api) -> None:
    done, failed = await api.background(), await api.background()
    await echoed(done)
    await failed.start()
    await fail(failed)
    for hand, status in ((done, "completed"), (failed, "failed")):
        answer = await api.stop(hand.ref.job)
        assert answer.body["message"] == f"Job {hand.ref.job} already finished ({status})."
        assert answer.body["status"] == status
        assert (await api.status(hand.ref.job)).body["status"] == status


@pytest.mark.parametrize("mode", ["sync", "stream"])
async def test_041_a_run_that_somebody_waits_for_is_stopped_too(api: Api, mode: str) -> None:
    call, hand = await api.waiting(mode=mode)
    answer = await api.stop(hand.ref.job)
    assert (answer.status, answer.body["status"]) == (200, "cancelled")
    told = await call
    if mode == "sync":
        assert told.body["status"] == "cancelled"
    else:
        assert '"event": "cancelled"' in told.raw.decode()
    assert (await api.status(hand.ref.job)).body["status"] == "cancelled"


async def test_039_after_the_200_the_job_has_ended_though_nobody_listens(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(langflow_acts, "STOP_SECONDS", 0.2)
    hand = await api.background()
    await hand.start()  # whose runner never looks
    assert (await api.stop(hand.ref.job)).body["status"] == "cancelled"
    await hand.log.refresh()
    assert [type(event).__name__ for event in hand.log.events[-2:]] == ["CancelRequested", "JobCancelled"]


async def test_040_stop_against_the_end_leaves_one_terminal_event(api: Api, eventually: Any) -> None:
    hand = await api.background()
    await hand.start()
    stopping = asyncio.create_task(api.stop(hand.ref.job))

    async def heard() -> bool:
        return await seq(hand) > 2

    await eventually(heard)
    await hand.complete(out="x")
    answer = await stopping
    assert (answer.status, answer.body["status"]) == (200, "completed")
    assert sum(event.status in ("completed", "cancelled") for event in hand.log.events) == 1


# ------------------------------------------------------------------------------------------------ suspend


async def test_042_gate_in_sync(langflows: Api) -> None:
    call, hand = await langflows.waiting("agent", input_value="ship it?", session_id="s-1")
    await hand.start()
    request = await ask(hand)
    await suspend(hand)
    answer = await call  # 1.13 runs both branches with empty text (contract 2.4, row 1)
    assert (answer.status, answer.body["status"], answer.body["object"]) == (200, "suspended", "response")
    assert answer.body["output"] == {"reason": "none", "text": None, "source": None}
    row = recordings.step(26, "pending, one")["response"]["json"][0]
    told = answer.body["human_request"]
    assert list(told)[: len(row)] == list(row)
    assert {n: told[n] for n in ("kind", "prompt", "options", "allowed_decisions")} == {
        n: row[n] for n in ("kind", "prompt", "options", "allowed_decisions")
    }
    assert told["request_id"] == request == f"HumanInput-g1:{hand.ref.job}"
    assert answer.body["pending_requests"] == [told]
    assert (await langflows.status(hand.ref.job)).body["human_request"] == told


async def test_043_gate_in_stream_ends_the_stream_behind_the_request(langflows: Api) -> None:
    call, hand = await langflows.waiting("agent", mode="stream")
    await hand.start()
    await ask(hand)
    await suspend(hand)
    last = recordings.lines((await call).raw.decode())[-1]
    assert last.startswith('{"event": "human_input_required", "data": {"request_id": "HumanInput-g1:')
    assert (await langflows.status(hand.ref.job)).body["status"] == "suspended"


async def test_044_two_gates_in_a_layer_are_two_requests_and_two_rows(langflows: Api, project: Project) -> None:
    hand, ids = await asking(langflows, "HumanInput-a", "HumanInput-b")
    await project(hand)
    assert [row["request_id"] for row in (await langflows.status(hand.ref.job)).body["pending_requests"]] == ids
    assert [row["request_id"] for row in (await langflows.pending()).body] == ids


async def test_048_tool_approval_carries_action_requests(langflows: Api) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    calls = [{"name": "send", "args": {"to": "a"}, "description": "Send"}]
    await ask(hand, kind="tool_call", proposal={"action_requests": calls})
    await suspend(hand)
    told = (await langflows.status(hand.ref.job)).body["human_request"]
    assert (told["kind"], told["action_requests"]) == ("tool_approval", calls)


# ------------------------------------------------------------------------------------------------ resume


async def test_049_an_answer_is_in_the_log_before_the_200(langflows: Api) -> None:
    hand, [request] = await asking(langflows)
    answer = await langflows.resume(hand.ref.job, request, "reject", values={}, comment="no")
    theirs = recordings.step(26, "resume, approve")["response"]["json"]
    assert (answer.status, answer.body) == (200, theirs | {"job_id": hand.ref.job})
    await hand.log.refresh()
    [given] = [event.data for event in hand.log.events if isinstance(event, ev.InputAnswered)]
    assert (given.action, given.by, given.comment, given.via.channel) == ("reject", "user:ann", "no", "langflow")


async def test_050_of_eight_answers_at_once_one_wins_and_the_others_are_told_who(
    langflows: Api, somebody: Somebody
) -> None:
    hand, [request] = await asking(langflows)
    people = [await somebody(f"p{n}") for n in range(8)]
    actions = ["approve", "reject"] * 4
    answers = await asyncio.gather(
        *(who.resume(hand.ref.job, request, action) for who, action in zip(people, actions, strict=True))
    )
    await hand.log.refresh()
    [given] = [event.data for event in hand.log.events if isinstance(event, ev.InputAnswered)]
    same = [answer.status for answer, action in zip(answers, actions, strict=True) if action == given.action]
    others = [answer for answer, action in zip(answers, actions, strict=True) if action != given.action]
    assert same == [200] * 4
    for answer in others:
        detail = answer.body["detail"]
        assert answer.status == 409
        assert (detail["code"], detail["reason"]) == ("NOT_RESUMABLE", "already_answered")
        assert detail["answered_by"] == given.by
        assert detail["answered_at"]


async def test_051_the_same_answer_again_is_200_and_leaves_one(langflows: Api) -> None:
    hand, [request] = await asking(langflows)
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    before = await seq(hand)
    assert (await langflows.resume(hand.ref.job, request)).status == 200  # 1.13: 409
    assert await seq(hand) == before


REFUSED = {
    "resume, wrong request": ("wrong", "approve"),
    "resume, action not allowed": (None, "maybe"),
    "resume, no decision": (None, None),
    "resume, decision without action": (None, ""),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_052_what_is_no_answer_is_refused_as_1_13_does_and_writes_nothing(langflows: Api, name: str) -> None:
    hand, [request] = await asking(langflows)
    named, action = REFUSED[name]
    before = await seq(hand)
    answer = await langflows.resume(hand.ref.job, named or request, action)
    theirs = recordings.step(26, name)["response"]
    assert answer.status == theirs["status"]
    expected = theirs["json"]["detail"] | {"job_id": hand.ref.job}
    assert {n: answer.body["detail"][n] for n in expected} == expected
    assert await seq(hand) == before


async def test_052_the_order_is_settled_then_late_then_decision(langflows: Api) -> None:
    hand, [request] = await asking(langflows)
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    assert (await langflows.resume(hand.ref.job, request, "maybe")).status == 409  # 1.13: 422
    late = await langflows.background("agent")
    await late.start()
    expired = await ask(late, expires_at=late.log.entries[0].event.at)
    answer = await langflows.resume(late.ref.job, expired, "maybe")
    assert (answer.status, answer.body["detail"]["code"]) == (410, "REQUEST_EXPIRED")


async def test_052_an_answer_before_the_suspension_is_taken(langflows: Api) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    request = await ask(hand)
    assert (await langflows.resume(hand.ref.job, request)).body["status"] == "resuming"


async def test_052_both_ids_are_taken(langflows: Api) -> None:
    hand, _ = await asking(langflows)
    await hand.log.refresh()
    [ours] = hand.log.state.asked
    assert (await langflows.resume(hand.ref.job, ours)).status == 200


async def test_052_a_job_that_has_ended_is_not_resumed(langflows: Api) -> None:
    hand, [request] = await asking(langflows)
    assert (await langflows.stop(hand.ref.job)).status == 200
    answer = await langflows.resume(hand.ref.job, request)
    theirs = recordings.step(33, "resume, stopped")["response"]["json"]["detail"]
    assert answer.status == 409
    assert {n: answer.body["detail"][n] for n in theirs} == theirs | {"job_id": hand.ref.job}
    assert answer.body["detail"]["reason"] == "finished"


async def test_053_one_of_two_answered_leaves_the_job_suspended(langflows: Api) -> None:
    hand, [one, two] = await asking(langflows, "HumanInput-a", "HumanInput-b")
    first = await langflows.resume(hand.ref.job, one)
    assert (first.status, first.body["status"], first.body["remaining"]) == (200, "suspended", 1)
    status = (await langflows.status(hand.ref.job)).body
    assert [row["request_id"] for row in status["pending_requests"]] == [two]
    second = await langflows.resume(hand.ref.job, two)
    assert second.body == {"job_id": hand.ref.job, "status": "resuming", "message": "Resume accepted"}


async def test_057_who_is_not_asked_is_refused_and_a_stranger_is_told_nothing(
    langflows: Api, somebody: Somebody, stranger: Api
) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    request = await ask(hand, assignees=ev.Assignees(users=("bob",)))
    await suspend(hand)
    refused = await langflows.resume(hand.ref.job, request)
    assert (refused.status, refused.body["detail"]["code"]) == (403, "ANSWER_FORBIDDEN")
    assert (await stranger.resume(hand.ref.job, request)).status == 404
    bob = await somebody("bob")
    assert (await bob.resume(hand.ref.job, request)).status == 200


async def test_058_edit_of_a_tool_call(langflows: Api) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    actions = (ev.Action(id="approve"), ev.Action(id="edit"), ev.Action(id="reject"))
    asked = await hand.ask(
        name="Agent-1",
        kind="tool_call",
        actions=actions,
        proposal={"action_requests": [{"name": "send", "args": {"to": "a"}}]},
        response_schema={"type": "object"},
        external_ids={"langflow": f"Agent-1:{hand.ref.job}:i1"},
    )
    await suspend(hand)
    answer = await langflows.resume(hand.ref.job, f"Agent-1:{hand.ref.job}:i1", "edit", values={"args": {"to": "b"}})
    assert answer.status == 200, answer.raw
    await hand.log.refresh()
    settled = hand.log.state.settled[RequestId(asked)].data
    assert isinstance(settled, ev.AnsweredData)
    assert (settled.action, settled.payload) == ("edit", {"args": {"to": "b"}})


# ------------------------------------------------------------------------------------------------ pending


async def test_059_a_row_per_request_with_and_without_flow_gone_when_settled(
    langflows: Api, project: Project, api: Api
) -> None:
    first, [one] = await asking(langflows)
    second, [two] = await asking(langflows)
    for hand in (first, second):
        await project(hand)
    flow = langflows.flows["agent"]
    for query in ("", f"?flow_id={flow}"):
        rows = (await langflows.pending(query)).body
        assert [row["request_id"] for row in rows] == [one, two]
        assert [row["job_id"] for row in rows] == [first.ref.job, second.ref.job]
    assert (await langflows.pending(f"?flow_id={api.flows['lf-echo']}")).body == []
    assert len((await langflows.pending("?limit=1")).body) == 1
    assert (await langflows.pending("?limit=501")).status == 422
    assert (await langflows.resume(first.ref.job, one)).status == 200
    assert [row["request_id"] for row in (await langflows.pending()).body] == [two]  # the projection lags behind


async def test_059_a_request_is_there_as_soon_as_it_was_asked(langflows: Api, database: Database) -> None:
    shards = langflows.gateway.desk.eventlog.shards
    async with database.transaction() as conn:
        for shard in range(8):  # as the sweeper leaves them: everything so far is in the rows
            info = await shards.info(shard)
            position = await positions.ensure(conn, shard, info.created_at)
            await positions.put(conn, replace(position, applied=info.last))
    hand, [request] = await asking(langflows)
    assert [row["request_id"] for row in (await langflows.pending()).body] == [request]
    assert (await langflows.pending(f"?flow_id={hand.ref.job}")).body == []
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    assert (await langflows.pending()).body == []


async def test_059_nobody_sees_what_it_may_not_answer(
    langflows: Api, project: Project, somebody: Somebody, stranger: Api
) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    await ask(hand, assignees=ev.Assignees(users=("bob",)))
    await suspend(hand)
    await project(hand)
    assert (await langflows.pending()).body == []
    assert (await stranger.pending()).body == []
    assert len((await (await somebody("bob")).pending()).body) == 1


# ------------------------------------------------------------------------------------------------ supersede


async def statuses(api: Api, *hands: Hand) -> list[str]:
    return [(await api.status(hand.ref.job)).body["status"] for hand in hands]


async def test_072_a_new_run_of_a_named_session_supersedes_the_suspended_one_and_no_other(
    langflows: Api, project: Project, somebody: Somebody
) -> None:
    bob = await somebody("bob")
    old, _ = await asking(langflows, session_id="s-1")
    others = [
        (await asking(langflows))[0],
        (await asking(langflows, session_id="s-2"))[0],
        (await asking(bob, session_id="s-1"))[0],
    ]
    running = await langflows.background("agent", session_id="s-3")
    await running.start()
    for hand in (old, *others, running):
        await project(hand)
    new = await langflows.background("agent", session_id="s-1")
    assert await statuses(langflows, old, *others) == ["cancelled", "suspended", "suspended", "suspended"]
    cancel = (await langflows.status(old.ref.job)).body["cancel"]
    assert (cancel["reason"], cancel["superseded_by"]) == ("superseded", new.ref.job)
    await langflows.background("agent", session_id="s-3")
    await langflows.background("agent")
    assert await statuses(langflows, running, others[0]) == ["in_progress", "suspended"]


async def test_072_a_replay_supersedes_nothing(langflows: Api, project: Project) -> None:
    hand, _ = await asking(langflows, session_id="s-1", idempotency_key="k")
    await project(hand)
    again = await langflows.run("agent", mode="background", input_value="hello", session_id="s-1", idempotency_key="k")
    assert again.body["job_id"] == hand.ref.job
    assert await statuses(langflows, hand) == ["suspended"]


@pytest.mark.parametrize(("manner", "after"), [("always", "cancelled"), ("off", "suspended")])
async def test_072_as_the_operator_says(
    start_gateway: StartGateway, langflows: Api, project: Project, manner: Any, after: str
) -> None:
    other = Api(await start_gateway(langflow=Manner(supersede=manner), master_keys=MasterKeys(MASTER)), langflows.key)
    other.flows = langflows.flows
    hand, _ = await asking(other)
    await project(hand)
    await other.background("agent")
    assert await statuses(langflows, hand) == [after]


async def test_073_an_answer_that_was_first_wins_over_a_new_run(langflows: Api, project: Project) -> None:
    hand, [request] = await asking(langflows, session_id="s-1")
    await project(hand)
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    await langflows.background("agent", session_id="s-1")
    assert await statuses(langflows, hand) == ["suspended"]  # a runner is about to go on


async def test_073_against_a_resume_exactly_one_wins(langflows: Api, project: Project) -> None:
    hand, [request] = await asking(langflows, session_id="s-1")
    await project(hand)
    answer, _ = await asyncio.gather(
        langflows.resume(hand.ref.job, request), langflows.run("agent", mode="background", session_id="s-1")
    )
    await hand.log.refresh()
    answered = any(isinstance(event, ev.InputAnswered) for event in hand.log.events)
    assert answered is (answer.status == 200)
    assert hand.log.state.terminal is not answered


async def test_answers_are_audited_and_counted_as_everywhere(langflows: Api) -> None:
    hand, [request] = await asking(langflows)
    refused: Answer = await langflows.resume(hand.ref.job, request, "maybe")
    assert refused.status == 422
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    metrics = (await langflows.gateway.client.get("/metrics")).raw.decode()
    assert 'kind="approval",result="taken"' in metrics or 'result="taken"' in metrics
