"""Calls of those who run a Perdure: keys, runners, queues."""

from collections.abc import Sequence

from perdure.client.call import Caller, part, present
from perdure.client.records import Key, NewKey, Page, QueueDepth, Runner, Self


class OperatorCalls(Caller):
    """Keys, runners, queues."""

    async def whoami(self) -> Self:
        """Who the key stands for."""
        return await self._call(Self, "GET", "/api/whoami")

    async def keys(self, *, mine: bool = False, limit: int = 50, cursor: str | None = None) -> Page[Key]:
        """A page of the tenant's keys, or of one's own, the youngest first, without what opens them."""
        query = {"mine": "true" if mine else None, "limit": str(limit), "cursor": cursor}
        return await self._call(Page[Key], "GET", "/api/keys", params=query)

    async def create_key(
        self,
        name: str,
        *,
        scopes: Sequence[str] = (),
        expires_at: str | None = None,
        user: str | None = None,
        service: str | None = None,
    ) -> NewKey:
        """A new key, for oneself or for `user` or `service`; its secret is seen this once, so it is tried once."""
        body = {"name": name, "scopes": list(scopes), "expires_at": expires_at, "user": user, "service": service}
        return await self._call(NewKey, "POST", "/api/keys", json=present(body), once=True)

    async def rotate_key(self, key_id: str) -> NewKey:
        """A new key like that one, which stays good for another day. Tried once."""
        return await self._call(NewKey, "POST", f"/api/keys/{part(key_id)}/rotate", once=True)

    async def revoke_key(self, key_id: str) -> None:
        """End a key now."""
        await self._send("DELETE", f"/api/keys/{part(key_id)}")

    async def runners(self) -> list[Runner]:
        """The runners that serve the tenant, as they last said."""
        return (await self._call(Page[Runner], "GET", "/api/runners")).data

    async def drain_runner(self, runner: str) -> Runner:
        """Ask a runner to take nothing new; it hears it within a minute. Tried as often as needed."""
        return await self._call(Runner, "POST", f"/api/runners/{part(runner)}/drain")

    async def queues(self) -> list[QueueDepth]:
        """What waits in the queues of those runners."""
        return (await self._call(Page[QueueDepth], "GET", "/api/queues")).data
