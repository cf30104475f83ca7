"""Tool calls that a person decides on: what is asked, and the decision that an agent's loop gets."""

from typing import Any

import pytest
from msgspec import Struct

from perdure import Context, Invalid, OnTimeout, ToolDecision, Workflow
from perdure.core import event as ev
from perdure.testing.memory import MemoryJob


class Mail(Struct):
    """The arguments of a tool."""

    to: str
    body: str


ARGUMENTS = {"to": "ann@example.com", "body": "Hello"}


def decides(arguments: Any = ARGUMENTS, **asking: Any) -> Workflow:
    """A workflow that has one call approved and returns the decision."""

    async def body(ctx: Context) -> list[Any]:
        decision = await ctx.approve_tool("send", arguments, **asking)
        return [decision.outcome, decision.approved, decision.name, decision.arguments, decision.message]

    return Workflow("decides", body)


async def test_the_request_proposes_the_call_and_lets_its_arguments_be_edited() -> None:
    job = MemoryJob()
    await job.run(decides(call_id="call_1", assignees=["user:bob"]))
    asked = job.open_request("send")
    assert (asked.kind, asked.title) == ("tool_call", "Call send?")
    assert asked.proposal == {"name": "send", "arguments": ARGUMENTS}
    assert asked.editable == ("/arguments",)
    assert [(a.id, a.requires) for a in asked.actions] == [
        ("approve", None), ("edit", None), ("reject", None), ("respond", ("comment",))
    ]  # fmt: skip
    assert asked.external_ids == {"tool_call": "call_1"}


@pytest.mark.parametrize(
    ("action", "said", "decided"),
    [
        ("approve", {}, ["approve", True, "send", ARGUMENTS, ""]),
        (
            "edit",
            {"proposal": {"name": "send", "arguments": {"to": "bob@example.com", "body": "Hi"}}},
            ["edit", True, "send", {"to": "bob@example.com", "body": "Hi"}, ""],
        ),
        ("edit", {}, ["approve", True, "send", ARGUMENTS, ""]),
        ("reject", {}, ["reject", False, "send", ARGUMENTS, "The call was rejected by a person and not made."]),
        (
            "reject",
            {"comment": "Not now."},
            ["reject", False, "send", ARGUMENTS, "The call was rejected by a person and not made. Not now."],
        ),
        ("respond", {"comment": "I told her."}, ["respond", False, "send", ARGUMENTS, "I told her."]),
    ],
)
async def test_a_decision_is_what_the_loop_can_use(action: str, said: dict[str, Any], decided: list[Any]) -> None:
    job, flow = MemoryJob(), decides()
    await job.run(flow)
    job.answer("send", action, **said)
    await job.run(flow)
    assert job.outputs["result"] == decided


async def test_a_call_that_nobody_decides_on_is_not_made() -> None:
    job, flow = MemoryJob(), decides(expires_in=60, on_timeout=OnTimeout(do="branch"))
    await job.run(flow)
    job.clock.advance(60)
    await job.run(flow)
    assert job.outputs["result"][:2] == ["timeout", False]


async def test_arguments_have_a_type_that_edited_ones_keep() -> None:
    async def body(ctx: Context) -> str:
        decision: ToolDecision[Mail] = await ctx.approve_tool("send", Mail("ann", "Hello"), schema=Mail)
        return repr(decision.arguments)

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    rule = job.open_request("send").proposal_schema
    assert rule is not None
    assert set(rule["properties"]["arguments"]["properties"]) == {"to", "body"}
    job.answer("send", "edit", proposal={"name": "send", "arguments": {"to": "bob", "body": "Hi"}})
    await job.run(flow)
    assert job.outputs["result"] == "Mail(to='bob', body='Hi')"


async def test_edited_arguments_that_are_none_are_asked_for_again() -> None:
    """As a request that was answered under an older type, or by hand."""
    job, flow = MemoryJob(), decides(Mail("ann", "Hello"), schema=Mail)
    await job.run(flow)
    job.answer("send", "edit", proposal={"name": "send", "arguments": {"to": 5}})
    await job.run(flow)
    assert [e.pointer for e in job.open_request("send").errors] == ["", "/proposal/arguments"]


async def test_definitions_of_a_schema_move_to_the_root() -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "integer"}}}
    job = MemoryJob()
    await job.run(decides({"x": 1}, schema=schema))
    rule = job.open_request("send").proposal_schema
    assert rule is not None
    assert rule["$defs"] == {"x": {"type": "integer"}}
    assert rule["properties"]["arguments"]["properties"] == {"x": {"$ref": "#/$defs/x"}}


@pytest.mark.parametrize(
    ("asking", "pointer"),
    [
        ({"actions": ["approve", "later"]}, "/actions/1"),
        ({"editable": [], "actions": ["edit"]}, "/actions/0"),
        ({"schema": {"properties": {"to": {"type": "number"}}}}, "/proposal/arguments/to"),
    ],
)
async def test_a_call_that_cannot_be_decided_on_is_refused(asking: dict[str, Any], pointer: str) -> None:
    async def body(ctx: Context) -> Any:
        with pytest.raises(Invalid) as caught:
            await ctx.approve_tool("send", ARGUMENTS, **asking)
        return [fault.pointer for fault in caught.value.faults]

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    assert job.outputs["result"] == [pointer]
    assert job.events(ev.InputRequested) == []


async def test_nothing_editable_means_no_action_edit() -> None:
    job = MemoryJob()
    await job.run(decides(editable=[]))
    assert [a.id for a in job.open_request("send").actions] == ["approve", "reject", "respond"]
