"""AG-UI: whatever happens to a job, and whenever a client comes, leaves and comes again, it has what is true.

A world is a life of a job as a gateway hears it. Clients attach anywhere in it, are cut anywhere, and attach again; the
oracle (`perdure.testing.agui`) judges all that each connection said, and in the end all of them have the same.
"""

from itertools import islice
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.event import TERMINAL, Status
from perdure.core.machine import JobState, fold
from perdure.core.request import proposal_digest
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.registry import adapter
from perdure.core.surface.interrupt import interrupt_id
from perdure.errors import Forbidden
from perdure.ids import Principal, RequestId
from perdure.testing.agui import Client, check, events_of
from perdure.testing.factory import FINGERPRINT, JOB, Story
from perdure.testing.telling import Heard, tell

ME: Final = Principal("user:ann")
POSTED: Final = [{"id": "u1", "role": "user", "content": "hello"}]
STATE: Final = {"theme": "dark", "perdure": {"old": True}}


def mine(request: ev.Request) -> bool:
    """I may answer what is addressed to me."""
    return request.assignees is None or "ann" in request.assignees.users


READER: Final = Attach(job=JOB, thread_id="t1", run_id="r1", principal=ME, may_answer=mine)


class World:
    """Events and deltas in the order in which a gateway hears them, were nothing lost."""

    def __init__(self) -> None:
        self.story = Story()
        submitted = self.story.submitted()
        thread = {"messages": POSTED, "state": STATE}
        first = replace(submitted, data=replace(submitted.data, thread=thread))
        self.heard: list[Heard] = [first]
        self._n = self._known = 0
        self.running: dict[tuple[str, int], str] = {}  # a step and its occurrence: what it has said
        self.channels: dict[tuple[str, int], str] = {}  # where it says it; one that becomes a message has its own
        self._uses: dict[str, int] = {}
        self._thought: dict[tuple[str, int], int] = {}

    def event(self, event: ev.AnyEvent, *, known: bool = True) -> None:
        self.heard.append(event)
        self._known = event.seq if known else self._known

    def start(self) -> None:
        self._n, self.running, self._uses, self._thought = 0, {}, {}, {}
        self.event(self.story.started("first" if self.story.state.attempt == 0 else "lease_lost"))

    def say(self, delta: str, **members: Any) -> None:
        self._n += 1
        base = {"v": 1, "type": delta, "attempt": self.story.state.attempt, "n": self._n, "after": self._known}
        said = read_delta(msgspec.json.encode(base | {"occurrence": 1} | members))
        assert said is not None
        self.heard.append(said)

    def step(self, name: str, *, own: bool = False) -> None:
        self._uses[name] = use = self._uses.get(name, 0) + 1
        self.running[name, use] = ""
        self.channels[name, use] = f"c-{len(self.heard)}" if own else "m-1"
        self.say("delta.step", step=name, occurrence=use, kind="started")

    def text(self, step: tuple[str, int], text: str) -> None:
        where = {"step": step[0], "occurrence": step[1], "channel": self.channels[step]}
        self.say("delta.text", **where, pos=len(self.running[step]), text=text)
        self.running[step] += text

    def think(self, step: tuple[str, int], text: str) -> None:
        where = {"step": step[0], "occurrence": step[1], "channel": "r"}
        self.say("delta.reasoning", **where, pos=self._thought.get(step, 0), text=text)
        self._thought[step] = self._thought.get(step, 0) + len(text)

    def settle(self, step: tuple[str, int], result: Any, *, failed: bool = False, output: bool = False) -> None:
        said = self.running.pop(step)
        self._thought.pop(step, None)
        key: dict[str, Any] = {"step": step[0], "occurrence": step[1]}
        key |= {"started_at": self.story.at, "duration_seconds": 0.5}
        if failed:
            error = ev.Failure(code="step_failed", message="no")
            self.event(self.story.add(ev.StepFailedData(**key, error=error, failures=1)))
            self._uses[step[0]] -= 1  # the same call is tried again
            return
        named = ev.Named(name="out", kind="text") if output else None
        result = said if result == "said" else result
        self.event(self.story.add(ev.StepCompletedData(**key, result=result, output=named)))

    def ask(self, *users: str) -> RequestId:
        rid = self.story.asked("review")
        request = self.story.state.asked[rid]
        asked = replace(
            request,
            assignees=ev.Assignees(users=users) if users else None,
            proposal={"a": 1},
            proposal_digest=proposal_digest(request.title, None, {"a": 1}),
        )
        # Story asks for everybody; the log of this world says whom.
        event = replace(self.story.events[-1], data=ev.RequestedData(request=asked))
        self.story.events[-1] = event
        self.story.state = replace(self.story.state, asked={**self.story.state.asked, rid: asked})
        self.event(event)
        return rid

    def suspend(self) -> None:
        self.running = {}
        asked = [ev.Waiting(kind="input", name="review", request_id=rid) for rid in self.story.state.asked]
        self.event(self.story.suspended(*asked, *([] if asked else [ev.Waiting(kind="signal", name="go")])))

    def end(self, how: str, **outputs: Any) -> None:
        self.running = {}
        error = ev.Failure(code="broken", message="it broke")
        data = {
            "completed": ev.CompletedData(outputs=outputs, fingerprint=FINGERPRINT, usage=ev.Usage(input_tokens=3)),
            "failed": ev.FailedData(error=error, failures=1, fingerprint=FINGERPRINT),
            "cancelled": ev.CancelledData(fingerprint=FINGERPRINT, by=ME),
            "timed_out": ev.TimedOutData(deadline_at=self.story.at, fingerprint=FINGERPRINT),
        }[how]
        self.event(self.story.add(data))  # type: ignore[arg-type]  # one of the four


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    acts = ["start", "ask", "suspend", "message", "message", "removed", "output", "progress", "skip", "vote", "end"]
    acts += ["step"] * 4 + ["text"] * 8 + ["settle"] * 4 + ["tool", "reason", "log"]
    for _ in range(draw(st.integers(0, 50))):
        job = world.story.state
        if job.status in TERMINAL:
            break
        act = draw(st.sampled_from(acts))
        running = list(world.running)
        if job.status is not Status.RUNNING:
            answers: bool = draw(st.booleans())
            if job.asked and answers:
                rid = draw(st.sampled_from(sorted(job.asked)))
                world.event(world.story.answered(rid), known=False)
            elif act == "vote" and job.asked:
                vote = ev.VotedData(
                    request_id=sorted(job.asked)[0],
                    revision=1,
                    action="approve",
                    payload_digest="d",
                    by=draw(st.sampled_from([ME, Principal("user:bob")])),
                    via=ev.Via(channel="api"),
                )
                world.event(world.story.add(vote), known=False)
            else:
                world.start()
        elif act == "start":
            world.start()
        elif act == "ask":
            world.ask(*draw(st.sampled_from([(), ("ann",), ("bob",), ("ann", "bob")])))
        elif act == "suspend":
            world.suspend()
        elif act == "step" and len(running) < 4:
            world.step(draw(st.sampled_from("abc")), own=draw(st.booleans()))
        elif act == "text" and running:
            world.text(draw(st.sampled_from(running)), draw(st.text("xyzé😀", min_size=1, max_size=3)))
        elif act == "reason" and running:
            world.think(draw(st.sampled_from(running)), draw(st.text("pq", min_size=1, max_size=3)))
        elif act == "tool" and running:
            step, use = draw(st.sampled_from(running))
            call = f"call-{len(world.heard)}"
            result: dict[str, Any] = {"result": {"n": 1}} if draw(st.booleans()) else {}
            world.say("delta.tool", step=step, occurrence=use, call_id=call, name="look", arguments={"q": 1}, **result)
        elif act == "log":
            world.say("delta.log", level="info", text="a line")
        elif act == "settle" and running:
            how = draw(st.sampled_from(["said", "said", "other", None, 7]))
            failed, output = draw(st.integers(0, 4)) == 0, draw(st.integers(0, 3)) == 0
            world.settle(draw(st.sampled_from(running)), how, failed=failed, output=output)
        elif act == "message":
            own = [step for step in running if world.channels[step] != "m-1"]
            streamed = draw(st.sampled_from([*own, ("", 1)]))
            text = world.running.get(streamed, "") if draw(st.integers(0, 3)) else "another text"
            text += draw(st.sampled_from(["", "more"]))
            channel = world.channels.get(streamed, f"b-{len(world.heard)}")
            data = ev.MessageData(message_id=channel, role="assistant", text=text, step=streamed[0] or None)
            world.event(world.story.add(data))
            if streamed in world.running:
                world.running[streamed] = ""
                world.channels[streamed] = f"d-{len(world.heard)}"  # a channel is one message, of one step
        elif act == "removed":
            sent = [e.data for e in world.story.events if isinstance(e, ev.Message) and not e.data.removed]
            if sent:
                world.event(world.story.add(replace(draw(st.sampled_from(sent)), removed=True)))
        elif act == "output":
            data_ = ev.OutputData(name="o", occurrence=1, kind="text", value="given")
            world.event(world.story.add(data_))
        elif act == "progress":
            world.event(world.story.add(ev.ProgressData(name="p", occurrence=1, done=float(len(world.heard)))))
        elif act == "skip":
            world.event(world.story.add(ev.StepSkippedData(step="s", occurrence=1, reason="no edge")))
        elif act == "end" and not running:
            texts = [e.data.result for e in world.story.events if isinstance(e, ev.StepCompleted)]
            outputs: dict[str, Any] = {"result": draw(st.sampled_from([*texts, "fresh", 5]))}
            world.end(draw(st.sampled_from(["completed", "completed", "failed", "cancelled", "timed_out"])), **outputs)
    return world


def job_at(heard: list[Heard], moment: int) -> JobState:
    return fold(item for item in heard[:moment] if not isinstance(item, Said))


def asked_of_me(job: JobState) -> list[str]:
    """The interrupts that the fold says I have, worked out anew."""
    if job.status is not Status.SUSPENDED:
        return []
    voted = {rid for rid, votes in job.votes.items() for vote in votes if vote.by == ME}
    return [interrupt_id(r) for rid, r in job.asked.items() if mine(r) and rid not in voted]


def connection(client: Client, heard: list[Heard], begin: int, frames: int | None = None) -> list[dict[str, Any]]:
    """One connection that comes at `begin` and is cut after so many frames; judged, and applied to the client."""
    events = events_of(islice(tell(adapter("agui", READER), heard, begin), frames))
    check(events, "t1", "r1")
    for event in events:
        client.take(event)
    return events


def follow(client: Client, heard: list[Heard], begin: int) -> None:
    """Attach, and where the run was interrupted again once nothing is asked any more, as one who answers does."""
    while True:
        connection(client, heard, begin)
        if client.outcome != "interrupt":
            return
        asking = [m for m in range(begin, len(heard) + 1) if asked_of_me(job_at(heard, m))]
        first = asking[0] if asking else len(heard)
        later = [m for m in range(first, len(heard) + 1) if not asked_of_me(job_at(heard, m))]
        begin = later[0] if later else len(heard)
        if not later:
            connection(client, heard, begin)
            return


@settings(max_examples=300, deadline=None)
@given(worlds(), st.data())
def test_a_client_that_is_cut_anywhere_has_in_the_end_what_is_true(world: World, data: st.DataObject) -> None:
    heard = world.heard
    never_left, cut, fresh = Client(), Client(), Client()
    follow(never_left, heard, 1)
    begin = 1
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(begin, len(heard)))
        connection(cut, heard, begin, data.draw(st.integers(0, 40)))
    follow(cut, heard, len(heard))
    follow(fresh, heard, len(heard))
    job = job_at(heard, len(heard))
    note("\n".join(str(item.delta if isinstance(item, Said) else item) for item in heard))
    for client in (never_left, cut):
        same(client, fresh, job)


def same(client: Client, fresh: Client, job: JobState) -> None:
    """What a client that was there has, against one that comes now."""
    note(f"{client.messages}\n{fresh.messages}")
    assert (client.outcome, client.state) == (fresh.outcome, fresh.state)
    assert [i["id"] for i in client.interrupts if client.outcome == "interrupt"] == asked_of_me(job)
    for mid, message in fresh.messages.items():
        assert client.messages[mid] == message
    more = [message for mid, message in client.messages.items() if mid not in fresh.messages]
    roles = {"reasoning"} if fresh.outcome is not None else {"reasoning", "assistant", "tool"}
    assert {message["role"] for message in more} <= roles, "only what no log has, and not beyond the run's end"


@settings(max_examples=150, deadline=None)
@given(worlds(), st.data())
def test_whatever_the_line_loses_no_client_is_told_what_is_not_so(world: World, data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, 10))
    events = events_of(
        tell(
            adapter("agui", READER),
            world.heard,
            data.draw(st.integers(1, len(world.heard))),
            lost=lambda said: said.delta.n % 3 == gone % 3,
            forgotten=gone,
        )
    )
    check(events, "t1", "r1")


def test_the_prelude_is_the_whole_thread_and_then_the_tail_goes_on() -> None:
    world = World()
    world.start()
    world.step("draft")
    world.text(("draft", 1), "Once ")
    client = Client()
    events = connection(client, world.heard, len(world.heard))
    assert [e["type"] for e in events] == [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "MESSAGES_SNAPSHOT",
        "ACTIVITY_SNAPSHOT",
        "STEP_STARTED",
        "TEXT_MESSAGE_START",
    ]
    assert events[0]["protocolVersion"] == "1.0"
    assert events[0]["metadata"] == {"perdure": {"job_id": JOB, "seq": 2}}
    assert client.state["theme"] == "dark"
    assert client.state["perdure"]["status"] == "running"
    assert [m["content"] for m in client.messages.values() if m["role"] != "activity"] == ["hello", "Once "]
    here = len(world.heard)
    world.text(("draft", 1), "upon")
    world.settle(("draft", 1), "Once upon a time")
    world.end("completed", result="Once upon a time")
    client = Client()
    tail = connection(client, world.heard, here)[6:]
    assert [e["type"] for e in tail] == [
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "STEP_FINISHED",
        "STATE_DELTA",
        "ACTIVITY_SNAPSHOT",
        "RUN_FINISHED",
    ]
    assert tail[1]["delta"] == " a time"  # the rest, which no delta has brought
    assert tail[-1]["result"] == {"result": "Once upon a time"}
    assert tail[-1]["usage"] == [{"inputTokens": 3, "outputTokens": 0}]
    assert [m["content"] for m in client.messages.values() if m["role"] == "assistant"] == ["Once upon a time"]


def test_a_dead_attempt_is_taken_back_and_what_it_said_comes_under_another_id() -> None:
    world = World()
    world.start()
    world.step("draft")
    world.text(("draft", 1), "dead words")
    here = len(world.heard)
    world.start()
    world.step("draft")
    world.text(("draft", 1), "living")
    client = Client()
    events = connection(client, world.heard, here)
    kinds = [e["type"] for e in events[6:]]
    assert kinds[:3] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "STEP_FINISHED"]
    assert kinds[-3:] == ["STEP_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    texts = {m["id"]: m["content"] for m in client.messages.values() if m["role"] == "assistant"}
    assert list(texts.values()) == ["living"]
    dead = next(e["messageId"] for e in events if e["type"] == "TEXT_MESSAGE_START")
    assert dead not in texts


def test_a_sleeping_job_interrupts_only_whom_it_asks() -> None:
    world = World()
    world.start()
    rid = world.ask("bob")
    world.suspend()
    client = Client()
    connection(client, world.heard, 1)
    assert client.outcome is None
    waiting = client.messages[f"{JOB}:activity"]["content"]
    assert (waiting["reason"], [w["request_id"] for w in waiting["waiting_for"]]) == ("person", [rid])
    request = world.story.state.asked[rid]
    mine_now = replace(request, revision=2, assignees=ev.Assignees(users=("ann",)))
    world.event(world.story.add(ev.RequestedData(request=mine_now)), known=False)
    connection(client, world.heard, len(world.heard) - 1)  # it was delegated while I looked on
    assert client.outcome == "interrupt"
    [interrupt] = client.interrupts
    assert interrupt["id"] == interrupt_id(request)
    assert interrupt["metadata"]["perdure"]["proposal"] == {"a": 1}


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("failed", "RUN_ERROR", {"message": "it broke", "code": "max_failures"}),
        ("timed_out", "RUN_ERROR", {"message": "the job's deadline has passed", "code": "deadline"}),
        ("cancelled", "RUN_FINISHED", {"outcome": {"type": "cancelled"}}),
    ],
)
def test_how_a_run_ends_that_does_not_complete(how: str, kind: str, said: dict[str, Any]) -> None:
    world = World()
    world.start()
    world.end(how)
    for begin in (1, len(world.heard)):
        last = connection(Client(), world.heard, begin)[-1]
        assert last["type"] == kind
        assert {name: last[name] for name in said} == said


def test_what_is_told_besides_comes_behind_the_prelude_and_before_the_end() -> None:
    world = World()
    world.start()
    world.end("completed")
    reader = replace(READER, notices=({"interrupt_id": "x~1", "code": "unknown"},))
    events = events_of(tell(adapter("agui", reader), world.heard, len(world.heard)))
    assert [e["type"] for e in events[-2:]] == ["CUSTOM", "RUN_FINISHED"]
    assert (events[-2]["name"], events[-2]["value"]["code"]) == ("perdure.not_applied", "unknown")


def test_the_users_message_that_the_client_has_posted_is_not_said_again() -> None:
    world = World()
    world.start()
    for role, text in (("user", "hello"), ("user", "another"), ("assistant", "hello")):
        message = ev.MessageData(message_id=f"{role}-{text}", role=role, text=text)
        world.event(world.story.add(message))
    client = Client()
    connection(client, world.heard, 2)
    said = [(m["role"], m["content"]) for m in client.messages.values() if m["role"] != "activity"]
    assert said == [("user", "hello"), ("user", "another"), ("assistant", "hello")]


def test_nothing_is_shown_to_who_may_see_no_values_and_a_stream_that_is_closed_early_has_no_last_word() -> None:
    with pytest.raises(Forbidden):
        adapter("agui", replace(READER, values=False))
    run = adapter("agui", READER)
    assert [list(run.close(reason)) for reason in ("drain", "rotate", "auth", "upstream")] == [[], [], [], []]
