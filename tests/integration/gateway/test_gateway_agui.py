"""AG-UI over HTTP: which job a run is, what every attach is told, how a resume answers, and what is refused before."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from perdure.client.sse import SseParser
from perdure.core import event as ev
from perdure.core.standing import Standing
from perdure.errors import Unavailable
from perdure.ids import JobId, JobRef, Principal, Queue
from perdure.jobs import submit
from perdure.jobs.answer import Answer, answer
from perdure.testing.agui import Client as Agent
from perdure.testing.agui import check
from perdure.testing.hand import APPROVAL, Hand

Gateway = Any  # the conftest's
Project = Callable[[Hand], Awaitable[None]]
PATH = "/api/agui/echo"
USER = {"id": "u1", "role": "user", "content": "hello"}


def posted(run: str = "r1", thread: str = "t1", **members: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"threadId": thread, "runId": run, "messages": [USER], "tools": [], "context": []}
    return base | {"state": {"theme": "dark"}, "forwardedProps": {}} | members


class Running:
    """A run that is followed, event by event, while the test goes on."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], path: str = PATH) -> None:
        self.events: list[dict[str, Any]] = []
        self._gateway, self._body, self._path = gateway, body, path
        self._seen = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        headers = {"Authorization": f"Bearer {self._gateway.client.key}", "Accept": "text/event-stream"}
        parser = SseParser()
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._gateway.client.url + self._path, json=self._body, headers=headers) as response,
        ):
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            async for chunk in response.content.iter_any():
                async with self._seen:
                    self.events += [msgspec.json.decode(frame.data) for frame in parser.feed(chunk) if frame.data]
                    self._seen.notify_all()

    async def until(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """The next event of that type, and where given of that name."""

        def found() -> list[dict[str, Any]]:
            return [e for e in self.events if e["type"] == kind and name in (None, e.get("name"))]

        waiting = asyncio.ensure_future(self._wait(found))
        await asyncio.wait({waiting, self._task}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
        assert found(), f"no {kind} in {[e['type'] for e in self.events]}"
        return found()[-1]

    async def _wait(self, found: Callable[[], list[dict[str, Any]]]) -> None:
        async with self._seen:
            await self._seen.wait_for(found)

    async def end(self) -> Agent:
        """The client when the response has ended; what it was told is judged."""
        await asyncio.wait_for(self._task, 20)
        check(self.events, self._body["threadId"], self._body["runId"])
        agent = Agent()
        for event in self.events:
            agent.take(event)
        return agent

    async def leave(self) -> None:
        """Cut the line."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def hand(self) -> Hand:
        """The runner by hand of the run's job."""
        started = await self.until("RUN_STARTED")
        job = JobId(started["metadata"]["perdure"]["job_id"])
        return Hand(self._gateway.desk, JobRef(self._gateway.tenant, job))


def run(gateway: Gateway, *args: Any, **members: Any) -> Running:
    return Running(gateway, posted(*args, **members))


async def waiting(gateway: Gateway, **request: Any) -> tuple[Hand, Any, dict[str, Any]]:
    """A run that was interrupted by one request: its runner, the request's id, the interrupt."""
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    rid = await hand.ask(**request)
    await hand.suspend(rid)
    agent = await first.end()
    assert agent.outcome == "interrupt"
    return hand, rid, agent.interrupts[0]


async def test_a_run_is_a_job_whose_input_is_the_users_text_and_whose_outputs_are_the_answer(gateway: Gateway) -> None:
    first = run(gateway, forwardedProps={"perdure": {"tags": {"team": "x"}, "priority": "high"}, "mine": 1})
    hand = await first.hand()
    await hand.start()
    await hand.complete(out="HELLO")
    agent = await first.end()
    assert agent.outcome == "success"
    assert [m["content"] for m in agent.messages.values() if m["role"] != "activity"] == ["hello", "HELLO"]
    assert (agent.state["theme"], agent.state["perdure"]["status"]) == ("dark", "completed")
    made = hand.log.state.submitted
    assert made is not None
    assert (made.input, made.session_id, made.tags, made.priority) == ({"brief": "hello"}, "t1", {"team": "x"}, "high")
    assert made.source == ev.Source(surface="agui", thread_id="t1", run_id="r1")
    assert made.thread == {"messages": [USER], "state": {"theme": "dark"}}


async def test_the_same_run_attaches_whatever_it_posts_to_a_live_and_to_a_finished_job(gateway: Gateway) -> None:
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    await first.until("STATE_DELTA")
    await first.leave()  # which cancels nothing
    again = run(gateway, messages=[], state={"other": 1})
    assert (await again.hand()).ref == hand.ref
    await hand.step("brief", "hello")
    await hand.complete(out="done")
    agent = await again.end()
    assert agent.state["theme"] == "dark"
    late = await run(gateway).end()
    assert (late.outcome, late.messages, late.state) == (agent.outcome, agent.messages, agent.state)


async def test_a_run_whose_gateway_died_before_it_rang_is_rung_for_when_it_is_posted_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def died(*_: object, **__: object) -> None:
        raise Unavailable("the gateway is gone")

    with monkeypatch.context() as patched:
        patched.setattr(submit, "ring", died)
        assert (await gateway.client.post(PATH, posted())).status == 503
    again = run(gateway)
    hand = await again.hand()
    queue, priority = Queue("default"), "normal"
    assert await gateway.desk.doorbells.exists(hand.ref, queue, priority)
    await again.leave()


async def test_another_owner_thread_or_flow_is_another_job(gateway: Gateway, person: Any) -> None:
    first = run(gateway)
    ref = (await first.hand()).ref
    bob = await person("bob")
    other = Running(type("G", (), {"client": bob, "desk": gateway.desk, "tenant": gateway.tenant}), posted())
    thread = run(gateway, "r1", "t2")
    refs = {ref, (await other.hand()).ref, (await thread.hand()).ref}
    assert len(refs) == 3
    for each in (first, other, thread):
        await each.leave()


async def test_a_resume_answers_and_the_stream_goes_on_and_its_run_attaches_again(
    gateway: Gateway, project: Project
) -> None:
    hand, rid, interrupt = await waiting(gateway, proposal={"a": 1}, editable=("/a",))
    assert interrupt["metadata"]["perdure"]["request_id"] == rid
    entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True, "comment": "fine"}}
    second = run(gateway, "r2", resume=[entry])
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    settled = hand.log.state.settled[rid].data
    assert isinstance(settled, ev.AnsweredData)
    assert (settled.action, settled.comment, settled.by) == ("approve", "fine", "user:ann")
    assert (settled.via.channel, settled.via.run_id) == ("agui", "r2")
    await second.leave()
    third = run(gateway, "r2", resume=[entry])  # sent again: nothing is said twice, and no notice
    await third.until("ACTIVITY_SNAPSHOT")
    await project(hand)
    fourth = run(gateway, "r2")  # and without it
    assert (await fourth.hand()).ref == hand.ref
    await hand.start()
    await hand.complete(out="published")
    for each in (third, fourth):
        assert (await each.end()).outcome == "success"
        assert not [e for e in each.events if e["type"] == "CUSTOM"]
    assert len([e for e in hand.log.events if isinstance(e, ev.InputAnswered)]) == 1


async def test_a_new_run_of_a_thread_that_waits_is_told_the_same_interrupts_and_a_busy_one_refuses(
    gateway: Gateway,
) -> None:
    hand, _, interrupt = await waiting(gateway)
    again = await run(gateway, "r2").end()
    assert (again.outcome, [i["id"] for i in again.interrupts]) == ("interrupt", [interrupt["id"]])
    await hand.start()
    refused = await gateway.client.post(PATH, posted("r3"))
    assert (refused.status, refused.body["code"]) == (409, "thread-busy")
    assert (refused.body["job_id"], refused.body["run_id"]) == (hand.ref.job, "r1")
    assert refused.headers["Content-Type"].startswith("application/json")
    await hand.complete(out="x")
    following = run(gateway, "r4")
    assert (await following.hand()).ref != hand.ref
    await following.leave()


async def test_all_entries_are_checked_before_one_is_appended(gateway: Gateway) -> None:
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    form = {"type": "object", "properties": {"stars": {"type": "integer"}}, "required": ["stars"]}
    one = await hand.ask(name="one")
    two = await hand.ask(name="two", kind="input", actions=(ev.Action(id="submit"),), response_schema=form)
    await hand.suspend(one, two)
    agent = await first.end()
    ids = {i["metadata"]["perdure"]["request_id"]: i["id"] for i in agent.interrupts}
    yes = {"interruptId": ids[one], "status": "resolved", "payload": {"approved": True}}
    bad = {"interruptId": ids[two], "status": "resolved", "payload": {"action": "submit", "stars": "five"}}
    refused = await gateway.client.post(PATH, posted("r2", resume=[yes, bad]))
    assert (refused.status, refused.body["code"]) == (422, "invalid-answer")
    assert [e["pointer"] for e in refused.body["errors"]] == ["/resume/1/payload/stars"]
    no_comment = {"interruptId": ids[one], "status": "resolved", "payload": {"approved": False}}
    refused = await gateway.client.post(PATH, posted("r2", resume=[no_comment, bad]))
    assert [e["pointer"] for e in refused.body["errors"]] == ["/resume/0/payload/comment", "/resume/1/payload/stars"]
    incomplete = await run(gateway, "r2", resume=[yes]).end()
    assert (incomplete.outcome, len(incomplete.interrupts)) == ("interrupt", 2)
    await hand.log.refresh()
    assert len(hand.log.state.asked) == 2, "nothing was written"
    good = bad | {"payload": {"action": "submit", "stars": 5}}
    second = run(gateway, "r2", resume=[yes, good])
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    assert {r: s.data.action for r, s in hand.log.state.settled.items() if isinstance(s.data, ev.AnsweredData)} == {
        one: "approve",
        two: "submit",
    }
    await second.leave()


async def test_a_resume_that_was_cut_between_two_appends_does_the_rest_when_it_is_sent_again(gateway: Gateway) -> None:
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    one, two = await hand.ask(name="one"), await hand.ask(name="two")
    await hand.suspend(one, two)
    ids = {i["metadata"]["perdure"]["request_id"]: i["id"] for i in (await first.end()).interrupts}
    who = Standing(Principal("user:ann"), rights=frozenset({"execute", "answer"}))
    via = ev.Via(channel="agui", run_id="r2")
    await answer(gateway.desk, gateway.tenant, one, who, Answer(action="approve"), via)  # and here the gateway died
    entries = [{"interruptId": i, "status": "resolved", "payload": {"approved": True}} for i in ids.values()]
    second = run(gateway, "r2", resume=entries)
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    assert set(hand.log.state.settled) == {one, two}
    assert not [e for e in second.events if e["type"] == "CUSTOM"]
    await second.leave()


async def test_what_was_settled_elsewhere_or_is_unknown_stands_and_is_told_and_the_stream_goes_on(
    gateway: Gateway,
) -> None:
    hand, rid, interrupt = await waiting(gateway)
    elsewhere = await gateway.client.post(f"/api/inbox/{rid}/answer", {"action": "approve"})
    assert elsewhere.status == 200
    entries = [
        {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": False, "comment": "no"}},
        {"interruptId": "nonsense", "status": "cancelled"},
    ]
    second = run(gateway, "r2", resume=entries)
    await second.until("CUSTOM", "perdure.not_applied")
    told = [e["value"] for e in second.events if e["type"] == "CUSTOM"]
    await hand.start()
    await hand.complete(out="x")
    agent = await second.end()
    told = [e["value"] for e in second.events if e["type"] == "CUSTOM"]
    assert told == [
        {"interrupt_id": interrupt["id"], "code": "already-answered"},
        {"interrupt_id": "nonsense", "code": "unknown"},
    ]
    assert agent.outcome == "success"
    settled = hand.log.state.settled[rid].data
    assert isinstance(settled, ev.AnsweredData)
    assert settled.via.channel == "api"


async def test_the_arguments_of_a_tool_call_are_edited(gateway: Gateway) -> None:
    actions = tuple(ev.Action(id=name) for name in ("approve", "edit", "reject"))
    proposal = {"name": "refund", "arguments": {"amount": 120}}
    hand, rid, interrupt = await waiting(
        gateway,
        kind="tool_call",
        actions=actions,
        proposal=proposal,
        editable=("/arguments",),
        external_ids={"tool_call": "call-7"},
    )
    assert (interrupt["reason"], interrupt["toolCallId"]) == ("tool_call", "call-7")
    payload = {"approved": True, "editedArgs": {"amount": 90}}
    second = run(gateway, "r2", resume=[{"interruptId": interrupt["id"], "status": "resolved", "payload": payload}])
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    said = hand.log.state.settled[rid].data
    assert isinstance(said, ev.AnsweredData)
    assert (said.action, said.proposal, said.edited) == ("edit", {"name": "refund", "arguments": {"amount": 90}}, True)
    await second.leave()


async def test_a_proposal_that_lies_in_a_blob_is_referred_to_and_approved_all_the_same(gateway: Gateway) -> None:
    hand, rid, interrupt = await waiting(gateway, proposal={"text": "x" * 200_000})
    shown = interrupt["metadata"]["perdure"]
    assert "proposal" not in shown
    assert shown["proposal_ref"]["size_bytes"] > 200_000
    wrong = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True, "editedArgs": {}}}
    refused = await gateway.client.post(PATH, posted("r2", resume=[wrong]))
    assert [e["pointer"] for e in refused.body["errors"]] == ["/resume/0/payload/editedArgs/text"], refused.raw
    second = run(gateway, "r2", resume=[wrong | {"payload": {"approved": True}}])
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    assert hand.log.state.settled[rid].seq == hand.log.state.seq
    await second.leave()


async def test_an_abandoned_request_is_withdrawn(gateway: Gateway) -> None:
    hand, rid, interrupt = await waiting(gateway)
    second = run(gateway, "r2", resume=[{"interruptId": interrupt["id"], "status": "cancelled"}])
    await second.until("ACTIVITY_SNAPSHOT")
    await hand.log.refresh()
    settled = hand.log.state.settled[rid].data
    assert isinstance(settled, ev.WithdrawnData)
    assert settled.reason == "abandoned"
    await second.leave()


async def test_a_request_that_has_expired_is_left_behind_by_cancelling_it(gateway: Gateway) -> None:
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    branch = ev.OnTimeout(do="branch")
    rid = await hand.ask(expires_at=gateway.desk.clock.broker_now(), on_timeout=branch)
    await hand.suspend(rid)
    [interrupt] = (await first.end()).interrupts
    second = run(gateway, "r2", resume=[{"interruptId": interrupt["id"], "status": "cancelled"}])
    told = await second.until("CUSTOM", "perdure.not_applied")
    assert told["value"] == {"interrupt_id": interrupt["id"], "code": "request-expired"}
    await hand.start()
    await hand.complete(out="x")
    assert (await second.end()).outcome == "success"


async def test_two_runs_of_a_thread_that_begin_at_once_are_one_and_a_refusal(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(begun(gateway, f"r{number}") for number in range(4)))
    assert sorted(answers) == [200, 409, 409, 409]


async def begun(gateway: Gateway, name: str) -> int:
    """The status of a run, whose stream is left at once."""
    headers = {"Authorization": f"Bearer {gateway.client.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(gateway.client.url + PATH, json=posted(name), headers=headers) as response,
    ):
        return response.status


async def test_a_vote_below_the_quorum_leaves_the_stream_open(gateway: Gateway, person: Any) -> None:
    hand, rid, interrupt = await waiting(gateway, quorum=ev.Quorum(n=2), actions=APPROVAL)
    entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
    second = run(gateway, "r2", resume=[entry])
    await second.until("ACTIVITY_SNAPSHOT")
    bob = await person("bob")
    assert (await bob.post(f"/api/inbox/{rid}/answer", {"action": "approve"})).status == 200
    await hand.start()
    await hand.complete(out="x")
    agent = await second.end()
    assert (agent.outcome, [e["type"] for e in second.events].count("RUN_FINISHED")) == ("success", 1)


@pytest.mark.parametrize(
    ("change", "status", "code", "pointer"),
    [
        ({"messages": None}, 422, "invalid-body", "/messages"),
        ({"messages": [{"role": "user"}]}, 422, "invalid-body", "/messages"),
        ({"threadId": ""}, 422, "invalid-body", "/threadId"),
        ({"runId": 7}, 422, "invalid-body", "/runId"),
        ({"state": [1]}, 422, "invalid-body", "/state"),
        ({"protocolVersion": "2.0"}, 422, "invalid-body", "/protocolVersion"),
        ({"forwardedProps": {"perdure": {"prio": "high"}}}, 422, "invalid-body", "/forwardedProps/perdure/prio"),
        ({"messages": []}, 422, "invalid-input", "/input/brief"),
        ({"resume": [{"interruptId": "x", "status": "resolved"}]}, 404, "not-found", None),
    ],
)
async def test_what_does_not_fit_is_refused_before_the_stream_as_json_that_the_client_reads(
    gateway: Gateway, change: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    refused = await gateway.client.post(PATH, posted(**change))
    assert (refused.status, refused.body["code"]) == (status, code), refused.raw
    assert [e["pointer"] for e in refused.body.get("errors", [])] == ([] if pointer is None else [pointer])
    assert refused.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    "more",
    [
        {"protocolVersion": "1.7", "a_member_of_later": {"x": 1}},
        {"state": None, "tools": None, "context": None, "forwardedProps": None, "resume": None, "parentRunId": None},
    ],
)
async def test_what_other_clients_leave_out_null_or_add_is_taken(gateway: Gateway, more: dict[str, Any]) -> None:
    first = run(gateway, **more)
    hand = await first.hand()
    await hand.start()
    await hand.complete(out="x")
    assert (await first.end()).outcome == "success"


async def test_who_has_no_key_no_right_or_no_flow_is_told_so_as_json(gateway: Gateway, person: Any) -> None:
    narrow = await person("eve", "read")
    blind = await person("eve", "execute")
    cases = [
        (gateway.client.using(""), PATH, 401),
        (narrow, PATH, 403),
        (blind, PATH, 403),
        (gateway.client, "/api/agui/nothing", 404),
    ]
    for client, path, status in cases:
        refused = await client.post(path, posted())
        assert (refused.status, refused.headers["Content-Type"].split(";")[0]) == (status, "application/json"), path


async def test_a_deleted_run_is_gone(gateway: Gateway, project: Project) -> None:
    first = run(gateway)
    hand = await first.hand()
    await hand.start()
    await hand.complete(out="x")
    await first.end()
    await project(hand)
    assert (await gateway.client.call("DELETE", f"/api/jobs/{hand.ref.job}")).status == 204
    refused = await gateway.client.post(PATH, posted())
    assert (refused.status, refused.body["code"]) == (410, "job-deleted")


async def test_a_drain_ends_the_body_without_a_last_word(gateway: Gateway) -> None:
    first = run(gateway)
    await first.until("ACTIVITY_SNAPSHOT")
    gateway.service.stop()
    agent = await first.end()
    assert agent.outcome is None
    refused = await gateway.client.post(PATH, posted())
    assert (refused.status, refused.body["code"]) == (503, "draining")


async def test_two_posts_of_one_run_at_once_are_one_job(gateway: Gateway, start_gateway: Any) -> None:
    other = await start_gateway()
    both = [Running(at, posted()) for at in (gateway, other, gateway, other)]
    refs = {(await each.hand()).ref for each in both}
    assert len(refs) == 1
    hand = await both[0].hand()
    await hand.start()
    await hand.complete(out="one")
    for each in both:
        assert (await each.end()).outcome == "success"


async def test_a_large_thread_lies_in_a_blob_and_is_shown_whole(gateway: Gateway) -> None:
    long = {"id": "u0", "role": "assistant", "content": "x" * 200_000}
    first = run(gateway, messages=[long, USER])
    hand = await first.hand()
    await hand.start()
    await hand.complete(out="x")
    agent = await first.end()
    assert agent.messages["u0"] == long
    assert hand.log.state.submitted is not None
    assert hand.log.state.submitted.thread_ref is not None


async def test_capabilities_say_how_interrupts_are_answered(gateway: Gateway) -> None:
    shown = (await gateway.client.get(f"{PATH}/capabilities")).body
    assert shown["identity"]["name"] == "echo"
    assert shown["humanInTheLoop"]["interrupts"] is True
    assert shown["custom"]["perdure"]["options"] == ["tags", "priority", "deadline_seconds", "version"]
    assert (await gateway.client.get("/api/agui/nothing/capabilities")).status == 404
