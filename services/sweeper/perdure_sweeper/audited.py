"""What a log says about requests, as records for AUDIT: who decided what, when, by which channel and key.

The gateway's own records say where somebody came from, and who was refused; they bear other ids and other names.
"""

from typing import Any, Final

from perdure.bus.audit import FORMAT, Record
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.machine import JobState
from perdure.core.restate import delegated
from perdure.ids import Principal, RequestId, Tenant

DONE: Final = "done"
NOBODY: Final = Principal("service:perdure")  # time, a workflow, the end of a job


def audited(tenant: Tenant, before: JobState, event: AnyEvent, after: JobState) -> list[Record]:
    """The records that `event`, which led from `before` to `after`, is worth."""
    facts: dict[str, Any]  # Any: short values of JSON
    match event:
        case ev.InputAnswered(data=data):
            facts = _said(data) | {"votes": len(data.votes) or None}
            return [_record(tenant, event, "request.answered", data.request_id, data.by, data.via, facts)]
        case ev.InputVoted(data=data):
            return [_record(tenant, event, "request.voted", data.request_id, data.by, data.via, _said(data))]
        case ev.InputExpired(data=data):
            facts = {"revision": data.revision, "cause": data.cause, "do": data.outcome.do}
            facts |= {"action": data.outcome.action, "votes": len(data.votes) or None}
            return [_record(tenant, event, "request.expired", data.request_id, data.by, data.via, facts)]
        case ev.InputWithdrawn(data=data):
            return [_record(tenant, event, "request.withdrawn", data.request_id, data.by, data.via, {})]
        case ev.InputRequested(data=data) if (hop := delegated(before, data.request)) is not None:
            facts = {"revision": data.request.revision, "to": hop.to}
            return [_record(tenant, event, "request.delegated", data.request.id, hop.by, hop.via, facts)]
        case _ if after.terminal:
            facts = {"job_status": after.status}
            return [
                _record(tenant, event, "request.withdrawn", request, None, None, facts, f"{request}:withdrawn")
                for request in before.asked
            ]
        case _:
            return []


def _said(data: ev.AnsweredData | ev.VotedData) -> dict[str, Any]:  # Any: see above
    """An answer by its digests."""
    said = {"action": data.action, "proposal_digest": data.proposal_digest, "edited": data.edited or None}
    return {"revision": data.revision, **said}


def _record(
    tenant: Tenant,
    event: AnyEvent,
    what: str,
    request: RequestId,
    by: Principal | None,
    via: ev.Via | None,
    facts: dict[str, Any],
    own_id: str | None = None,
) -> Record:
    link = {} if via is None else {"link": via.link, "link_by": via.link_by}
    told = {"seq": event.seq} | link | facts
    return Record(
        v=FORMAT,
        id=own_id or event.id,
        at=event.at,
        tenant=tenant,
        what=what,
        principal=by or NOBODY,
        object=request,
        result=DONE,
        key_id=None if via is None else via.key_id,
        channel=None if via is None else via.channel,
        facts={name: value for name, value in told.items() if value is not None},
    )
