"""The one address where chat models are: set by the operator, never by a flow."""

import re
from typing import Final

from msgspec import Struct
from yarl import URL

from perdure.engine.components.address import HostPort, Refused, host_port, target
from perdure.errors import Malformed

_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}", re.ASCII)
_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")


class ModelEndpoint(Struct, frozen=True, kw_only=True):
    """An OpenAI-compatible endpoint: the base URL (as in `http://127.0.0.1:8000/v1`), the model used where a node names
    none, and the key.

    Loopback and http are allowed, because the operator says so. Redirects and proxies are never followed, so its host
    and port are the only ones that a chat model node can reach. `read_seconds` bounds the silence between two pieces of
    an answer. Raises Malformed, without the value, for what is no such URL or key.
    """

    url: str
    key: str | None = None
    name: str | None = None
    connect_seconds: float = 5.0
    read_seconds: float = 60.0

    def __post_init__(self) -> None:
        try:
            url = URL(self.url)
        except ValueError as exc:
            raise Malformed("the model's URL is no URL") from exc
        plain = not (url.user or url.password or url.query_string or url.fragment or _ODD.search(self.url))
        if url.scheme not in ("http", "https") or not url.host or not plain:
            raise Malformed("the model's URL must be http or https with a host, without user, query and fragment")
        try:
            target(self.completions, [self.address])
        except Refused as exc:
            raise Malformed("the model's URL is none that the outbound client takes") from exc
        if self.key is not None and _KEY.fullmatch(self.key) is None:
            raise Malformed("the model's key must be printable ASCII without blanks")

    def __repr__(self) -> str:
        return f"ModelEndpoint(url={self.url!r}, name={self.name!r})"

    @property
    def completions(self) -> str:
        """Where calls go."""
        return self.url.rstrip("/") + "/chat/completions"

    @property
    def address(self) -> HostPort:
        """Host and port, for the list of what may be asked."""
        url = URL(self.url)
        return host_port(url.raw_host or "", url.port or 0)

    @property
    def headers(self) -> dict[str, str]:
        """What every call carries."""
        given = {"Accept": "text/event-stream", "Content-Type": "application/json"}
        return given if self.key is None else {**given, "Authorization": f"Bearer {self.key}"}
