"""What every call passes through: credentials, strict bodies, bounded reading, problems, headers. Hostile."""

import asyncio
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from yarl import URL

from perdure.db.engine import Database
from perdure.db.principals import create_key, key_id, new_key, revoke_key
from perdure.ids import Principal
from perdure_gateway import bodies, policy
from perdure_gateway.keys import KEYS

Gateway = Any  # the conftest's
GOLDEN = Path(__file__).parents[2] / "golden" / "problems.json"
MIB = 1024 * 1024


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


# ---------------------------------------------------------------------------------------------- credentials


@pytest.mark.parametrize(
    "make",
    [
        lambda key: "",
        lambda key: key,
        lambda key: f"Basic {key}",
        lambda key: "Bearer",
        lambda key: f"Bearer {key}x",
        lambda key: f"Bearer {key[:-1]}",
        lambda key: f"Bearer {key} {key}",
        lambda key: f"Bearer {key[:-1]}{'A' if key[-1] != 'A' else 'B'}",
        lambda key: f"Bearer {new_key()}",
        lambda key: f"Bearer {key.upper()}",
        lambda key: "Bearer pdr_' OR 1=1--",
    ],
)
async def test_without_a_good_key_nothing_is_told(gateway: Gateway, make: Callable[[str], str]) -> None:
    hand = await gateway.submit()
    for path in ("/api/jobs", "/api/whoami", f"/api/jobs/{hand.ref.job}", f"/api/jobs/{hand.ref.job}/events"):
        refused = await gateway.client.call("GET", path, headers={"Authorization": make(gateway.client.key)})
        assert (refused.status, refused.body["code"]) == (401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="perdure"'


async def test_a_key_works_in_the_header_alone(gateway: Gateway) -> None:
    key = gateway.client.key
    for path, headers in (
        (f"/api/whoami?x-api-key={key}", {"Authorization": ""}),
        ("/api/whoami", {"Authorization": "", "x-api-key": key}),
        ("/api/whoami", {"Authorization": "", "Cookie": f"key={key}"}),
    ):
        assert (await gateway.client.call("GET", path, headers=headers)).status == 401
    assert (await gateway.client.call("GET", "/api/whoami", headers={"Authorization": f"bearer {key}"})).status == 200


async def test_a_key_that_was_revoked_or_has_expired_is_no_key(gateway: Gateway, database: Database) -> None:
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        expired = await create_key(conn, gateway.tenant, Principal("user:ann"), now=now, expires_at=now)
        revoked = await create_key(conn, gateway.tenant, Principal("user:ann"), now=now)
        own = key_id(revoked)
        assert own is not None
        await revoke_key(conn, gateway.tenant, own, now)
    for key in (expired, revoked):
        gateway.client.key = key
        assert (await gateway.client.get("/api/whoami")).status == 401


async def test_scopes_only_narrow(gateway: Gateway, database: Database) -> None:
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        reader = await create_key(conn, gateway.tenant, Principal("service:eye"), now=now, scopes=["read"])
    hand = await gateway.submit()
    gateway.client.key = reader
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).status == 200
    whoami = (await gateway.client.get("/api/whoami")).body
    assert (whoami["principal"], whoami["scopes"], whoami["tenant"]) == ("service:eye", ["read"], gateway.tenant)
    for method, path, body in (
        ("POST", "/api/jobs", {"flow": "echo", "input": "x"}),
        ("POST", f"/api/jobs/{hand.ref.job}/cancel", {}),
        ("POST", f"/api/inbox/{hand.ref.job}_3/answer", {"action": "approve"}),
        ("POST", "/api/flows", {}),
    ):
        refused = await gateway.client.call(method, path, body)
        assert (refused.status, refused.body["code"]) == (403, "forbidden"), path


async def test_health_needs_no_key_by_its_route_not_by_its_name(gateway: Gateway) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        assert (await gateway.client.call("GET", path, headers={"Authorization": ""})).status == 200
    for path in ("/api/flows/livez", "/api/flows/health", "/api/jobs?livez"):
        assert (await gateway.client.call("GET", path, headers={"Authorization": ""})).status == 401


def test_a_route_without_a_policy_stops_the_start() -> None:
    async def stranger(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/api/new", stranger)
    with pytest.raises(policy.Undeclared, match="/api/new"):
        policy.check(app)


# ---------------------------------------------------------------------------------------------- bodies


def nested(depth: int) -> bytes:
    return b'{"flow":"echo","input":' + b"[" * depth + b"]" * depth + b"}"


BAD_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "cut": b'{"flow":"echo"',
    "two values": b'{"flow":"echo"}{}',
    "comment": b'{"flow":"echo"}//',
    "doubled name": b'{"flow":"echo","input":{"a":1,"a":1}}',
    "NaN": b'{"flow":"echo","input":NaN}',
    "Infinity": b'{"flow":"echo","input":[-Infinity]}',
    "1e400": b'{"flow":"echo","input":1e400}',
    "too large an integer": b'{"flow":"echo","input":9223372036854775808}',
    "an integer of 5000 digits": b'{"flow":"echo","input":' + b"9" * 5000 + b"}",
    "hexadecimal": b'{"flow":"echo","input":0x10}',
    "half a pair": b'{"flow":"echo","input":"\\ud800"}',
    "half a pair in a name": b'{"flow":"echo","input":{"\\udfff":1}}',
    "U+0000": b'{"flow":"echo","input":"\\u0000"}',
    "byte order mark": b'\xef\xbb\xbf{"flow":"echo"}',
    "UTF-16": '{"flow":"echo"}'.encode("utf-16"),
    "Latin-1": b'{"flow":"echo","input":"\xe9"}',
    "encoded surrogate": b'{"flow":"echo","input":"\xed\xa0\x80"}',
    "65 deep": nested(64),  # the body itself is the first
    "100 000 deep": b"[" * 100_000,
    "1001 members": msgspec.json.encode({str(n): n for n in range(1001)}),
    "100 001 values": b"[" + b"0," * 99_999 + b"0]",
    "single quotes": b"{'flow':'echo'}",
}


@pytest.mark.parametrize("case", BAD_JSON)
async def test_what_is_not_strict_json_is_refused(gateway: Gateway, case: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused = await gateway.client.call("POST", "/api/jobs", raw=BAD_JSON[case], headers=headers)
    assert (refused.status, refused.body["code"]) == (400, "invalid-json"), refused.raw
    assert "position" not in refused.body or isinstance(refused.body["position"], int)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"flow"', b"1", b"true"])
async def test_a_body_is_an_object(gateway: Gateway, body: bytes) -> None:
    refused = await gateway.client.call("POST", "/api/jobs", raw=body, headers={"Content-Type": "application/json"})
    assert (refused.status, refused.body["code"], refused.body["errors"][0]["pointer"]) == (422, "invalid-body", "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 202),
        ({"Content-Type": "application/json; charset=utf-8"}, 202),
        ({"Content-Type": 'Application/JSON;charset="UTF-8"'}, 202),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Type": "application/json, application/json"}, 415),
        ({"Content-Type": "application/json; x=y"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 415),
    ],
)
async def test_a_body_is_plain_json_and_says_so(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    answer = await gateway.client.call("POST", "/api/jobs", raw=b'{"flow":"echo","input":"x"}', headers=headers)
    assert answer.status == status, answer.raw


async def test_a_compressed_body_is_not_even_opened(gateway: Gateway) -> None:
    bomb = gzip.compress(b"[" * 10_000_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = await gateway.client.call("POST", "/api/jobs", raw=bomb, headers=headers)
    assert (refused.status, refused.body["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_mebibyte_is_read_and_one_byte_more_is_not(gateway: Gateway, chunked: bool) -> None:
    def body(size: int) -> bytes:
        start, end = b'{"flow":"echo","input":"', b'"}'
        return start + b"x" * (size - len(start) - len(end)) + end

    async def send(raw: bytes) -> tuple[int, str | None]:
        async def pieces() -> Any:
            for n in range(0, len(raw), 65_536):
                yield raw[n : n + 65_536]

        headers = {"Authorization": f"Bearer {gateway.client.key}", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                gateway.client.url + "/api/jobs", data=pieces() if chunked else io.BytesIO(raw), headers=headers
            ) as response,
        ):
            return response.status, (await response.json(content_type=None)).get("code")

    assert await send(body(MIB)) == (202, None)  # its value lies in a blob
    assert await send(body(MIB + 1)) == (413, "too-large")


async def test_a_body_that_drips_is_cut_off(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.2)
    url = URL(gateway.client.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = ["Host: x", "Content-Type: application/json", "Content-Length: 100"]
    head.append(f"Authorization: Bearer {gateway.client.key}")
    writer.write("\r\n".join(("POST /api/jobs HTTP/1.1", *head, "", '{"flow":')).encode())
    answer = await reader.read()  # to the end: the connection is closed
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body-too-slow"' in answer
    writer.close()


@pytest.mark.parametrize("name", ["", " ", '""', "x" * 256, "é", "a\tb", '"a', 'a"b"'])
async def test_an_idempotency_key_that_is_none_is_refused(gateway: Gateway, name: str) -> None:
    url = URL(gateway.client.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    body = b'{"flow":"echo","input":"x"}'
    head = ["Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    head += [f"Authorization: Bearer {gateway.client.key}", f"Idempotency-Key: {name}"]
    writer.write("\r\n".join(("POST /api/jobs HTTP/1.1", *head, "", "")).encode() + body)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"invalid-header"' in answer
    assert b'"header":"Idempotency-Key"' in answer


# ---------------------------------------------------------------------------------------------- paths and problems

HOSTILE = [
    "*", ">", "a.*", ".", "a..b", "%20", "%00", "%0d%0aPUB%20x%200", "$JS.API.STREAM.DELETE.EV_0", "_INBOX.x",
    "x" * 65, "x" * 5000, "%2e%2e%2f", "..;%2f", "~", "-", "0", "null", "%C3%A9", "%F0%9F%98%80", "__proto__",
    "urn:uuid:01990000-0000-7000-8000-000000000001", "01990000-0000-7000-8000-00000000000A", "%7B%7D", "$SYS.x",
    "')%20OR%201=1--", "ready", "\u202e",
]  # fmt: skip


async def test_names_that_are_none_are_not_there_and_hurt_nobody(gateway: Gateway) -> None:
    for text in HOSTILE:
        for path in (f"/api/jobs/{text}", f"/api/jobs/{text}/events", f"/api/inbox/{text}", f"/api/flows/{text}"):
            answer = await gateway.client.call("GET", path)
            assert answer.status in (400, 404), (path, answer.raw)
        for header in ("X-Request-Id", "Last-Event-ID", "traceparent", "If-None-Match", "Accept"):
            assert (await gateway.client.get("/api/whoami", **{header: text})).status == 200
    assert gateway.service.clock is not None
    hand = await gateway.submit("canary")  # the connection to the broker lives, and so does the rest
    await hand.start()
    await hand.complete()
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).body["status"] == "completed"


async def test_headers_meant_for_the_broker_stay_outside(gateway: Gateway) -> None:
    headers = {"Nats-Rollup": "all", "Nats-Expected-Last-Subject-Sequence": "7", "Nats-Msg-Id": "x"}
    answer = await gateway.client.call("POST", "/api/jobs", {"flow": "echo", "input": "x"}, headers=headers)
    assert answer.status == 202


async def test_every_answer_names_its_request_and_its_api(gateway: Gateway) -> None:
    for path in ("/api/whoami", "/nope", "/livez", "/api/jobs?x=1"):
        answer = await gateway.client.get(path, **{"X-Request-Id": "abc_12.3-x"})
        assert answer.headers["X-Request-Id"] == "abc_12.3-x"
        assert answer.headers["Perdure-Api"] == "1"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
        if answer.status >= 400:
            assert answer.body["http_request_id"] == "abc_12.3-x"
    for bad in ("short", "x" * 65, "a b c d e f", "ünïcödë-id"):
        made = (await gateway.client.get("/api/whoami", **{"X-Request-Id": bad})).headers["X-Request-Id"]
        assert made != bad
        assert len(made) == 36


async def test_another_version_of_the_api_is_refused(gateway: Gateway) -> None:
    assert (await gateway.client.get("/api/whoami", **{"Perdure-Api": "1"})).status == 200
    refused = await gateway.client.get("/api/whoami", **{"Perdure-Api": "2"})
    assert (refused.status, refused.body["code"]) == (400, "unsupported-api")


async def test_a_method_that_is_none_says_which_are(gateway: Gateway) -> None:
    for path, allowed in (("/api/jobs", "GET, POST"), ("/api/flows/echo", "DELETE, GET, PUT"), ("/livez", "GET")):
        for method in {"DELETE", "PATCH", "HEAD"} - set(allowed.split(", ")):
            refused = await gateway.client.call(method, path)
            assert (refused.status, refused.headers["Allow"]) == (405, allowed)


async def test_an_error_of_ours_tells_nothing_of_it(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret of the machine")

    monkeypatch.setattr(gateway.app[KEYS], "caller", broken)
    answer = await gateway.client.get("/api/whoami")
    assert (answer.status, answer.body["code"]) == (500, "internal")
    assert b"secret" not in answer.raw


async def test_problems_look_as_they_always_did(gateway: Gateway) -> None:
    """The golden file is the contract: a change of it is a change for every client."""
    hand = await gateway.submit()
    job = f"/api/jobs/{hand.ref.job}"
    calls = {
        "unauthenticated": ("GET", "/api/whoami", None, {"Authorization": ""}),
        "not-found": ("GET", "/api/jobs/01990000-0000-7000-8000-000000000001", None, {}),
        "method-not-allowed": ("DELETE", "/api/jobs", None, {}),
        "invalid-parameter": ("GET", "/api/jobs?x=1", None, {}),
        "invalid-offset": ("GET", f"{job}/events?after=x", None, {}),
        "offset-ahead": ("GET", f"{job}/events?after=9", None, {}),
        "unsupported-media-type": ("POST", "/api/jobs", None, {"Content-Type": "text/plain"}),
        "invalid-body": ("POST", "/api/jobs", {"flow": 1, "x": 1}, {}),
        "precondition-required": ("PUT", "/api/flows/echo", {"definition": json.loads(FLOW)}, {}),
    }
    found = {}
    for name, (method, path, body, headers) in calls.items():
        answer = await gateway.client.call(method, path, body, headers=headers | {"X-Request-Id": "golden-request"})
        assert answer.headers["Content-Type"] == "application/problem+json"
        found[name] = answer.body
    assert found == json.loads(GOLDEN.read_text())


FLOW = """{"format": "perdure.graph/1", "name": "echo",
 "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
 "edges": [{"from": "brief.text", "to": "out.text"}]}"""
