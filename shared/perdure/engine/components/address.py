"""Which addresses outbound requests may go to: a URL is read once and strictly, and every address must be public.

What is not plainly a name or an address is refused: no user names, no blanks or backslashes, no zones, nothing outside
ASCII (write `xn--…`), no numbers that only some programs read as an address (`2130706433`, `0x7f.1`, `127.1`).
"""

import ipaddress
import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from msgspec import Struct
from yarl import URL

from perdure.errors import Terminal

IPAddress = IPv4Address | IPv6Address
HostPort = tuple[str, int]
"""A host as a URL writes it, in lower case (an address without brackets), and its port."""

MAX_URL_CHARS: Final = 8192
PORTS: Final = frozenset({443, 8443})
_URL: Final = re.compile(
    r"(https?)://(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?(?:[/?#][\x21-\x5b\x5d-\x7e\x80-\U0010ffff]*)?",
    re.ASCII | re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PRIVATE4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_GLOBAL6: Final = ipaddress.IPv6Network("2000::/3")
_PRIVATE6: Final = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Refused(Terminal):
    """This request may not go out. The message names the host at most, never the URL."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="url_refused")


class Target(Struct, frozen=True):
    """A URL that was read and may be asked, once its addresses are checked. `listed`: the operator allows it as it is.

    `address` is given where the URL names an address in place of a host.
    """

    url: URL
    host: str
    port: int
    listed: bool
    address: IPAddress | None


def host_port(host: str, port: int) -> HostPort:
    """Host and port as `target` compares them."""
    bare = host.strip("[]").lower()
    try:
        return str(ipaddress.ip_address(bare)), port
    except ValueError:
        return bare, port


def target(text: str, allow: Collection[HostPort] = ()) -> Target:
    """Where `text` leads. Raises Refused for what is no plain URL, and for http and other ports unless listed."""
    match = _URL.fullmatch(text) if len(text) <= MAX_URL_CHARS else None
    if match is None:
        raise Refused("the URL is no plain http or https URL: no user, no blanks, an ASCII host")
    scheme, host, port = match[1].lower(), match[2].lower().strip("[]"), int(match[3] or 0)
    port = port or (443 if scheme == "https" else 80)
    address = _address(host, bracketed=match[2].startswith("["))
    try:
        url = URL(text).with_fragment(None)
    except ValueError as exc:
        raise Refused("the URL is no URL") from exc
    if address is not None:
        host = str(address)
    if (url.scheme, url.raw_host, url.port) != (scheme, host, port) or url.user or url.password or not 0 < port < 65536:
        raise Refused("the URL can be read in more than one way")
    listed = (host, port) in allow
    if not listed and scheme != "https":
        raise Refused(f"{host}: only https may be asked, unless the operator allows host and port")
    if not listed and port not in PORTS:
        raise Refused(f"{host}: only the ports 443 and 8443 may be asked, unless the operator allows host and port")
    return Target(url, host, port, listed, address)


def public(address: IPAddress) -> bool:
    """Whether `address`, and every IPv4 address that it wraps, is global unicast."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE4)
    if address.scope_id is not None:
        return False
    number = int(address)
    if address.ipv4_mapped is not None:
        return public(address.ipv4_mapped)
    if address in _COMPATIBLE or address in _NAT64:
        return public(IPv4Address(number & 0xFFFFFFFF))
    if address in _SIX_TO_FOUR:
        return public(IPv4Address(number >> 80 & 0xFFFFFFFF))
    if address in _TEREDO:  # the server, and the client behind it with its bits turned
        return public(IPv4Address(number >> 64 & 0xFFFFFFFF)) and public(IPv4Address(~number & 0xFFFFFFFF))
    return address in _GLOBAL6 and not any(address in network for network in _PRIVATE6)


def _address(host: str, *, bracketed: bool) -> IPAddress | None:
    """The address that `host` is, None for a name. Raises Refused for what is neither."""
    labels = host.split(".")
    try:
        if bracketed:
            return IPv6Address(host)
        if _NUMBER.fullmatch(labels[-1]):
            return IPv4Address(host)
    except ValueError as exc:
        raise Refused("the URL's host is no address in its usual form") from exc
    if ":" in host or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("the URL's host is no host name")
    return None
