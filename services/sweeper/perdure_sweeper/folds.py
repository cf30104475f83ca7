"""Batches of events to states: folds of open jobs stay in memory, those that are not there are read again from the log.

A fold in memory is never further than what was committed, so a batch that is read twice is folded twice, alike.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from perdure.bus.audit import Record
from perdure.bus.entry import Stored, Unread
from perdure.bus.eventlog import EventLog
from perdure.bus.inbox import Kind, News
from perdure.core import event as ev
from perdure.core.comment import commented
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.machine import EMPTY, JobState, apply
from perdure.db.jobs import Quarantine
from perdure.db.requestrows import Change, changes
from perdure.errors import BrokenLog, Malformed, UnsupportedVersion
from perdure.ids import JobRef, StreamSeq
from perdure_sweeper.audited import audited
from perdure_sweeper.duties.look import each

KEPT: Final = 512  # folds of open jobs, a shard

Entry = Stored | Unread


class Folded(Struct, frozen=True):
    """A job after a batch: its state, where its last event lies, what changed about its requests, what to tell and to
    have audited, and whether it was submitted and whether it ended within the batch.
    """

    state: JobState
    at: StreamSeq
    changes: tuple[Change, ...]
    news: tuple[News, ...]
    began: bool = False
    ended: bool = False
    audits: tuple[Record, ...] = ()


class Stuck(Struct, frozen=True):
    """A job whose log cannot be folded."""

    why: Quarantine
    at: StreamSeq
    noticed_at: Instant
    detail: str


class Folds:
    """The folds of one shard's open jobs, the least recently used ones forgotten first."""

    def __init__(self, eventlog: EventLog, kept: int = KEPT) -> None:
        self._eventlog = eventlog
        self._kept = kept
        self._states: OrderedDict[JobRef, JobState] = OrderedDict()

    async def fold(self, batch: Sequence[Entry]) -> dict[JobRef, Folded | Stuck]:
        """What the jobs of `batch`, entries of one shard in stream order, have become. Raises Unavailable."""
        entries: dict[JobRef, list[Entry]] = {}
        for entry in batch:
            entries.setdefault(entry.ref, []).append(entry)
        folded = await each(list(entries.items()), lambda job: self._job(*job))
        return dict(zip(entries, folded, strict=True))

    def keep(self, folded: Mapping[JobRef, Folded | Stuck]) -> None:
        """Remember what was committed."""
        for ref, job in folded.items():
            self._states.pop(ref, None)
            if isinstance(job, Folded) and not job.state.terminal:
                self._states[ref] = job.state
        while len(self._states) > self._kept:
            self._states.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the logs may be others now."""
        self._states.clear()

    async def again(self, ref: JobRef) -> Folded | None:
        """What a job that an older version could not read has become, by its whole log, with nothing to tell; None when
        this one cannot either. Raises Unavailable.
        """
        try:
            return _fold(EMPTY, await self._eventlog.read(ref), news_from=None)
        except (BrokenLog, Malformed, UnsupportedVersion):
            return None

    async def _job(self, ref: JobRef, own: Sequence[Entry]) -> Folded | Stuck:
        first, last = own[0], own[-1]
        before = self._states.get(ref, EMPTY)
        try:
            if not isinstance(first, Stored) or before.seq != first.event.seq - 1:
                before, own = EMPTY, await self._whole(ref, own)
            return _fold(before, own, news_from=first.at)
        except (BrokenLog, Malformed) as exc:
            return Stuck("broken", last.at, _noticed(last), str(exc))
        except UnsupportedVersion as exc:
            return Stuck("unsupported", last.at, _noticed(last), str(exc))

    async def _whole(self, ref: JobRef, own: Sequence[Entry]) -> Sequence[Entry]:
        """The log as far as `own`, its latest entries in a batch. Not further, or what lies behind the batch would be
        written and told by nobody.
        """
        first, last = own[0], own[-1]
        before = await self._eventlog.upto(ref, first) if isinstance(first, Stored) else []
        if before and before[-1].at == first.at:
            return [*before, *own[1:]]
        return [stored for stored in await self._eventlog.read(ref) if stored.at <= last.at]


def _fold(state: JobState, own: Sequence[Entry], *, news_from: StreamSeq | None) -> Folded:
    """Raises BrokenLog, and what an unreadable entry says."""
    changed: list[Change] = []
    news: list[News] = []
    audits: list[Record] = []
    at = StreamSeq(0)
    began = ended = False
    for entry in own:
        if isinstance(entry, Unread):
            raise UnsupportedVersion("a newer version") if entry.why == "unsupported" else Malformed("not an event")
        before, state, at = state, apply(state, entry.event), entry.at
        changed += changes(before, entry.event, state)
        if news_from is not None and at >= news_from:
            news += told(before, entry.event, state)
            audits += audited(entry.ref.tenant, before, entry.event, state)
            began = began or isinstance(entry.event, ev.JobSubmitted)
            ended = ended or state.terminal
    return Folded(state, at, tuple(changed), tuple(news), began, ended, tuple(audits))


def told(before: JobState, event: AnyEvent, after: JobState) -> list[News]:
    """What `event` has to tell on `inbox.<tenant>.request`."""
    match event:
        case ev.InputRequested(data=data):
            return [_news(event, "asked" if data.request.revision == 1 else "restated", data.request)]
        case ev.InputVoted(data=data):
            return [_news(event, "voted", after.asked[data.request_id])]
        case ev.InputAnswered(data=data):
            return [_news(event, "answered", before.asked[data.request_id])]
        case ev.InputExpired(data=data):
            return [_news(event, "expired", before.asked[data.request_id])]
        case ev.InputWithdrawn(data=data):
            return [_news(event, "withdrawn", before.asked[data.request_id])]
        case ev.SignalReceived(data=data) if (request := commented(after, data)) is not None:
            return [_news(event, "commented", request)]
        case _ if after.terminal:
            return [_news(event, "withdrawn", r, f"{r.id}:withdrawn") for r in before.asked.values()]
        case _:
            return []


def _news(event: AnyEvent, kind: Kind, request: ev.Request, own_id: str | None = None) -> News:
    news_id = own_id or event.id
    return News(id=news_id, kind=kind, job_id=request.job_id, seq=event.seq, request=request, at=event.at)


def _noticed(entry: Entry) -> Instant:
    return entry.event.at if isinstance(entry, Stored) else entry.stored_at
