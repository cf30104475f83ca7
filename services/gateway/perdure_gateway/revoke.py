"""What must be seen by every gateway at once: a revoked key, a deleted job, a changed membership. Told after the commit
on `revoke.<tenant>`.

At most once, like all of NATS core: who missed it reads SQL anew within a minute.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Literal

import msgspec
import structlog
from msgspec import Struct
from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.subject import EVERY_REVOKE, revoke_subject
from perdure.errors import Unavailable
from perdure.ids import Tenant, is_token

FORMAT: Final = 1
Kind = Literal["key", "job", "member"]

log = structlog.get_logger(__name__)


class Revoked(Struct, frozen=True, kw_only=True):
    """The message: what is no longer good."""

    v: int = FORMAT
    kind: Kind
    id: str


Hear = Callable[[Tenant, str], None]


class Revocations:
    """Says and hears revocations. `on` names who forgets what, `waking` who looks again; `count` rises with each."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._hear: dict[str, Hear] = {}
        self._wake: set[Callable[[], None]] = set()
        self.count = 0

    def on(self, kind: Kind, hear: Hear) -> None:
        """Call `hear` with tenant and id of every revocation of `kind`, one's own too."""
        self._hear[kind] = hear

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake`, while the context lasts, whenever anything is revoked."""
        self._wake.add(wake)
        try:
            yield
        finally:
            self._wake.discard(wake)

    def wake(self) -> None:
        """Wake everybody: something else has to be looked at."""
        for wake in self._wake:
            wake()

    async def tell(self, tenant: Tenant, kind: Kind, what: str) -> None:
        """Forget it here, and tell the others; that they cannot be told is logged."""
        self._take(tenant, Revoked(kind=kind, id=what))
        try:
            await self._bus.publish(revoke_subject(tenant), msgspec.json.encode(Revoked(kind=kind, id=what)))
        except Unavailable as exc:
            log.warning("revocation not told", tenant=tenant, kind=kind, error=str(exc))

    @asynccontextmanager
    async def hearing(self) -> AsyncIterator[None]:
        """Hear what other gateways revoke, while the context lasts. Raises Unavailable."""
        subscription = await self._bus.subscribe(EVERY_REVOKE, self._heard)
        try:
            yield
        finally:
            await self._bus.unsubscribe(subscription)

    async def _heard(self, message: Msg) -> None:
        tenant = message.subject.partition(".")[2]
        try:
            said = msgspec.json.decode(message.data, type=Revoked)
        except msgspec.MsgspecError:
            return
        if is_token(tenant):
            self._take(Tenant(tenant), said)

    def _take(self, tenant: Tenant, said: Revoked) -> None:
        hear = self._hear.get(said.kind)
        if hear is not None:
            hear(tenant, said.id)
        self.count += 1
        self.wake()
