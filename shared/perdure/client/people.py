"""Calls on requests: what waits for a person, and the person's answer."""

from typing import Any

import msgspec

from perdure.client.call import Caller, part, present
from perdure.client.records import Answered, HumanRequest, Page


class InboxCalls(Caller):
    """What people do."""

    async def inbox(
        self,
        *,
        status: str | None = None,
        flow: str | None = None,
        job: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[HumanRequest]:
        """A page of requests, the pending ones unless `status` says otherwise; may be a second behind."""
        query = {"status": status, "flow": flow, "job": job, "kind": kind, "limit": str(limit), "cursor": cursor}
        return await self._call(Page[HumanRequest], "GET", "/api/inbox", params=query)

    async def request(self, request_id: str) -> HumanRequest:
        """One request, from its job's log."""
        return await self._call(HumanRequest, "GET", f"/api/inbox/{part(request_id)}")

    async def answer(
        self,
        request: HumanRequest,
        action: str,
        *,
        payload: Any = msgspec.UNSET,  # Any: user value
        proposal: Any = msgspec.UNSET,  # Any: user value
        comment: str | None = None,
    ) -> Answered:
        """Answer what `request` shows. Raises Conflict (answered otherwise, the proposal changed), Expired, Invalid."""
        body: dict[str, Any] = present(
            {"action": action, "proposal_digest": request.proposal_digest, "comment": comment}
        )
        if payload is not msgspec.UNSET:
            body["payload"] = payload
        if proposal is not msgspec.UNSET:
            body["proposal"] = proposal
        raw = await self._send("POST", f"/api/inbox/{part(request.id)}/answer", json=body)
        answered: HumanRequest = msgspec.json.decode(raw, type=HumanRequest)
        return Answered(request=answered, replayed=msgspec.json.decode(raw, type=_Replayed).replayed)


class _Replayed(msgspec.Struct):
    replayed: bool = False
