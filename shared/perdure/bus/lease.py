"""The lease of queues that are there already: changed while nobody serves them, for everybody at once."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct

from perdure.bus.connection import Bus
from perdure.bus.layout import SECOND
from perdure.bus.stream import Answer, refusal
from perdure.bus.subject import WORK
from perdure.bus.topology import API_SECONDS
from perdure.errors import Conflict


class _Consumer(Struct):
    name: str
    config: dict[str, Any]  # Any: sent back as it is
    num_waiting: int = 0


class _List(Answer):
    total: int = 0
    consumers: tuple[_Consumer, ...] = ()


async def set_lease(bus: Bus, seconds: float) -> list[str]:
    """Give every queue a lease of `seconds`; the names of the consumers that had another one.

    Runners learn the lease when they start: with one that runs, two would believe in two leases. Raises Conflict
    (`runners-running`) while any pulls, and then changes nothing; Unavailable.
    """
    found = [each async for each in _consumers(bus)]
    served = sorted(each.name for each in found if each.num_waiting)
    if served:
        raise Conflict("runners-running", f"stop the runners first: {', '.join(served)} have some")
    changed = []
    for each in found:
        if each.config.get("ack_wait") == round(seconds * SECOND):
            continue
        config = each.config | {"ack_wait": round(seconds * SECOND)}
        body = msgspec.json.encode({"stream_name": WORK, "config": config, "action": "update"})
        subject = f"$JS.API.CONSUMER.CREATE.{WORK}.{each.name}.{config['filter_subject']}"
        answer = msgspec.json.decode(await bus.ask(subject, body, within=API_SECONDS), type=Answer)
        if answer.error is not None:
            raise refusal(answer.error, f"consumer {each.name}")
        changed.append(each.name)
    return changed


async def _consumers(bus: Bus) -> AsyncIterator[_Consumer]:
    offset = 0
    while True:
        body = msgspec.json.encode({"offset": offset})
        page = msgspec.json.decode(await bus.ask(f"$JS.API.CONSUMER.LIST.{WORK}", body, within=API_SECONDS), type=_List)
        if page.error is not None:
            raise refusal(page.error, f"stream {WORK}")
        for each in page.consumers:
            yield each
        offset += len(page.consumers)
        if not page.consumers or offset >= page.total:
            return
