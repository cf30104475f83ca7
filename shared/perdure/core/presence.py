"""Whether the client is there for whom a job was started: what its signals `$detached` and `$attached` say."""

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.cause import ATTACHED
from perdure.core.instant import Instant
from perdure.ids import Principal


class Detached(Struct, frozen=True):
    """The client has left: unless it comes back within `seconds`, the job ends."""

    at: Instant
    seconds: float
    by: Principal


def missed(at: Instant, said: ev.SignalData) -> Detached | None:
    """Whom one of the two signals leaves missed; nobody where it says no seconds."""
    seconds = said.payload.get("seconds") if isinstance(said.payload, dict) else None
    if said.name == ATTACHED or not isinstance(seconds, int | float):
        return None
    return Detached(at, float(seconds), said.by)
