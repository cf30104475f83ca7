"""What one attempt needs from outside: the log it writes and reads, time, chance, and a place for deltas.

The runner's port joins this to JetStream, `perdure.testing.memory` to a list. One conformance suite runs on both.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

from perdure.clock import Chance
from perdure.core.event import AnyData, AnyEvent
from perdure.core.instant import Instant
from perdure.core.key import Key
from perdure.core.machine import JobState
from perdure.ids import Digest, EventId, JobId, JobRef

Decide = Callable[[JobState], AnyData | None]
"""What to append behind a state, None when it no longer fits. Pure: it is asked again after every piece of news."""


class Port(Protocol):
    """One attempt's view of its job. Its `attempt.started` is already in the log when the engine gets the port."""

    @property
    def ref(self) -> JobRef:
        """Tenant and job id."""

    @property
    def attempt_id(self) -> EventId:
        """The event id of this attempt's own `attempt.started`."""

    @property
    def log(self) -> Sequence[AnyEvent]:
        """The whole log as far as it is known here, by `seq`. It grows by own appends and by news of others."""

    @property
    def job(self) -> JobState:
        """The fold of `log`."""

    @property
    def chance(self) -> Chance:
        """For jitter."""

    def now(self) -> Instant:
        """The broker's clock."""

    async def append(self, decide: Decide, refs: Iterable[Digest] = ()) -> AnyEvent | None:
        """Append what `decide` says of the newest fold; return the stored event, None when `decide` declined.

        The single writer of the attempt: one append at a time, callers wait their turn in order. Events of others that
        are met on the way are folded into `log` first and `decide` is asked again. When it returns, the event and
        everything before it are in `log`.

        Raises Interrupted when the attempt is fenced, its lease is in doubt or the runner drains hard: no more writes.
        Raises TooLarge when the event cannot be encoded within its bound (nothing was sent).
        """

    async def moved(self, seq: int, until: Instant | None = None) -> None:
        """Return as soon as `log` holds an event after `seq`, or `now()` has reached `until` (None: events alone).

        Raises Interrupted like `append`.
        """

    async def submit_child(
        self,
        key: Key,
        flow: str,
        given: Any,
        *,
        detached: bool = False,
        queue: str | None = None,
        priority: Literal["low", "normal", "high"] | None = None,
        deadline_seconds: float | None = None,
        max_failures: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> JobId:
        """Submit the job that the call `key` starts; the same key makes the same job however often it is asked.

        `flow` is a name or an id, with "@n" for a version; `given` is any JSON. The id is `ids.child_job_id` of this
        job and the key. Nothing is written here; of a child that is not `detached` a `child.ended` will come.

        Raises NotFound (no such flow), Invalid, Forbidden, Malformed, TooLarge: never worth another try. Unavailable,
        OutcomeUnknown: another try is safe. Interrupted like `append`.
        """

    def delta(self, kind: str, data: dict[str, Any]) -> None:
        """Tell followers something that is not worth an event. May be lost; never waits, never raises.

        `kind` is `delta.text`, `delta.step`, …; `data` holds the delta's members (path, step,
        occurrence and the kind's own); any JSON, hence Any.
        """
