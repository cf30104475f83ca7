"""The examples with people in them on `perdure up`: real processes, keys of several users, groups, the inbox."""

import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.client.records import HumanRequest
from perdure.errors import Forbidden, Invalid
from perdure.local.launch import launched
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel

ROOT = Path(__file__).resolve().parents[2]
TASK = """send_mail {"to": "ann@example.com", "text": "Hello"}
refund {"order": 9, "amount": 120}
refund {"order": 8, "amount": 1}"""


async def requested(client: Client, job: str, number: int = 1) -> HumanRequest:
    """The `number`-th request that the job makes; waits for it."""
    async with aclosing(client.events(job, types=["input.requested"], deltas=False).frames()) as frames:
        async for frame in frames:
            request = json.loads(frame.data)["data"]["request"]
            number -= request["revision"] == 1
            if number == 0:
                return await client.request(request["id"])
    raise AssertionError("the job ended before it asked")


async def test_the_examples_run_with_people(tmp_path: Path, environ: dict[str, str], model: ChatModel) -> None:
    app = environ | {"PYTHONPATH": f"{ROOT / 'examples'}:{environ.get('PYTHONPATH', '')}"}
    modules = ("--app", "expense_approval", "--app", "agent_with_approval")
    async with (
        launched(tmp_path / "data", *modules, environ=app, log=tmp_path / "up.log") as up,
        whole.client_of(up) as owner,
    ):
        await _the_agent(owner, model)
        keys = [
            await owner.create_key(user, scopes=["read", "values", "answer"], user=user)
            for user in ("bob", "zoe", "eve")
        ]
        for user in ("bob", "zoe"):
            await owner.add_to_group("finance", f"user:{user}")
        async with AsyncExitStack() as stack:
            people = [await stack.enter_async_context(Client(up.client.url, key.secret)) for key in keys]
            await _the_expense(owner, *people)


async def _the_agent(client: Client, model: ChatModel) -> None:
    job = await client.submit("agent", TASK)
    first = await requested(client, job.id)
    assert (first.kind, first.proposal["name"]) == ("tool_call", "send_mail")
    await client.answer(first, "approve")
    second = await requested(client, job.id, 2)
    with pytest.raises(Invalid):
        await client.answer(second, "edit", proposal={"name": "other", "arguments": {}})
    await client.answer(second, "edit", proposal={"name": "refund", "arguments": {"order": 9, "amount": 100}})
    await client.answer(await requested(client, job.id, 3), "reject", comment="No.")
    await whole.events(client, job.id)
    done = await client.job(job.id)
    assert done.status == "completed"
    assert done.outputs is not None
    said = done.outputs["result"]
    for words in (
        "sent to ann@example.com: Hello",
        "refunded 100.00 for order 9",
        "rejected by a person and not made. No.",
    ):
        assert words in said
    assert len(model.calls) == 4


async def _the_expense(owner: Client, bob: Client, zoe: Client, eve: Client) -> None:
    job = await owner.submit("expense", {"employee": "ann", "purpose": "Train", "amount": 480})
    request = (await requested(owner, job.id)).id
    for_bob = await bob.request(request)
    assert for_bob.quorum is not None
    with pytest.raises(Invalid):
        await bob.answer(for_bob, "approve", payload={"cost_centre": "yachts"})
    with pytest.raises(Forbidden):
        await eve.answer(await eve.request(request), "approve", payload={"cost_centre": "travel"})
    voted = await bob.answer(for_bob, "approve", payload={"cost_centre": "travel"})
    assert voted.request.status == "pending"
    decided = await zoe.answer(await zoe.request(request), "approve", payload={"cost_centre": "travel"})
    assert decided.request.status == "answered"
    await whole.events(owner, job.id)
    done = await owner.job(job.id)
    assert done.outputs is not None
    assert done.outputs["result"] == {
        "status": "paid",
        "amount": 480,
        "cost_centre": "travel",
        "approved_by": ["user:bob", "user:zoe"],
        "reason": None,
    }
