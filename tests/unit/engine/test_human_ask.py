"""Asking with the whole record: what is recorded, the typed answer, the faults of the arguments, asking again."""

from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from msgspec import Struct
from pydantic import BaseModel, Field, SecretStr, field_validator

from perdure import (
    Action,
    Answer,
    AskAgain,
    Assignees,
    Context,
    Escalation,
    Invalid,
    NotApproved,
    OnTimeout,
    Quorum,
    RequestExpired,
    RequestWithdrawn,
    StepFailed,
    Workflow,
)
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.request import proposal_digest
from perdure.engine.described import form_of
from perdure.ids import Principal
from perdure.testing.memory import MemoryJob


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Form(BaseModel):
    """A flat form of pydantic's."""

    amount: int = Field(gt=0)
    note: str = ""
    colour: Colour = Colour.RED
    speed: Literal["slow", "fast"] = "slow"

    @field_validator("note")
    @classmethod
    def _polite(cls, value: str) -> str:
        if "!" in value:
            raise ValueError("does not shout")
        return value


class Plain(Struct):
    """The same idea in msgspec's."""

    amount: int
    note: str | None = None


def asks(**asking: Any) -> Workflow:
    """A workflow that asks once and returns what it was told, as text."""

    async def body(ctx: Context) -> Any:
        answer = await ctx.ask("review", title="Publish?", **asking)
        return repr(answer.payload) if isinstance(answer.payload, BaseModel | Struct) else answer.payload

    return Workflow("asks", body)


async def test_the_whole_record_is_what_was_asked() -> None:
    job = MemoryJob()
    await job.run(
        asks(
            assignees=["user:bob", "group:finance", "link:lena", "anyone"],
            forbid_self=True,
            quorum=Quorum(n=2, of=Assignees(groups=("finance",)), veto=("reject",)),
            expires_in=timedelta(days=1),
            reminders=[timedelta(hours=1), 7200],
            escalations={timedelta(hours=4): ["group:leads"], 30_000: ["user:zoe"]},
            ui={"order": ["note"]},
            external_ids={"erp": "4711"},
            defaults={"note": "hi"},
        )
    )
    asked = job.open_request("review")
    assert asked.assignees == Assignees(users=("bob", "link:lena"), groups=("finance",), anyone_with="execute")
    assert asked.forbid_self is True
    assert asked.quorum == Quorum(n=2, of=Assignees(groups=("finance",)), veto=("reject",))
    assert asked.reminders == (3600, 7200)
    assert asked.escalations == (
        Escalation(after_seconds=14_400, add=Assignees(groups=("leads",))),
        Escalation(after_seconds=30_000, add=Assignees(users=("zoe",))),
    )
    assert (asked.ui, asked.external_ids, asked.defaults) == ({"order": ["note"]}, {"erp": "4711"}, {"note": "hi"})
    assert (asked.escalated, asked.delegations, asked.errors, asked.reasks) == (0, (), (), None)
    assert verify.log(job.log) == []


async def test_outsiders_are_named_by_the_label_of_their_link() -> None:
    job = MemoryJob()
    await job.run(
        asks(assignees=["user:bob", "link:auditor"], quorum=Quorum(n=2, of=Assignees(users=("link:auditor", "bob"))))
    )
    asked = job.open_request("review")
    assert asked.assignees == Assignees(users=("bob", "link:auditor"))
    assert asked.quorum == Quorum(n=2, of=Assignees(users=("link:auditor", "bob")))


async def test_a_pool_beside_the_assignees_may_answer_where_they_may_not() -> None:
    job = MemoryJob()
    await job.run(asks(assignees=["user:ann"], forbid_self=True, quorum=Quorum(n=1, of=Assignees(users=("bob",)))))
    assert job.open_request("review").forbid_self


async def test_a_number_is_a_quorum() -> None:
    job = MemoryJob()
    await job.run(asks(quorum=2, assignees=Assignees(groups=("finance",))))
    assert job.open_request("review").quorum == Quorum(n=2)


@pytest.mark.parametrize(
    ("wrong", "pointers"),
    [
        ({"title": ""}, ["/title"]),
        ({"title": "x" * 501}, ["/title"]),
        ({"message": 5}, ["/message"]),
        ({"message": "x" * 200_000}, ["/message"]),
        ({"kind": "choice"}, ["/actions"]),
        ({"kind": "vote"}, ["/kind", "/actions"]),
        ({"actions": ["a", "a", "B"]}, ["/actions/1/id", "/actions/2/id"]),
        ({"actions": [Action(id="a", label="")]}, ["/actions/0/label"]),
        ({"editable": ["amount"], "proposal": 1}, ["/editable/0"]),
        ({"editable": [""]}, ["/editable"]),
        ({"proposal_schema": {"type": "object"}}, ["/proposal_schema"]),
        ({"proposal": {"n": "x"}, "proposal_schema": {"properties": {"n": {"type": "number"}}}}, ["/proposal/n"]),
        ({"response_schema": {"$ref": "https://example.com/s"}}, ["/response_schema/$ref"]),
        ({"response_schema": {"properties": {"p": {"format": "password"}}}}, ["/response_schema/properties/p/format"]),
        ({"defaults": ["x"]}, ["/defaults"]),
        ({"assignees": ["bob"]}, ["/assignees/0"]),
        ({"assignees": ["user:"]}, ["/assignees/0"]),
        ({"assignees": ["service:ci", "user:a b"]}, ["/assignees/0", "/assignees/1"]),
        ({"assignees": Assignees(users=("a b",))}, ["/assignees/users/0"]),
        ({"assignees": ["user:ann"], "forbid_self": True}, ["/assignees"]),
        ({"quorum": 0}, ["/quorum/n"]),
        ({"quorum": Quorum(n=2, veto=("never",))}, ["/quorum/veto/0"]),
        ({"quorum": Quorum(n=1, of=Assignees())}, ["/quorum/of"]),
        ({"quorum": 3, "assignees": ["user:bob", "user:zoe"]}, ["/quorum/n"]),
        ({"quorum": 2, "assignees": ["user:bob", "user:ann"], "forbid_self": True}, ["/quorum/n"]),
        ({"expires_in": -1}, ["/expires_in"]),
        ({"reminders": [5, 5]}, ["/reminders/1"]),
        ({"reminders": [-5]}, ["/reminders/0"]),
        ({"reminders": [50], "expires_in": 50}, ["/reminders/0"]),
        ({"escalations": {60: ["group:leads"]}}, ["/escalations"]),
        ({"escalations": {60: []}, "assignees": ["user:bob"]}, ["/escalations/0/add"]),
        (
            {"escalations": {60: ["user:x"]}, "assignees": ["user:bob"], "expires_in": 9},
            ["/escalations/0/after_seconds"],
        ),
        ({"on_timeout": OnTimeout(do="branch")}, ["/on_timeout"]),
        ({"on_timeout": OnTimeout(do="answer", action="other"), "expires_in": 9}, ["/on_timeout/action"]),
        ({"ui": ["x"]}, ["/ui"]),
        ({"external_ids": {"a b": "c"}}, ["/external_ids/a b"]),
        ({"external_ids": {"erp": ""}}, ["/external_ids/erp"]),
        ({"schema": Form, "response_schema": {}}, ["/response_schema"]),
        (
            {"schema": Form, "expires_in": 9, "on_timeout": OnTimeout(do="answer", action="approve", payload={})},
            ["/on_timeout/payload/amount"],
        ),
        (
            {
                "schema": Form,
                "expires_in": 9,
                "on_timeout": OnTimeout(do="answer", action="approve", payload={"amount": 1, "note": "!"}),
            },
            ["/on_timeout/payload"],
        ),
        (
            {
                "actions": [Action(id="a", requires=("nothing", "comment"))],
                "response_schema": {"properties": {"x": {}}, "additionalProperties": False},
            },
            ["/actions/0/requires/0"],
        ),
    ],
    ids=lambda v: ",".join(v)[:40] if isinstance(v, dict | list) else None,
)
async def test_arguments_that_make_no_request_are_named_and_nothing_is_written(
    wrong: dict[str, Any], pointers: list[str]
) -> None:
    found: list[Any] = []

    async def body(ctx: Context) -> None:
        with pytest.raises(Invalid) as caught:
            await ctx.ask("review", **{"title": "?", **wrong})
        found.extend(fault.pointer for fault in caught.value.faults)
        assert caught.value.code == "invalid-request"

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    assert sorted(found) == sorted(pointers)
    assert job.events(ev.InputRequested) == []


async def test_a_type_that_asks_for_a_secret_is_refused() -> None:
    class Login(BaseModel):
        password: SecretStr

    async def body(ctx: Context) -> None:
        with pytest.raises(Invalid, match="secrets"):
            await ctx.ask("review", title="?", schema=Login)

    assert (await MemoryJob().run(Workflow("flow", body))).status == "completed"


async def test_a_model_is_a_flat_form_and_its_answer_an_instance_in_every_pass() -> None:
    passes: list[Any] = []

    async def body(ctx: Context) -> int:
        answer = await ctx.ask("review", title="?", schema=Form)
        passes.append(answer.payload)
        await ctx.sleep(3600)
        return answer.payload.amount

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    rule = job.open_request("review").response_schema
    assert rule is not None
    assert rule["properties"]["colour"]["enum"] == ["red", "blue"]
    assert "$defs" not in rule
    assert rule["required"] == ["amount"]
    job.answer("review", "approve", {"amount": 3, "colour": "blue"})
    await job.run(flow)
    assert job.outputs == {"result": 3}
    assert passes == [Form(amount=3, colour=Colour.BLUE)] * 2
    assert all(isinstance(one, Form) for one in passes)


async def test_a_struct_is_a_form_too() -> None:
    job = MemoryJob()
    await job.run(asks(schema=Plain))
    rule = job.open_request("review").response_schema
    assert rule is not None
    assert (rule["type"], set(rule["properties"])) == ("object", {"amount", "note"})
    job.answer("review", "approve", {"amount": 3})
    await job.run(asks(schema=Plain))
    assert job.outputs == {"result": "Plain(amount=3, note=None)"}


async def test_a_payload_is_plain_where_the_action_requires_less() -> None:
    flow = asks(schema=Form, actions=["approve", Action(id="reject", requires=("comment",))])
    job = MemoryJob()
    await job.run(flow)
    job.answer("review", "reject", {}, comment="no")
    await job.run(flow)
    assert job.outputs == {"result": {}}


async def test_what_only_the_type_refuses_is_asked_again_by_itself() -> None:
    job, flow = MemoryJob(), asks(schema=Form)
    await job.run(flow)
    first = job.open_request("review")
    job.answer("review", "approve", {"amount": 1, "note": "now!"})
    await job.run(flow)
    second = job.open_request("review")
    assert (second.reasks, second.occurrence, second.revision) == (first.id, 2, 1)
    assert [(e.pointer, e.detail) for e in second.errors] == [
        ("", "the answer does not fit"),
        ("/payload/note", "Value error, does not shout"),
    ]
    assert second.defaults == {"amount": 1, "note": "now!"}
    job.answer("review", "approve", {"amount": 1, "note": "now"})
    await job.run(flow)
    assert job.outputs["result"].startswith("Form(amount=1, note='now'")


def checked(effects: list[str]) -> Workflow:
    """Asks with a check that looks something up in a step."""

    async def look_up(amount: int) -> int:
        effects.append(f"look up {amount}")
        return 100

    async def body(ctx: Context) -> list[Any]:
        await ctx.step("before", lambda: effects.append("before"))

        async def covered(answer: Answer[Any]) -> None:
            limit = await ctx.step("limit", look_up, answer.proposal["amount"])
            if answer.proposal["amount"] > limit:
                raise AskAgain("too much", {"/proposal/amount": f"at most {limit}"})

        answer = await ctx.ask(
            "pay", title="Pay?", proposal={"amount": 10, "to": "bob"}, editable=["/amount"], check=covered
        )
        return [answer.action, answer.proposal, answer.edited, answer.request_id]

    return Workflow("checked", body)


async def test_an_answer_wrong_in_fact_is_asked_again_prefilled_and_no_step_runs_again() -> None:
    effects: list[str] = []
    job, flow = MemoryJob(), checked(effects)
    await job.run(flow)
    first = job.open_request("pay")
    job.answer("pay", "approve", proposal={"amount": 900, "to": "bob"})
    await job.run(flow)
    second = job.open_request("pay")
    assert second.id != first.id
    assert (second.reasks, second.name, second.occurrence) == (first.id, "pay", 2)
    assert second.proposal == {"amount": 900, "to": "bob"}
    assert second.proposal_digest == proposal_digest("Pay?", None, second.proposal)
    assert [(e.pointer, e.detail) for e in second.errors] == [("", "too much"), ("/proposal/amount", "at most 100")]
    assert job.state.settled[first.id].data.request_id == first.id  # the first stays answered
    job.answer("pay", "approve", proposal={"amount": 90, "to": "bob"})
    await job.run(flow)
    assert job.outputs["result"] == ["approve", {"amount": 90, "to": "bob"}, True, second.id]
    assert effects == ["before", "look up 900", "look up 90"]
    assert verify.log(job.log) == []


async def test_an_edit_that_was_carried_over_still_counts_as_one() -> None:
    async def body(ctx: Context) -> list[Any]:
        def once(answer: Answer[Any]) -> None:
            if answer.comment is None:
                raise AskAgain("say why")

        answer = await ctx.ask("pay", title="?", proposal={"n": 1}, editable=["/n"], check=once)
        return [answer.proposal, answer.edited]

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    job.answer("pay", "approve", proposal={"n": 2})
    await job.run(flow)
    job.answer("pay", "approve", comment="because")
    await job.run(flow)
    assert job.outputs["result"] == [{"n": 2}, True]


async def test_an_answer_of_the_time_out_that_does_not_hold_is_an_expiry() -> None:
    async def body(ctx: Context) -> str:
        def never(answer: Answer[Any]) -> None:
            raise AskAgain("no")

        try:
            await ctx.ask(
                "pay", title="?", check=never, expires_in=60, on_timeout=OnTimeout(do="answer", action="approve")
            )
        except RequestExpired as exc:
            return f"{exc.cause}: {exc}"
        return "?"

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    job.clock.advance(60)
    await job.run(flow)
    said = job.outputs["result"]
    assert said == "deadline: request pay expired, and the answer of its time-out does not hold: no"
    assert len(job.events(ev.InputRequested)) == 1


@pytest.mark.parametrize(
    ("action", "proposal", "acted_on", "ok"),
    [
        ("approve", None, {"b": [1], "a": 5}, True),
        ("approve", None, {"a": 5, "b": [2]}, False),
        ("approve", {"a": 3, "b": [1]}, {"a": 3, "b": [1]}, True),
        ("approve", {"a": 3, "b": [1]}, {"a": 5, "b": [1]}, False),
        ("reject", None, {"a": 5, "b": [1]}, False),
    ],
)
async def test_the_step_that_acts_compares_again(action: str, proposal: Any, acted_on: Any, ok: bool) -> None:
    tries: list[int] = []

    async def body(ctx: Context) -> str:
        answer = await ctx.ask("pay", title="?", proposal={"a": 5, "b": [1]}, editable=["/a"])

        async def pay() -> str:
            tries.append(1)
            answer.require(acted_on)
            return "paid"

        try:
            return str(await ctx.step("pay", pay))
        except StepFailed as exc:
            return exc.code

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    job.answer("pay", action, proposal=proposal)
    await job.run(flow)
    assert job.outputs["result"] == ("paid" if ok else "not_approved")
    assert len(tries) == 1


def test_nothing_proposed_and_nobody_there_is_nothing_approved() -> None:
    for answer in (
        Answer[Any](action="approve", payload=None),
        Answer[Any](action=None, payload=None, digest="sha256:0", timed_out=True),
    ):
        with pytest.raises(NotApproved):
            answer.require(None)


async def test_votes_are_seen_and_say_who_said_what() -> None:
    async def body(ctx: Context) -> Any:
        answer = await ctx.ask("pay", title="?", quorum=2, assignees=["group:finance"])
        return [[vote.by, vote.action] for vote in answer.votes]

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    asked = job.open_request("pay")
    votes = tuple(ev.Vote(by=Principal(f"user:{u}"), action="approve", payload_digest="0") for u in ("bob", "zoe"))
    job.append(
        ev.AnsweredData(
            request_id=asked.id,
            revision=1,
            action="approve",
            payload=None,
            by=votes[1].by,
            via=ev.Via(channel="api"),
            votes=votes,
        )
    )
    await job.run(flow)
    assert job.outputs["result"] == [["user:bob", "approve"], ["user:zoe", "approve"]]


@pytest.mark.parametrize("do", ["fail", "branch"])
async def test_a_quorum_that_can_no_longer_agree_is_told_from_a_deadline(do: Literal["fail", "branch"]) -> None:
    async def body(ctx: Context) -> list[Any]:
        try:
            answer = await ctx.ask("pay", title="?", quorum=2, on_timeout=OnTimeout(do=do))
        except RequestExpired as exc:
            return [exc.cause, len(exc.votes), str(exc)]
        return [answer.cause, len(answer.votes), answer.action]

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    asked = job.open_request("pay")
    vote = ev.Vote(by=Principal("user:bob"), action="reject", payload_digest="0")
    job.append(
        ev.ExpiredData(
            request_id=asked.id, revision=1, cause="no_quorum", outcome=ev.Outcome(do=do), votes=(vote,), by=vote.by
        )
    )
    await job.run(flow)
    told = {"fail": "request pay expired: those who vote can no longer agree", "branch": None}
    assert job.outputs["result"] == ["no_quorum", 1, told[do]]


async def test_a_withdrawal_says_by_whom_and_why() -> None:
    async def body(ctx: Context) -> list[Any]:
        try:
            await ctx.ask("pay", title="?")
        except RequestWithdrawn as exc:
            return [exc.by, exc.reason, exc.request_id]
        return []

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    asked = job.open_request("pay")
    job.append(ev.WithdrawnData(request_id=asked.id, reason="a duplicate", by=Principal("user:zoe")))
    await job.run(flow)
    assert job.outputs["result"] == ["user:zoe", "a duplicate", asked.id]


async def test_requests_of_one_name_in_loops_and_branches_have_ids_of_their_own() -> None:
    async def body(ctx: Context) -> list[str | None]:
        async def twice() -> list[str | None]:
            return [(await ctx.ask("ok", title=f"Round {i}?")).request_id for i in (1, 2)]

        return [one for both in await ctx.gather(twice(), twice()) for one in both]

    job, flow = MemoryJob(), Workflow("flow", body)
    seen: list[str] = []
    for _ in range(2):
        await job.run(flow)
        assert len(job.state.asked) == 2
        for asked in list(job.state.asked):
            seen.append(asked)
            job.answer(asked, "approve")
    await job.run(flow)
    assert sorted(job.outputs["result"]) == sorted(seen)
    assert len(set(seen)) == 4
    assert {(d.request.path, d.request.occurrence) for d in job.events(ev.InputRequested)} == {
        ("/1.1", 1), ("/1.1", 2), ("/1.2", 1), ("/1.2", 2)
    }  # fmt: skip


def test_a_form_is_made_once_for_a_type_and_is_nobody_s_to_change() -> None:
    first = form_of(Form)
    first.pop("properties")
    assert form_of(Form) is not first
    assert set(form_of(Form)["properties"]) == {"amount", "note", "colour", "speed"}
    assert form_of(dict[str, Annotated[int, {}]])["type"] == "object"  # a type form that has no hash
