"""Canaries: small messages of nobody's by which a supervisor tries whether a stream can be written."""

from collections.abc import Iterator
from typing import Final

import msgspec
import nats.errors

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.stream import Answer
from perdure.errors import OutcomeUnknown, Unavailable

SECONDS: Final = 1.0
BODY: Final = b"{}"


def subjects(shards: int = names.MOST_SHARDS) -> Iterator[str]:
    """Where canaries go, in turn for ever: each shard's stream, WORK, BLOB. Never AUDIT."""
    while True:
        yield from (names.canary_event(shard) for shard in range(shards))
        yield names.CANARY_WORK
        yield names.CANARY_BLOB


async def taken(bus: Bus, subject: str) -> bool:
    """Whether the broker does what it should with one canary: False when it does not answer, or cannot write.

    Nothing is known, so True, while there is no connection, no such stream (yet), or one that is full.
    """
    try:
        message = await bus.request(subject, BODY, within=SECONDS)
    except Unavailable:
        return True
    except OutcomeUnknown as exc:
        return isinstance(exc.__cause__, nats.errors.NoRespondersError) or not bus.connected
    error = msgspec.json.decode(message.data, type=Answer).error
    return error is None or (error.code != 500 and error.code != 503)  # its own fault; a 4xx is a bound or a setting
