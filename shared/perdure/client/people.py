"""Calls on requests: what waits for a person, what people do with it, and the groups that they belong to."""

from collections.abc import Sequence
from typing import Any

import msgspec
import uuid_utils

from perdure.client.call import Caller, part, present
from perdure.client.records import Answered, AnswerLink, Group, HumanRequest, Page
from perdure.client.withheld import readable


class InboxCalls(Caller):
    """What people do."""

    async def inbox(
        self,
        *,
        status: str | None = None,
        flow: str | None = None,
        job: str | None = None,
        kind: str | None = None,
        tag: str | None = None,
        assignee: str | None = None,
        overdue: bool = False,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[HumanRequest]:
        """A page of requests, the pending ones unless `status` says otherwise; may be a second behind.

        `assignee`: `any`, `me` (what I may answer), `user:x`, `group:x`. `overdue`: a reminder or escalation
        has come.
        """
        query = {"status": status, "flow": flow, "job": job, "kind": kind, "tag": tag, "assignee": assignee}
        query |= {"overdue": "true" if overdue else None, "limit": str(limit), "cursor": cursor}
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
        return await self._act(request.id, "answer", body)

    async def delegate(self, request_id: str, to: str, *, comment: str | None = None) -> Answered:
        """Hand one's own right to answer to the user `to` (`user:x`). Raises Forbidden, Conflict, Expired, Invalid."""
        return await self._act(request_id, "delegate", present({"to": to, "comment": comment}))

    async def withdraw(self, request_id: str, *, reason: str | None = None) -> Answered:
        """Ask nobody any more. Raises Forbidden, Conflict, Expired."""
        return await self._act(request_id, "withdraw", present({"reason": reason}))

    async def comment(self, request_id: str, text: str) -> None:
        """Say something about a request; said once, however often it is tried."""
        headers = {"Idempotency-Key": str(uuid_utils.uuid7())}
        await self._send("POST", f"/api/inbox/{part(request_id)}/comments", json={"text": text}, headers=headers)

    async def link(
        self, request_id: str, audience: str, *, actions: Sequence[str] = (), expires_at: str | None = None
    ) -> AnswerLink:
        """A link by which `audience` (`user:x`, or `link:<label>` for somebody outside) may answer once. Tried once."""
        body = present({"for": audience, "actions": list(actions) or None, "expires_at": expires_at})
        return await self._call(AnswerLink, "POST", f"/api/inbox/{part(request_id)}/links", json=body, once=True)

    async def revoke_link(self, request_id: str, link_id: str) -> None:
        """End a link now."""
        await self._send("DELETE", f"/api/inbox/{part(request_id)}/links/{part(link_id)}")

    async def groups(self, *, limit: int = 50, cursor: str | None = None) -> Page[Group]:
        """A page of the tenant's groups with their members, by name."""
        return await self._call(Page[Group], "GET", "/api/groups", params={"limit": str(limit), "cursor": cursor})

    async def add_to_group(self, group: str, principal: str) -> None:
        """Put `user:x` or `service:x` into a group; it is made when it is new."""
        await self._send("PUT", f"/api/groups/{part(group)}/members/{part(principal)}")

    async def remove_from_group(self, group: str, principal: str) -> None:
        """Take somebody out of a group. Raises NotFound."""
        await self._send("DELETE", f"/api/groups/{part(group)}/members/{part(principal)}")

    async def _act(self, request_id: str, deed: str, body: dict[str, Any]) -> Answered:
        raw = readable(await self._send("POST", f"/api/inbox/{part(request_id)}/{deed}", json=body))
        after: HumanRequest = msgspec.json.decode(raw, type=HumanRequest)
        return Answered(request=after, replayed=msgspec.json.decode(raw, type=_Replayed).replayed)


class _Replayed(msgspec.Struct):
    replayed: bool = False
