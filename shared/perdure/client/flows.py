"""Calls on flows: publish a definition, look at its versions, go back to one, delete."""

from typing import Any

from perdure.client.call import Caller, part
from perdure.client.records import Checked, Flow, Page
from perdure.errors import Conflict, NotFound


class FlowCalls(Caller):
    """What can be done with flows."""

    async def flows(self, *, limit: int = 50, cursor: str | None = None) -> Page[Flow]:
        """A page of flows."""
        return await self._call(Page[Flow], "GET", "/api/flows", params={"limit": str(limit), "cursor": cursor})

    async def flow(self, flow: str, version: int | None = None) -> Flow:
        """One flow at its newest version, or at `version`, by name or id."""
        path = f"/api/flows/{part(flow)}"
        return await self._call(Flow, "GET", path if version is None else f"{path}/versions/{version}")

    async def flow_versions(self, flow: str) -> list[Flow]:
        """Every version of a flow, the newest first, without definitions."""
        return (await self._call(Page[Flow], "GET", f"/api/flows/{part(flow)}/versions")).data

    async def check_flow(self, name: str, definition: Any, *, kind: str = "graph") -> Checked:  # Any: user value
        """What `definition` would amount to, without storing it. Raises Invalid (`invalid-flow`) with pointers."""
        body, query = {"name": name, "kind": kind, "definition": definition}, {"dry_run": "true"}
        return await self._call(Checked, "POST", "/api/flows", json=body, params=query)

    async def restore_flow(self, flow: str, version: int) -> Flow:
        """Make an old version's definition the newest version again."""
        return await self._call(Flow, "POST", f"/api/flows/{part(flow)}/versions/{version}/restore")

    async def delete_flow(self, flow: str, *, cancel_jobs: bool = False) -> None:
        """Delete a flow with its versions. Raises Conflict while jobs of it live, unless they are to be cancelled."""
        query = {"cancel_jobs": "true" if cancel_jobs else None}
        await self._send("DELETE", f"/api/flows/{part(flow)}", params=query)

    async def push_flow(self, name: str, definition: Any, *, kind: str = "graph") -> Flow:  # Any: user value
        """Publish `definition` as the newest version of the flow `name`; the same definition makes no new version.

        Raises Invalid (`invalid-flow`) with pointers into the body, Conflict when somebody publishes another meanwhile.
        """
        refused: Conflict | None = None
        for _ in range(2):
            try:
                flow = await self.flow(name)
                if flow.definition == definition:
                    return flow
                path, etag = f"/api/flows/{part(flow.id)}", {"If-Match": f'"{flow.version}"'}
                return await self._call(Flow, "PUT", path, json={"definition": definition}, headers=etag)
            except NotFound:
                pass
            except Conflict as exc:
                refused = exc  # changed meanwhile, perhaps by a try of ours whose answer was lost: look again
                continue
            try:
                body = {"name": name, "kind": kind, "definition": definition}
                return await self._call(Flow, "POST", "/api/flows", json=body)
            except Conflict as exc:
                refused = exc
        flow = await self.flow(name)
        if flow.definition == definition:
            return flow
        raise Conflict("name-taken", f"somebody else publishes {name} at this moment") from refused
