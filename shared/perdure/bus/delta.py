"""Live deltas: tokens, step starts, log lines. Sent without an answer, kept 15 min by LIVE, lost without harm."""

from typing import Final

import nats.errors

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.natspy import write
from perdure.bus.subject import delta_subject
from perdure.ids import JobRef

MOST_BYTES: Final = 64 * 1024  # what LIVE keeps
MOST_WAITING_BYTES: Final = 1024 * 1024  # in this process, for a broker that is slow to take them


class Deltas:
    """Publishes deltas over one connection, on its loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.dropped = 0

    def publish(self, ref: JobRef, body: bytes) -> None:
        """Send a delta of `ref` before anything that is sent after this call. Never waits; dropped when it cannot go
        now.

        Raises Malformed for a reference that is none.
        """
        subject, nc = delta_subject(ref), self._bus.nc
        if len(body) > MOST_BYTES or not nc.is_connected or nc.pending_data_size > MOST_WAITING_BYTES:
            self.dropped += 1
            return
        probe.hit("delta.before_publish")
        try:
            write(nc, subject, body, "", None)
        except (nats.errors.Error, OSError):
            self.dropped += 1
