"""The outbound client against real sockets: what it connects to, what it sends, how it ends; and the request node."""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec import UNSET

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.graph import spec
from perdure.core.instant import seconds_between
from perdure.engine.components.address import HostPort, IPAddress, Refused
from perdure.engine.components.http_request import RequestInputs, http_request
from perdure.engine.components.outbound import Outbound, Unreached, bounded, retry_after
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.errors import Invalid, Retryable, Terminal
from perdure.testing.memory import MemoryJob

PEM = Path(__file__).parent / "service.example.pem"  # self-signed, for service.example
PUBLIC = ipaddress.ip_address("93.184.216.34")
LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Context:
    """A component's context with a key."""

    idempotency_key = "the-key"
    cancelled = False

    def log(self, text: str, level: str = "info", **fields: Any) -> None:
        raise AssertionError("a request writes no lines")

    def delta(self, text: str, channel: str = "m-1") -> None:
        raise AssertionError("a request says nothing live")


class Site:
    """A server that keeps what it was asked, and answers as its `answer` says."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.hello
        self.port = 0

    async def hello(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response({"hello": "world"}, headers={"Set-Cookie": "session=canary", "ETag": '"1"'})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)

    @asynccontextmanager
    async def serve(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Site"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        yield self
        await runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path"

    @property
    def allowed(self) -> list[HostPort]:
        return [("127.0.0.1", self.port)]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().serve() as serving:
        yield serving


def says(*answers: list[IPAddress]) -> tuple[Callable[[str, int], Awaitable[list[IPAddress]]], list[str]]:
    """A resolver that gives one answer after the other, and the names that it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[IPAddress]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


class Wire:
    """In place of sockets: keeps that one was wanted, and has none, so no test leaves this machine."""

    def __init__(self) -> None:
        self.families: list[int] = []

    def __call__(self, info: tuple[int, int, int]) -> Any:
        self.families.append(info[0])
        raise OSError("no network in this test")


async def get(outbound: Outbound, url: str, **options: Any) -> bytes:
    async with outbound.send("GET", url, headers={}, **options) as response:
        return await bounded(response)


# ------------------------------------------------------------------------------------------ where it connects to


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fd00::1",
     "fe80::1", "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_refused_before_anything_is_connected(address: str) -> None:
    wire = Wire()
    resolve, _ = says([PUBLIC, ipaddress.ip_address(address)])
    with pytest.raises(Refused):
        await get(Outbound(resolve=resolve, open_socket=wire), "https://inside.example/")
    assert wire.families == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:7f00:1]", "169.254.169.254", "[fe80::1]", "0.0.0.0"])
async def test_an_address_in_the_url_is_checked_like_one_of_a_name(host: str) -> None:
    resolve, asked = says([PUBLIC])
    wire = Wire()
    with pytest.raises(Refused):
        await get(Outbound(resolve=resolve, open_socket=wire), f"https://{host}/")
    assert (asked, wire.families) == ([], [])


async def test_localhost_is_what_the_resolver_says_and_refused() -> None:
    with pytest.raises(Refused):
        await get(Outbound(), "https://localhost/")


async def test_a_resolver_that_changes_its_mind_is_asked_once_and_its_first_answer_is_connected_to() -> None:
    resolve, asked = says([PUBLIC], [LOOPBACK])
    connected: list[str] = []

    class Spy(Outbound):
        def _checked_socket(self, addresses: frozenset[str]) -> Any:
            make = super()._checked_socket(addresses)

            def spied(info: tuple[Any, ...]) -> Any:
                connected.append(info[4][0])
                return make(info)

            return spied

    with pytest.raises(Unreached):
        await get(Spy(resolve=resolve, open_socket=Wire()), "https://rebind.example/")
    assert (asked, connected) == (["rebind.example"], [str(PUBLIC)])
    with pytest.raises(Refused):  # the second request hears the second answer
        await get(Spy(resolve=resolve, open_socket=Wire()), "https://rebind.example/")
    assert connected == [str(PUBLIC)]


async def test_no_connection_is_made_to_an_address_that_was_not_checked() -> None:
    gate = Outbound()._checked_socket(frozenset({str(PUBLIC)}))
    for address in ("127.0.0.1", "93.184.216.35", "::1"):
        with pytest.raises(Refused):
            gate((2, 1, 6, "", (address, 443)))


async def test_a_name_keeps_its_place_in_host_and_tls_while_the_checked_address_is_connected_to() -> None:
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=str(PEM))
    server.load_cert_chain(PEM)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    resolve, asked = says([LOOPBACK])
    async with Site().serve(server) as site:
        outbound = Outbound([("service.example", site.port)], resolve=resolve, tls=client)
        assert json.loads(await get(outbound, f"https://service.example:{site.port}/x")) == {"hello": "world"}
        assert site.seen[0].headers["Host"] == f"service.example:{site.port}"
        assert (asked, names) == (["service.example"], ["service.example"])
        stranger = Outbound([("other.example", site.port)], resolve=resolve, tls=client)
        with pytest.raises(Unreached):  # the certificate is not for that name
            await get(stranger, f"https://other.example:{site.port}/x")
        with pytest.raises(Unreached):  # nor does the system trust it
            await get(
                Outbound([("service.example", site.port)], resolve=resolve), f"https://service.example:{site.port}/"
            )


async def test_a_listed_host_may_be_inside_and_plain_and_its_neighbours_may_not(site: Site) -> None:
    outbound = Outbound(site.allowed)
    assert json.loads(await get(outbound, site.url)) == {"hello": "world"}
    with pytest.raises(Refused):
        await get(outbound, f"http://127.0.0.1:{site.port + 1 if site.port < 65535 else 1}/")
    with pytest.raises(Refused):
        await get(outbound, f"http://localhost:{site.port}/")


async def test_a_redirect_is_an_answer_and_followed_by_nobody(site: Site) -> None:
    async def away(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data/")

    site.answer = away
    async with Outbound(site.allowed).send("GET", site.url, headers={}) as response:
        assert response.status == 302
    assert len(site.seen) == 1


async def test_proxies_of_the_environment_and_cookies_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    outbound = Outbound(site.allowed)
    await get(outbound, site.url)
    await get(outbound, site.url)
    assert ["Cookie" in request.headers for request in site.seen] == [False, False]
    assert site.seen[0].headers["Accept-Encoding"] == "identity"
    assert site.seen[0].headers["User-Agent"].startswith("perdure/")


# ------------------------------------------------------------------------------------------ how it ends


async def test_what_does_not_answer_is_unreached_in_time(site: Site) -> None:
    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    site.answer = hang
    with pytest.raises(Unreached) as caught:
        await get(Outbound(site.allowed), site.url, read_seconds=0.1)
    assert caught.value.why == "timeout"


async def test_a_resolver_that_does_not_answer_is_unreached_in_time() -> None:
    async def never(_host: str, _port: int) -> list[IPAddress]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Unreached) as caught:
        await get(Outbound(resolve=never), "https://slow.example/", connect_seconds=0.05)
    assert caught.value.why == "timeout"


async def test_a_name_that_does_not_exist_is_unreached() -> None:
    async def unknown(_host: str, _port: int) -> list[IPAddress]:
        raise OSError("no such name")

    for resolve in (unknown, says([])[0]):
        with pytest.raises(Unreached) as caught:
            await get(Outbound(resolve=resolve), "https://nowhere.example/")
        assert caught.value.why == "network"


async def test_an_answer_beyond_its_bound_and_a_compressed_one_are_refused(site: Site) -> None:
    async def large(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 2000)

    async def packed(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    site.answer = large
    async with Outbound(site.allowed).send("GET", site.url, headers={}) as response:
        with pytest.raises(Terminal) as caught:
            await bounded(response, 1999)
    assert caught.value.code == "http_answer_too_large"
    site.answer = packed
    with pytest.raises(Terminal) as unreadable:
        await get(Outbound(site.allowed), site.url)
    assert unreadable.value.code == "http_answer_unreadable"


async def test_an_answer_that_breaks_off_is_unreached(site: Site) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    site.answer = cut
    with pytest.raises(Unreached) as caught:
        await get(Outbound(site.allowed), site.url)
    assert caught.value.why == "cut"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"Retry-After": " 7 "}, 7.0),
        ({"Retry-After": "999999999999"}, 86_400.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:27:00 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": "Wed, 21 Oct 2026 07:28:00 -0000"}, None),
    ],
)
def test_how_long_an_answer_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


# ------------------------------------------------------------------------------------------ the request node


async def ask(site: Site, **inputs: Any) -> dict[str, Any]:
    component = http_request(Outbound(site.allowed))
    result: dict[str, Any] = await component.run(Context(), RequestInputs(**{"url": site.url, **inputs}))
    return result


async def test_an_answer_is_status_some_headers_and_the_body(site: Site) -> None:
    result = await ask(site, query={"q": "a&b=c", "n": 1, "x": True}, headers={"X-Token": "t", "user-agent": "me"})
    assert result["status"] == 200
    assert result["body"] == {"hello": "world"}
    assert result["headers"] == {"content-type": "application/json; charset=utf-8", "etag": '"1"'}
    request = site.seen[0]
    assert dict(request.query) == {"q": "a&b=c", "n": "1", "x": "true"}
    assert request.headers["X-Token"] == "t"
    assert request.headers.getall("User-Agent") == ["me"]
    assert "Idempotency-Key" not in request.headers
    assert "Content-Type" not in request.headers


async def test_an_effect_carries_its_key_and_its_body(site: Site) -> None:
    await ask(site, method="POST", json={"a": [1, None]})
    await ask(site, method="PUT", text="grüß", headers={"idempotency-key": "mine", "content-type": "text/markdown"})
    await ask(site, method="DELETE")
    await ask(site, method="POST", json=None)
    assert [r.headers["Idempotency-Key"] for r in site.seen] == ["the-key", "mine", "the-key", "the-key"]
    assert [r.headers.get("Content-Type") for r in site.seen] == [
        "application/json", "text/markdown", None, "application/json"
    ]  # fmt: skip
    assert site.bodies == [b'{"a":[1,null]}', "grüß".encode(), b"", b"null"]


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("application/problem+json", b'{"a":1}', {"a": 1}),
        ("text/plain; charset=latin-1", b"\xfc", "ü"),
        ("text/html", b"<p>", "<p>"),
        ("text/plain", b"", None),
    ],
)
async def test_a_body_is_read_as_what_it_says_it_is(site: Site, content_type: str, body: bytes, value: Any) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": content_type})

    site.answer = answer
    assert (await ask(site))["body"] == value


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"\xff"),
        pytest.param("application/json", b"[" * 100_000, id="deep"),
        ("application/octet-stream", b"\xff\xfe"),
        ("text/plain; charset=nonsense", b"a"),
    ],
)
async def test_a_body_that_is_no_value_is_refused(site: Site, content_type: str, body: bytes) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": content_type})

    site.answer = answer
    with pytest.raises(Terminal) as caught:
        await ask(site)
    assert caught.value.code == "http_answer_unreadable"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "code"),
    [
        (500, {}, Retryable, "http_unavailable"),
        (503, {"Retry-After": "9"}, Retryable, "http_unavailable"),
        (429, {"Retry-After": "30"}, Retryable, "http_rate_limited"),
        (408, {}, Retryable, "http_unavailable"),
        (400, {}, Terminal, "http_refused"),
        (404, {}, Terminal, "http_refused"),
        (302, {"Location": "http://169.254.169.254/"}, Terminal, "http_redirect"),
    ],
)
async def test_what_a_status_means(
    site: Site, status: int, headers: dict[str, str], kind: type[Exception], code: str
) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers, body=b"canary")

    site.answer = answer
    with pytest.raises(kind) as caught:
        await ask(site)
    assert getattr(caught.value, "code", None) == code
    assert "canary" not in str(caught.value)
    if isinstance(caught.value, Retryable):
        assert caught.value.after_seconds == (float(headers["Retry-After"]) if headers else None)
    for fine in ([status], [f"{status // 100}xx"]):
        assert (await ask(site, ok_status=tuple(fine)))["status"] == status


@pytest.mark.parametrize(
    "inputs",
    [
        {"headers": {"Host": "inside.example"}, "method": "GET"},
        {"headers": {"transfer-encoding": "chunked"}, "method": "POST"},
        {"headers": {"Connection": "X-Drop"}},
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X A": "a"}},
        {"json": {"a": 1}},
        {"text": "x", "method": "HEAD"},
        {"json": 1, "text": "x", "method": "POST"},
    ],
)
async def test_what_cannot_be_sent_is_refused_and_nothing_goes_out(site: Site, inputs: dict[str, Any]) -> None:
    with pytest.raises(Terminal) as caught:
        await ask(site, **inputs)
    assert caught.value.code == "invalid_input"
    assert site.seen == []


RETRY = {"max_failures": 3, "most_seconds": 60}


def flow(**inputs: Any) -> dict[str, Any]:
    return {
        "format": spec.FORMAT,
        "name": "n",
        "nodes": [
            {"id": "call", "component": "http_request", "inputs": inputs, "retry": RETRY},
            {"id": "out", "component": "data_output"},
        ],
        "edges": [{"from": "call.body", "to": "out.data"}],
    }  # fmt: skip


async def test_a_flow_waits_as_long_as_the_answer_asks_and_its_policy_allows_and_sends_the_same_key(site: Site) -> None:
    answers = [("429", "30"), ("503", "3600"), ("200", "")]

    async def answer(_request: web.Request) -> web.StreamResponse:
        status, after = answers[len(site.seen) - 1]
        return web.json_response({"ok": 1}, status=int(status), headers={"Retry-After": after})

    site.answer = answer
    workflow = graph_workflow(
        spec.parse(flow(url=site.url, method="POST", json={}, headers={"Authorization": "Bearer canary"})),
        builtin(None, Outbound(site.allowed)),
    )
    job = MemoryJob(input={})
    end = await job.run(workflow)
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {"out": {"ok": 1}}
    waits = [event for event in job.log if isinstance(event, ev.StepFailed)]
    assert [round(waited(event)) for event in waits] == [30, 60]
    assert len({request.headers["Idempotency-Key"] for request in site.seen}) == 1
    everything = b"".join(codec.encode(event) for event in job.log) + repr(job.deltas).encode()
    assert b"canary" not in everything


def waited(event: ev.StepFailed) -> float:
    assert event.data.retry_at is not None
    return seconds_between(event.at, event.data.retry_at)


async def test_a_refused_url_fails_its_step_for_good_without_repeating_it() -> None:
    workflow = graph_workflow(spec.parse(flow(url="http://169.254.169.254/canary")), builtin(None))
    job = MemoryJob(input={})
    end = await job.run(workflow)
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("url_refused", "call")
    assert "canary" not in end.data.error.message
    assert len(job.events(ev.StepFailed)) == 1


def test_what_a_request_node_may_not_say() -> None:
    at = "/nodes/0/inputs"
    wrong = flow(url="https://a.example/", method="TRACE", headers={"Host": "x", "X": 1}, ok_status=["6xx", True, 200])
    with pytest.raises(Invalid) as caught:
        spec.parse(wrong)
    assert {(fault.pointer, fault.code) for fault in caught.value.faults} == {
        (f"{at}/method", "invalid-value"),
        (f"{at}/headers/Host", "invalid-value"),
        (f"{at}/headers/X", "invalid-value"),
        (f"{at}/ok_status/0", "invalid-value"),
        (f"{at}/ok_status/1", "invalid-value"),
    }
    assert RequestInputs(url="x").json is UNSET
