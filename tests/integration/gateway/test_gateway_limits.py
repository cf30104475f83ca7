"""What keeps the gateway and the logs alive: rates, connections, broken HTTP, full streams, origins."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from perdure_gateway import fullness
from perdure_gateway.front import Gate

Gateway = Any  # the conftest's
StartGateway = Callable[..., Awaitable[Any]]


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(rate_per_minute=3)
    answers = [await gateway.client.get("/api/whoami") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert answers[0].headers["RateLimit"].startswith('"default";r=2;t=')
    assert answers[3].body["code"] == "rate-limited"
    assert int(answers[3].headers["Retry-After"]) > 0
    assert (await gateway.client.get("/livez")).status == 200  # health is nobody's


async def test_only_named_origins_may_read(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(origins=("https://app.example",))
    asks = {"Access-Control-Request-Method": "POST", "Authorization": ""}
    allowed = await gateway.client.call("OPTIONS", "/api/jobs", headers=asks | {"Origin": "https://app.example"})
    assert (allowed.status, allowed.headers["Access-Control-Max-Age"]) == (204, "600")
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "idempotency-key" in allowed.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    for origin in ("https://evil.example", "https://app.example.evil.example", "null", "http://app.example"):
        refused = await gateway.client.call("OPTIONS", "/api/jobs", headers=asks | {"Origin": origin})
        assert refused.status == 405
        read = await gateway.client.get("/api/whoami", Origin=origin)
        assert "Access-Control-Allow-Origin" not in read.headers
        assert read.headers["Vary"] == "Origin"
    read = await gateway.client.get("/api/whoami", Origin="https://app.example")
    assert read.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "idempotency-replayed" in read.headers["Access-Control-Expose-Headers"]


async def test_no_origin_may_read_unless_it_is_named(gateway: Gateway) -> None:
    read = await gateway.client.get("/api/whoami", Origin="https://app.example")
    assert not [name for name in read.headers if name.lower().startswith("access-control")]


async def raw(gateway: Gateway, data: bytes) -> bytes:
    url = URL(gateway.client.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",
        b"GET / SMTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /canary-4711 HTTP/1.1\r\nHost: x\r\nBad Header: canary-4711\r\n\r\n",
        b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_as_a_problem(gateway: Gateway, data: bytes) -> None:
    answer = await raw(gateway, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") or head.startswith(b"HTTP/1.0 400 "), head
    assert b"application/problem+json" in head
    assert msgspec.json.decode(body)["code"] == "invalid-request"
    assert b"canary" not in answer
    assert b"aiohttp" not in answer.lower()
    assert (await gateway.client.get("/livez")).status == 200


async def test_connections_beyond_the_gate_are_dropped_and_come_back(
    start_gateway: StartGateway, eventually: Callable[..., Awaitable[None]]
) -> None:
    gate = Gate(in_all=2)
    gateway = await start_gateway(gate=gate)
    url = URL(gateway.client.url)
    held = [await asyncio.open_connection(url.host, url.port) for _ in range(2)]
    await eventually(lambda: gate.open == 2)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await gateway.client.get("/livez")
    for _, writer in held:
        writer.close()
    await eventually(lambda: gate.open == 0)
    assert (await gateway.client.get("/livez")).status == 200


async def test_new_jobs_are_refused_before_the_logs_are_full(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key="k")
    hand = gateway.hand(before.body["id"])
    monkeypatch.setattr(fullness, "REFUSE_RATIO", 0.0)
    refused = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"})
    assert (refused.status, refused.body["code"], refused.headers["Retry-After"]) == (503, "unavailable", "30")
    same = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key="k")
    assert (same.status, same.headers["Idempotency-Replayed"]) == (202, "true")
    await hand.start()  # what runs goes on
    await hand.complete()
