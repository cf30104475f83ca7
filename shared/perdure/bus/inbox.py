"""What becomes of requests, told on `inbox.<tenant>.request`: at least once, so receivers drop by `id`."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal

import msgspec
from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.core import event as ev
from perdure.core.alarm import Reminder
from perdure.core.instant import Instant
from perdure.ids import JobId, Tenant

FORMAT: Final = 1

Kind = Literal["asked", "restated", "voted", "answered", "expired", "withdrawn", "reminded", "commented"]
Tell = Callable[[Iterable[tuple[Tenant, "News"]]], Awaitable[None]]


class News(Struct, frozen=True, kw_only=True):
    """One message. `id` is the event's id; where one event tells of several requests, `<request id>:<kind>`; of the
    `k`-th reminder, which is no event and which several may tell, `<request id>:remind:<k>`.
    """

    v: int = FORMAT
    id: str
    kind: Kind
    job_id: JobId
    seq: int
    request: ev.Request
    at: Instant


def reminded(reminder: Reminder, seq: int) -> News:
    """The news that a request waits; `seq` is the job's last event."""
    asked, k, at = reminder
    return News(id=f"{asked.id}:remind:{k}", kind="reminded", job_id=asked.job_id, seq=seq, request=asked, at=at)


async def tell(bus: Bus, news: Iterable[tuple[Tenant, News]]) -> None:
    """Publish all of `news`, in order, and wait until the broker has seen it. Raises Unavailable: tell all again."""
    for tenant, one in news:
        await bus.publish(names.inbox_subject(tenant), msgspec.json.encode(one))
    await bus.flush()
