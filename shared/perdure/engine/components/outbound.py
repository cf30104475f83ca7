"""The one client for requests that flows make: to checked addresses, without redirects, proxies and cookies.

A host is resolved here, once a request; every address that comes back must be public (unless the operator lists host
and port), and connections are made to those very addresses, so a name server that changes its mind changes nothing.
Names stay in TLS (SNI, certificate) and in `Host`.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict

from perdure import __version__
from perdure.engine.components.address import HostPort, IPAddress, Refused, Target, public, target
from perdure.errors import Retryable, Terminal

Resolve = Callable[[str, int], Awaitable[Sequence[IPAddress]]]
"""The addresses of a host; OSError when there are none."""

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_RETRY_AFTER: Final = 86_400.0


class Unreached(Retryable):
    """The answer did not come, or not whole. The message names the host at most."""

    def __init__(self, message: str, why: Literal["timeout", "network", "cut"]) -> None:
        super().__init__(message, code="http_unavailable")
        self.why = why


async def system_resolve(host: str, port: int) -> list[IPAddress]:
    """What the system's resolver says now."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in found]


def plain_socket(info: tuple[int, int, int]) -> socket.socket:
    """A socket for an address of this family, type and protocol."""
    return socket.socket(*info)


class Outbound:
    """Sends requests. `allow`: hosts and ports that the operator opens, over http too and wherever they lead."""

    def __init__(
        self,
        allow: Collection[HostPort] = (),
        *,
        resolve: Resolve = system_resolve,
        open_socket: Callable[[tuple[int, int, int]], socket.socket] = plain_socket,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = frozenset(allow)
        self._resolve = resolve
        self._open_socket = open_socket
        self._tls: ssl.SSLContext | Literal[True] = tls or True

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request; inside the block the answer can be read. Whatever its status, it is given as it came.

        `read_seconds` bounds the silence between two pieces of the answer. Raises Refused when the request may not go
        out, Unreached when no answer came or it broke off.
        """
        to = target(url, self._allow)
        addresses = await self._addresses(to, connect_seconds)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds, sock_read=read_seconds)
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(to.host, addresses),
            use_dns_cache=False,
            force_close=True,  # a kept connection to a server that restarts would fail the next call for nothing
            ssl=self._tls,
            socket_factory=self._checked_socket(addresses),
        )
        sent = CIMultiDict({"User-Agent": f"perdure/{__version__}", "Accept-Encoding": "identity"})
        sent.update(headers)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Content-Type",),
        ) as session:
            try:
                async with session.request(
                    method,
                    to.url.update_query(query) if query else to.url,
                    data=body,
                    headers=sent,
                    allow_redirects=False,
                ) as response:
                    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
                        raise Terminal(f"{to.host} sent a compressed answer unasked", code="http_answer_unreadable")
                    yield response
            except TimeoutError as exc:
                raise Unreached(f"{to.host} did not answer in time", "timeout") from exc
            except aiohttp.ClientPayloadError as exc:
                raise Unreached(f"the answer of {to.host} ended in the middle", "cut") from exc
            except aiohttp.ClientError as exc:
                # the class says enough; the text of some of them repeats headers
                raise Unreached(f"{to.host} cannot be reached ({type(exc).__name__})", "network") from None

    async def _addresses(self, to: Target, seconds: float) -> frozenset[str]:
        """The addresses that may be connected to. Raises Refused when one of them is not public, Unreached for none."""
        found: Sequence[IPAddress]
        if to.address is not None:
            found = [to.address]
        else:
            try:
                async with asyncio.timeout(seconds):
                    found = await self._resolve(to.host, to.port)
            except TimeoutError as exc:
                raise Unreached(f"the name {to.host} could not be resolved in time", "timeout") from exc
            except (OSError, ValueError) as exc:
                raise Unreached(f"the name {to.host} cannot be resolved", "network") from exc
        if not found:
            raise Unreached(f"the name {to.host} has no address", "network")
        if not to.listed and not all(map(public, found)):
            raise Refused(f"{to.host} leads to an address that is not public")
        return frozenset(map(str, found))

    def _checked_socket(self, addresses: frozenset[str]) -> Callable[[tuple[object, ...]], socket.socket]:
        """Makes sockets for `addresses` alone: the last gate, whatever the library above made of the host."""

        def checked(info: tuple[object, ...]) -> socket.socket:
            family, kind, protocol, _, sockaddr = info
            if not isinstance(sockaddr, tuple) or str(ipaddress.ip_address(sockaddr[0])) not in addresses:
                raise Refused("a connection to an address that was not checked")
            made = self._open_socket((int(str(family)), int(str(kind)), int(str(protocol))))
            made.setblocking(False)
            return made

        return checked


async def bounded(response: aiohttp.ClientResponse, most: int = MAX_ANSWER_BYTES) -> bytes:
    """The whole body of an answer. Raises Terminal when it is longer than `most` bytes."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > most:
            raise Terminal(f"the answer is larger than {most} bytes", code="http_answer_too_large")
        pieces.append(piece)
    return b"".join(pieces)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` (RFC 9110 10.2.3) asks for, at most a day; a date counts from the answer's own."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


class _Pinned(AbstractResolver):
    """Says what was found before, and knows no other host."""

    def __init__(self, host: str, addresses: Collection[str]) -> None:
        self._host, self._addresses = host, addresses

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        if host != self._host:
            raise OSError("a host that was not asked for")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in sorted(self._addresses, key=lambda address: ":" in address)
        ]

    async def close(self) -> None:
        """Nothing is held."""
