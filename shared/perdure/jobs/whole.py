"""An entry of a log with all its values, also those that lie in blobs."""

from msgspec.structs import replace

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.core import blob


async def with_values(eventlog: EventLog, stored: Stored) -> Stored:
    """`stored` with an event that has its values; its body stays as it is stored. Raises NotFound, Unavailable."""
    found = {digest: await eventlog.blobs.get(stored.ref.tenant, digest) for digest in blob.refs(stored.event.data)}
    return replace(stored, event=blob.resolve(stored.event, found)) if found else stored
