"""Langflow's API over everything: `perdure up` with a runner of Langflow flows, and an HTTP client."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.langflow import flowfiles

from perdure.clock import SystemClock
from perdure.local.launch import UpProcess, launched


@asynccontextmanager
async def up(folder: Path) -> AsyncIterator[tuple[UpProcess, aiohttp.ClientSession]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
    environ = kept | {"PERDURE_LANGFLOW": "true", "PERDURE_LANGFLOW_AHEAD": "1", "PERDURE_LEASE_SECONDS": "2"}
    async with launched(folder / "data", environ=environ, log=folder / "up.log") as running:
        client = running.client
        assert client is not None
        headers = {"x-api-key": str(client.key), "Authorization": f"Bearer {client.key}"}
        async with aiohttp.ClientSession(client.url, headers=headers) as http:
            yield running, http


async def call(http: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    async with http.request(method, path, json=body) as answer:
        return answer.status, json.loads(await answer.text())


async def uploaded(http: aiohttp.ClientSession, name: str) -> str:
    status, flow = await call(http, "POST", "/api/v1/flows/", flowfiles.flows(seconds=0.2)[name])
    assert status == 201, flow
    return str(flow["id"])


async def finished(http: aiohttp.ClientSession, job: str) -> dict[str, Any]:
    while True:
        status, found = await call(http, "GET", f"/api/v2/workflows?job_id={job}")
        assert status == 200, found
        if found["status"] not in ("queued", "in_progress", "suspended"):
            return dict(found)
        await SystemClock().sleep(0.1)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_client_of_langflow_runs_its_flows_and_answers_their_gates(tmp_path: Path) -> None:
    async with up(tmp_path) as (running, http):
        echo = await uploaded(http, "echo")
        status, done = await call(http, "POST", "/api/v2/workflows", {"flow_id": echo, "input_value": "hi"})
        assert (status, done["status"]) == (200, "completed"), done
        assert done["output"] == {"reason": "single", "text": "hi", "source": "ChatOutput-out01"}
        assert done["outputs"]["ChatOutput-out01"]["content"] == "hi"

        body: dict[str, Any] = {"flow_id": await uploaded(http, "hitl_minimal"), "input_value": "ship it?"}
        status, asked = await call(http, "POST", "/api/v2/workflows", body)
        assert (status, asked["status"]) == (200, "suspended"), asked
        job, request = asked["job_id"], asked["human_request"]
        assert request["request_id"] == f"HumanInput-gate1:{job}"
        assert (request["prompt"], request["allowed_decisions"]) == ("ship it?", ["approve", "reject"])
        running.kill("runner-1")
        decision = {"request_id": request["request_id"], "decision": {"action_id": "approve", "values": {}}}
        status, resumed = await call(http, "POST", f"/api/v2/workflows/{job}/resume", decision)
        assert (status, resumed["status"]) == (200, "resuming"), resumed
        done = await finished(http, job)
        assert (done["status"], done["output"]["text"]) == ("completed", "ship it?")

        body = {
            "flow_id": await uploaded(http, "router"),
            "input_value": "maybe",
            "mode": "background",
            "tweaks": {"match_text": "maybe"},
        }
        status, queued = await call(http, "POST", "/api/v2/workflows", body)
        assert status == 200, queued
        assert list((await finished(http, queued["job_id"]))["outputs"]) == ["ChatOutput-yes01"]

        body = {"flow_id": await uploaded(http, "secret_after_gate"), "globals": {"MY_KEY": "canary"}}
        status, asked = await call(http, "POST", "/api/v2/workflows", body)
        assert (status, asked["status"]) == (200, "suspended"), asked
        decision = {"request_id": asked["human_request"]["request_id"], "decision": {"action_id": "approve"}}
        await call(http, "POST", f"/api/v2/workflows/{asked['job_id']}/resume", decision)
        assert (await finished(http, asked["job_id"]))["output"]["text"].endswith(":**********")

        body = {"flow_id": await uploaded(http, "failing"), "input_value": "x", "mode": "background"}
        status, queued = await call(http, "POST", "/api/v2/workflows", body)
        assert status == 200, queued
        failed = await finished(http, queued["job_id"])
        assert (failed["status"], failed["errors"][0]["error"]) == ("failed", "boom")
        assert failed["errors"][0]["details"]["component_id"] == "Sleeper-bad01"

        stream = {"flow_id": echo, "input_value": "hi", "mode": "stream"}
        async with http.post("/api/v2/workflows", json=stream) as answer:
            assert answer.status == 200
            lines = [line for line in (await answer.text()).splitlines() if line.startswith("data: ")]
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
        told = [e["event"] for e in events if e["event"] != "build_start" or not e["data"]]  # those with an id are live
        assert told == [
            "vertices_sorted",
            "build_start",
            "add_message",
            "end_vertex",
            "add_message",
            "end_vertex",
            "output",
            "end",
        ]
        assert await running.stop() == 0


@pytest.mark.asyncio(loop_scope="function")
async def test_086_the_memory_of_a_session_is_seen_by_its_next_run_and_by_no_other(tmp_path: Path) -> None:
    flow = flowfiles.custom(
        "said = await aget_messages(session_id=self.graph.session_id, order='ASC')\n"
        "text = '|'.join(f'{m.sender}:{m.text}' for m in said)",
        "from lfx.memory import aget_messages",
    )
    async with up(tmp_path) as (running, http):
        status, stored = await call(http, "POST", "/api/v1/flows/", flow)
        assert status == 201, stored

        async def said(text: str, session: str | None) -> str:
            body = {"flow_id": stored["id"], "input_value": text, "session_id": session}
            status, done = await call(http, "POST", "/api/v2/workflows", body)
            assert (status, done.get("status")) == (200, "completed"), done
            while done["job_id"] not in str(await call(http, "GET", "/api/jobs?status=completed")):
                await SystemClock().sleep(0.05)  # the projection is what the next run is found in
            return str(done["output"]["text"])

        first = await said("one", "s")
        assert first == "User:one"
        assert await said("two", "s") == f"User:one|Machine:{first}|User:two"
        assert await said("three", "other") == "User:three"
        assert await said("four", None) == "User:four"
        assert await said("five", None) == "User:four|Machine:User:four|User:five"
        assert await running.stop() == 0
