"""The main job seen by clients that use none of our code: plain HTTP, and any NATS client."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import nats

from perdure.cli.examples import example
from perdure.local.launch import UpProcess

Eventually = Callable[..., Awaitable[None]]
Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
FLOW = example("content_approval")


async def frames(http: aiohttp.ClientSession, job: str, headers: dict[str, str] | None = None) -> AsyncIterator[Any]:
    """The log events of an SSE stream, parsed by hand: (id, data)."""
    headers = {"Accept": "text/event-stream", **(headers or {})}
    async with http.get(f"/api/jobs/{job}/events", headers=headers) as answer:
        assert answer.status == 200
        number = kind = ""
        async for raw in answer.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("id: "):
                number = line.removeprefix("id: ")
            elif line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and not kind.startswith(("delta.", "stream.")):
                yield int(number), line.removeprefix("data: ")
            elif not line:
                number = kind = ""


def session(data: Path) -> aiohttp.ClientSession:
    client = json.loads((data / "client.json").read_text())
    return aiohttp.ClientSession(client["url"], headers={"Authorization": f"Bearer {client['key']}"})


async def test_plain_http_is_enough_and_everything_is_there_after_sigkill_of_the_whole(up: Up, tmp_path: Path) -> None:
    """Submit, follow from 0, leave, come back in the middle, answer, see the end; read it again after a kill."""
    seen: list[tuple[int, str]] = []
    async with up() as running:
        async with session(tmp_path / "data") as http:
            body = {"name": "content_approval", "kind": "graph", "definition": FLOW}
            async with http.post("/api/flows", json=body) as answer:
                assert answer.status == 201
            body = {"flow": "content_approval", "input": "a text from outside"}
            async with http.post("/api/jobs", json=body, headers={"Idempotency-Key": "once"}) as answer:
                assert answer.status == 202
                job = (await answer.json())["id"]
            async for number, data in frames(http, job):
                seen.append((number, data))
                if number == 2:
                    break  # the connection is dropped in the middle
            async for number, data in frames(http, job, {"Last-Event-ID": "2"}):
                seen.append((number, data))
                if json.loads(data)["type"] == "job.suspended":
                    break
            async with http.get(f"/api/jobs/{job}/requests") as answer:
                (request,) = (await answer.json())["data"]
            said = {"action": "approve", "proposal_digest": request["proposal_digest"]}
            async with http.post(f"/api/inbox/{request['id']}/answer", json=said) as answer:
                assert answer.status == 200
            async for number, data in frames(http, job, {"Last-Event-ID": str(seen[-1][0])}):
                seen.append((number, data))
        running.process.kill()
        await running.process.wait()
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert json.loads(seen[-1][1])["type"] == "job.completed"
    async with up(), session(tmp_path / "data") as http:
        async with http.get(f"/api/jobs/{job}") as answer:
            again = await answer.json()
        assert again["status"] == "completed"
        assert "a text from outside" in again["outputs"]["post"]
        assert [frame async for frame in frames(http, job)] == seen
        async with http.post("/api/jobs", json=body, headers={"Idempotency-Key": "once"}) as answer:
            assert (answer.status, (await answer.json())["id"]) == (200, job)


async def test_any_nats_client_sees_the_events_of_a_job_and_nothing_of_the_broker(
    up: Up, tmp_path: Path, eventually: Eventually
) -> None:
    async with up(), session(tmp_path / "data") as http:
        broker = json.loads((tmp_path / "data" / "nats.json").read_text())
        refused: list[Exception] = []

        async def complain(exc: Exception) -> None:
            refused.append(exc)

        nc = await nats.connect(
            broker["url"],
            user=broker["user"],
            password=broker["password"],
            inbox_prefix=broker["inbox_prefix"],
            error_cb=complain,
        )
        try:
            heard = await nc.subscribe("job.main.*.event")
            await nc.flush()
            async with http.post("/api/flows", json={"name": "content_approval", "kind": "graph", "definition": FLOW}):
                pass
            async with http.post("/api/jobs", json={"flow": "content_approval", "input": "hi"}) as answer:
                job = (await answer.json())["id"]
            live: list[dict[str, Any]] = []
            while not live or live[-1]["type"] != "job.suspended":
                message = await heard.next_msg(timeout=30)
                assert message.subject == f"job.main.{job}.event"
                assert message.headers is not None
                assert int(message.headers["Nats-Sequence"]) > 0
                live.append(json.loads(message.data))
            assert [event["seq"] for event in live] == list(range(1, len(live) + 1))
            for subject in (f"ev.0.main.{job}", "$JS.API.STREAM.DELETE.EV_0", f"work.default.normal.{job}"):
                before = len(refused)
                await nc.publish(subject, b"{}")
                await eventually(lambda before=before: len(refused) > before)  # the broker says so by itself
            async with http.get(f"/api/jobs/{job}") as answer:
                assert (await answer.json())["seq"] == len(live)
        finally:
            await nc.close()
