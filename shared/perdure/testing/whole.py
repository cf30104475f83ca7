"""A whole Perdure for a test: the environment of `perdure up`, a client of a running one, and its main job."""

import os
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from perdure.client import Client, Frame
from perdure.local.launch import UpProcess
from perdure.testing.chatmodel import ChatModel

RETRY_SECONDS = 60.0


def environment(model: ChatModel, **settings: str) -> dict[str, str]:
    """The caller's environment without PERDURE_*, with `model` as the model and `settings` (`slots="8"`) on top."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
    mine = {"model_url": model.url, "model_key": "local", "model_name": "local", **settings}
    return kept | {f"PERDURE_{name.upper()}": value for name, value in mine.items()}


def client_of(running: UpProcess) -> Client:
    """A client with the first key of a running `up`; it outlasts the restart of any process there."""
    found = running.client
    assert found.key is not None
    return Client(found.url, found.key, retry_seconds=RETRY_SECONDS)


async def submit(
    client: Client, definition: Mapping[str, Any], value: Any, key: str | None = None
) -> str:  # Any: user's
    """Publish `definition` (again changes nothing) and submit a job of it; the job's id."""
    flow = await client.push_flow(definition["name"], dict(definition))
    return (await client.submit(flow.name, value, idempotency_key=key)).id


async def events(client: Client, job: str, after: int = 0, until: str | None = None) -> list[Frame]:
    """The job's events after `after`, up to its end or `until`."""
    async with aclosing(client.events(job, after=after, until=until, deltas=False).frames()) as frames:
        return [frame async for frame in frames]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not. Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
