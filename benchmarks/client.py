"""What a client does, over HTTP."""

import uuid
from typing import Any, Final

import aiohttp

IN_FLIGHT: Final = 128


async def submit(http: aiohttp.ClientSession, flow: str, given: Any = None) -> str:
    """Submit as a client does, key and all; the job's id."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    async with http.post("/api/jobs", json={"flow": flow, "input": given}, headers=headers) as answer:
        if answer.status != 202:
            raise RuntimeError(f"submit: {answer.status} {await answer.text()}")
        return str((await answer.json())["id"])
