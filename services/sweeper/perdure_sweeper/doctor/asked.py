"""The rows of a job's requests against its log: what is asked, of whom, under which tags, and the next reminder."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.bus.entry import Stored
from perdure.core import event as ev
from perdure.core.alarm import reminders_of
from perdure.core.instant import Instant
from perdure.core.machine import JobState, fold
from perdure.db import examine
from perdure.db.requestrows import Asking, Change, changes, rows_of
from perdure.ids import JobRef

JSON: dict[str, Any] = {"record": ev.Request, "tags": dict[str, str], "tally": tuple[ev.Tally, ...]}


async def wrong_requests(conn: AsyncConnection, ref: JobRef, log: Sequence[Stored], now: Instant) -> list[str]:
    """How the rows of a job's requests are not what its log says, in a few words each; none where they are.

    Rows without tags are of the release before, which knew neither them nor assignees: the sweeper completes them.
    """
    asked: list[Change] = []
    state = JobState()
    for stored in log:
        before, state = state, fold([stored.event], state)
        asked += changes(before, stored.event, state)
    if state.submitted is None:
        return []
    last = list({change.request.id: change for change in asked}.values())
    rows, whom = rows_of(Asking(ref, state.submitted.flow, state.submitted.tags, last))
    there, asks = await examine.requests_of(conn, ref), await examine.assignees_of(conn, ref)
    wrong = [] if {row["request_id"] for row in rows} == set(there) else ["requests"]
    for row, change in zip(rows, last, strict=True):
        found = there.get(str(row["request_id"]))
        if found is None:
            continue
        unlisted = found["tags"] is None
        names = [name for name in row if name != "remind_at" and not _same(name, found[name], row[name])]
        wrong += [f"request {name}" for name in names if not unlisted or name in ("status", "revision")]
        mine = [dict(each) for each in asks if each["request_id"] == row["request_id"]]
        meant = [each for each in whom if each["request_id"] == row["request_id"]]
        if not unlisted and sorted(mine, key=_who) != sorted(meant, key=_who):
            wrong.append("request assignees")
        if not unlisted and change.status == "pending" and not _reminds(change.request, found["remind_at"], now):
            wrong.append("request remind_at")
    return list(dict.fromkeys(wrong))


def _reminds(asked: ev.Request, at: Instant | None, now: Instant) -> bool:
    """Whether `at` may be the next reminder that nobody has told: one of the request's, before all that are to come."""
    moments = [reminder.at for reminder in reminders_of(asked)]
    coming = next((moment for moment in moments if moment > now), None)
    if at is None:
        return coming is None
    return at in moments and (coming is None or at <= coming)


def _same(name: str, found: Any, wanted: Any) -> bool:  # Any: columns
    shape = JSON.get(name)
    if shape is None or found is None or wanted is None:
        return bool(found == wanted)
    return bool(msgspec.json.decode(found, type=shape) == msgspec.json.decode(wanted, type=shape))


def _who(row: Mapping[str, object]) -> str:
    return str(row["who"])
