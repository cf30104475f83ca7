"""A gateway with Langflow's API, a client of that API, flows, and runners by hand."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import aiohttp
import pytest
from tests.integration.gateway.conftest import (
    Answer,
    Gateway,
    StartGateway,
    key,
    project,
    start_gateway,
)

from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.langflow import keys
from perdure.db import served
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Queue, Tenant
from perdure.seal import MasterKeys
from perdure.testing.hand import Hand

__all__ = ["key", "project", "start_gateway"]  # fixtures of the gateway's tests

MASTER: Final = "k1:" + "A" * 43 + "="
ECHO: Final[dict[str, Any]] = {
    "format": "perdure.graph/1",
    "name": "lf-echo",
    "nodes": [
        {"id": "brief", "component": "chat_input", "inputs": {"default": "stored"}},
        {"id": "out", "component": "chat_output"},
    ],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}
TWO: Final[dict[str, Any]] = {
    "format": "perdure.graph/1",
    "name": "lf-two",
    "nodes": [
        {"id": "brief", "component": "chat_input"},
        {"id": "one", "component": "text_output"},
        {"id": "two", "component": "text_output"},
    ],
    "edges": [
        {"from": "brief.text", "to": "one.text"},
        {"from": "brief.text", "to": "two.text"},
    ],
}
OPTIONS: Final = (ev.Action(id="approve", label="Approve"), ev.Action(id="reject", label="Reject"))


class Waiting(NamedTuple):
    """A call under way, named after its idempotency key, and its job."""

    call: "asyncio.Task[Answer]"
    hand: Hand


class Api:
    """Langflow's API, called as its clients call it."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        self.gateway, self.key = gateway, key
        self.flows: dict[str, str] = {}

    def using(self, key: str) -> "Api":
        """The same by another key."""
        other = Api(self.gateway, key)
        other.flows = self.flows
        return other

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One call with the key in its header."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"x-api-key": self.key, "Authorization": ""} | sent
        return await self.gateway.client.call(method, path, body, headers=sent)

    async def run(self, flow: str = "lf-echo", _headers: dict[str, str] | None = None, **members: Any) -> Answer:
        """`POST /api/v2/workflows` of a flow by its name here."""
        body = {"flow_id": self.flows.get(flow, flow)} | members
        return await self.call("POST", "/api/v2/workflows", body, **(_headers or {}))

    async def background(self, flow: str = "lf-echo", **members: Any) -> Hand:
        """Run in the background; the job's runner by hand, before it started."""
        answer = await self.run(flow, mode="background", **({"input_value": "hello"} | members))
        assert answer.status == 200, answer.raw
        return self.hand(answer.body["job_id"])

    def hand(self, job: str) -> Hand:
        """The runner by hand of a job."""
        return self.gateway.hand(job)

    async def waiting(self, flow: str = "lf-echo", **members: Any) -> "Waiting":
        """A call that waits (sync, stream), and the runner by hand of its job."""
        key = uuid.uuid4().hex
        job = keys.job_id(self.gateway.tenant, Principal("user:ann"), key, 0)
        call = asyncio.create_task(self.run(flow, {"Idempotency-Key": key}, **members), name=key)
        hand = self.hand(job)
        async with asyncio.timeout(20):
            while not call.done() and not hand.log.state.exists:
                await hand.log.refresh()
                await asyncio.sleep(0.005)
        return Waiting(call, hand)

    async def status(self, job: str) -> Answer:
        """`GET /api/v2/workflows?job_id=`."""
        return await self.call("GET", f"/api/v2/workflows?job_id={job}")

    async def stop(self, job: str) -> Answer:
        """`POST …/stop`."""
        return await self.call("POST", "/api/v2/workflows/stop", {"job_id": job})

    async def pending(self, query: str = "") -> Answer:
        """`GET …/pending`."""
        return await self.call("GET", f"/api/v2/workflows/pending{query}")

    async def resume(self, job: str, request: str, action: Any = "approve", **decision: Any) -> Answer:
        """`POST …/resume`; without an action no decision is sent."""
        body: dict[str, Any] = {"request_id": request}
        if action is not None:
            body["decision"] = {"action_id": action, **decision}
        return await self.call("POST", f"/api/v2/workflows/{job}/resume", body)

    async def upload(self, content: Any) -> Answer:
        """`POST /api/v1/flows/upload/` of a file."""
        form = aiohttp.FormData()
        form.add_field("file", json.dumps(content), filename="flows.json", content_type="application/json")
        url = f"{self.gateway.client.url}/api/v1/flows/upload/"
        async with self.gateway.client._session.post(url, data=form, headers={"x-api-key": self.key}) as response:
            return Answer(response.status, response.headers, await response.read())

    async def events(self, job: str, query: str = "", **headers: str) -> str:
        """The stream of a job, to its end."""
        answer = await self.call("GET", f"/api/v2/workflows/{job}/events{query}", **headers)
        assert answer.status == 200, answer.raw
        return str(answer.raw.decode())


async def echoed(hand: Hand, text: str = "hello") -> None:
    """Run `lf-echo` as a runner would."""
    await hand.start()
    await step(hand, "brief", text)
    await step(hand, "out", text, output=ev.Named(name="out", kind="message"), component="chat_output")
    await hand.complete(out=text)


async def step(hand: Hand, name: str, result: Any, *, path: str | None = None, **members: Any) -> None:
    """`step.completed` of a graph's node; of a component of a Langflow flow with the path ""."""
    now = hand.log._clock.broker_now()
    given: dict[str, Any] = {"started_at": now, "duration_seconds": 0.25} | members
    where = f"/{name}" if path is None else path
    await hand.add(ev.StepCompletedData(step=name, occurrence=1, path=where, result=result, **given))


async def fail(hand: Hand, message: str = "boom", **members: Any) -> None:
    """`job.failed` at the node `out`."""
    await hand.log.refresh()
    fingerprint = hand.log.state.fingerprint
    assert fingerprint is not None
    error = ev.Failure(**({"code": "EXECUTION_ERROR", "message": message, "step": "out"} | members))
    await hand.add(ev.FailedData(error=error, failures=1, fingerprint=fingerprint))


async def ask(hand: Hand, **members: Any) -> str:
    """`input.requested` as Langflow's engine asks it: the id that its clients know."""
    name = members.pop("name", "HumanInput-g1")
    external = f"{name}:{hand.ref.job}"
    await hand.ask(name=name, actions=OPTIONS, message="ship it?", external_ids={"langflow": external}, **members)
    return external


async def suspend(hand: Hand) -> None:
    """`job.suspended` for everything that is asked, `resume: all`."""
    await hand.log.refresh()
    waiting = tuple(ev.Waiting(kind="input", name=r.name, request_id=r.id) for r in hand.log.state.asked.values())
    await hand.add(ev.SuspendedData(waiting=waiting, resume="all"))


def component(name: str, kind: str, title: str, *fields: str) -> dict[str, Any]:
    """A node of a Langflow flow."""
    template: dict[str, Any] = {field: {"type": "str", "value": ""} for field in fields} | {"code": {"type": "code"}}
    inner = {"display_name": title, "template": template, "outputs": [{"name": "message", "types": ["Message"]}]}
    return {"id": name, "type": "genericNode", "data": {"id": name, "type": kind, "node": inner}}


AGENT: Final[dict[str, Any]] = {
    "nodes": [
        component("ChatInput-1", "ChatInput", "Chat Input", "input_value"),
        component("Agent-1", "Agent", "Agent", "model", "api_key"),
        component("ChatOutput-1", "ChatOutput", "Chat Output", "input_value"),
    ],
    "edges": [
        {"source": "ChatInput-1", "target": "Agent-1"},
        {"source": "Agent-1", "target": "ChatOutput-1"},
    ],
}


@pytest.fixture
async def unserved(bare: Api) -> Api:
    """The API of a gateway with the Langflow flow `agent`, which no runner executes."""
    answer = await bare.call("POST", "/api/v1/flows/", {"name": "agent", "data": AGENT})
    assert answer.status == 201, answer.raw
    bare.flows["agent"] = answer.body["id"]
    return bare


@pytest.fixture
async def langflows(unserved: Api, database: Database) -> Api:
    """The same, where a runner has said that it executes such flows."""
    async with database.transaction() as conn:
        await served.note(conn, [Queue("default")], "langflow", SystemClock().broker_now())
    return unserved


@pytest.fixture
async def bare(start_gateway: StartGateway, key: str) -> Api:
    """The API of a gateway without flows."""
    return Api(await start_gateway(master_keys=MasterKeys(MASTER)), key)


@pytest.fixture
async def api(bare: Api) -> Api:
    """The API of a gateway with the graph flows of this folder."""
    for definition in (ECHO, TWO):
        body = {"name": definition["name"], "definition": definition}
        answer = await bare.gateway.client.post("/api/flows", body)
        assert answer.status == 201, answer.raw
        bare.flows[definition["name"]] = answer.body["id"]
    return bare


Somebody = Callable[..., Awaitable[Api]]


@pytest.fixture
def somebody(bare: Api, database: Database) -> Somebody:
    """`await somebody("bob", "read")`: the API by a key of user:bob of this tenant, narrowed to the scopes."""

    async def somebody(name: str, *scopes: str) -> Api:
        now = SystemClock().broker_now()
        async with database.transaction() as conn:
            key = await create_key(conn, bare.gateway.tenant, Principal(f"user:{name}"), now=now, scopes=scopes)
        return bare.using(key)

    return somebody


@pytest.fixture
async def stranger(bare: Api, database: Database) -> Api:
    """The same gateway by a key of another tenant."""
    tenant, now = Tenant(f"t{uuid.uuid4().hex[:12]}"), SystemClock().broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=now)
        key = await create_key(conn, tenant, Principal("user:eve"), now=now)
    return bare.using(key)
