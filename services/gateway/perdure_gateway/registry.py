"""What runners say of themselves: their presence, and their Python flows as rows of kind `python`."""

from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.bus.callbodies import FlowOffer, Register, Registered, Stored
from perdure.clock import Clock
from perdure.core.instant import Instant
from perdure.core.schema import check_schema, pointer
from perdure.db import langflows, runners, served
from perdure.db.flows import FlowVersion, get_flow, put_flow
from perdure.db.principals import known_tenants
from perdure.db.runners import RunnerRow
from perdure.errors import Conflict, Fault, Invalid, Malformed
from perdure.ids import DIGEST, FLOW_NAME, Principal, Tenant, is_token, is_uuid
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.sql import Sql

OWNER: Final = Principal("service:runners")  # of every Python flow: nobody's to change over HTTP
FORMAT: Final = "perdure.python/1"
MOST: Final = 1_000  # flows, queues, tenants, components of one runner


class Registry:
    """Takes registrations. What it writes is seen by other gateways within a minute, by this one at once."""

    def __init__(self, sql: Sql, flows: FlowHeads, clock: Clock) -> None:
        self._sql = sql
        self._flows = flows
        self._clock = clock

    async def register(self, said: Register) -> Registered:
        """Note the runner and store its flows; whether it is to drain, and which versions its flows are.

        A flow becomes a new version when its digest is another than the newest one's and this runner has not offered it
        before: runners of two releases that refresh side by side do not take turns. Raises Malformed, Invalid,
        Unavailable.
        """
        _check(said)
        now = self._clock.broker_now()
        row = RunnerRow(
            runner=said.runner,
            version=said.version,
            queues=said.queues,
            priorities=said.priorities,
            slots=said.slots,
            running=said.running,
            tenants=said.tenants,
            flows={flow.name: flow.digest for flow in said.flows},
            components=said.components,
            first_seen_at=now,
            seen_at=now,
        )
        stored: dict[str, dict[Tenant, Stored]] = {}
        made: list[FlowVersion] = []
        async with self._sql.writing() as conn:
            if said.leaving:
                await runners.forget(conn, said.runner)
                return Registered()
            before = await runners.see(conn, row)
            if said.langflow:
                await served.note(conn, said.queues, langflows.KIND, now)
            known = await known_tenants(conn, said.tenants)
            for flow in said.flows:
                stored[flow.name] = {}
                offered = before is not None and before.flows.get(flow.name) == flow.digest
                for tenant in said.tenants:
                    if tenant not in known:
                        stored[flow.name][tenant] = Stored(problem="no-such-tenant")
                        continue
                    try:
                        version = await self._store(conn, tenant, flow, now, offered=offered)
                    except Conflict as exc:
                        stored[flow.name][tenant] = Stored(problem=exc.code)
                    else:
                        stored[flow.name][tenant] = Stored(id=version.id, version=version.version)
                        if version.updated_at == now:  # else what is in memory is still right, and may be needed
                            made.append(version)
        for version in made:
            self._flows.forget(version)
        return Registered(drain=before is not None and before.drain_at is not None, flows=stored)

    async def _store(
        self, conn: AsyncConnection, tenant: Tenant, flow: FlowOffer, now: Instant, *, offered: bool
    ) -> FlowVersion:
        if offered:
            there = await get_flow(conn, tenant, flow.name)
            if there is not None and there.kind == "python":
                return there
        return await put_flow(
            conn,
            tenant,
            OWNER,
            flow.name,
            "python",
            msgspec.json.encode(_definition(flow)).decode(),
            flow.digest,
            now=now,
            input_schema=flow.input_schema,
            output_schema=flow.output_schema,
            description=flow.description,
        )


def _definition(flow: FlowOffer) -> dict[str, Any]:
    """A Python flow as its row holds it: where its code is, never the code."""
    definition: dict[str, Any] = {"format": FORMAT, "module": flow.module, "name": flow.name, "digest": flow.digest}
    for name in ("description", "input_schema", "output_schema"):
        if (value := getattr(flow, name)) is not None:
            definition[name] = value
    return definition


def _check(said: Register) -> None:
    """A runner is trusted with its code, not with our database: what it says must be what it can be."""
    tokens = (*said.queues, *said.tenants)
    counts = (said.queues, said.priorities, said.tenants, said.flows, said.components)
    if not is_uuid(said.runner) or not all(map(is_token, tokens)) or any(len(found) > MOST for found in counts):
        raise Malformed("not a runner")
    if said.slots < 1 or said.running < 0 or max(said.slots, said.running) > 1_000_000 or not said.tenants:
        raise Malformed("not a runner")
    faults: list[Fault] = []
    for index, flow in enumerate(said.flows):
        if FLOW_NAME.fullmatch(flow.name) is None:
            faults.append(Fault("malformed", "not the name of a flow", pointer=pointer("flows", index, "name")))
        if DIGEST.fullmatch(flow.digest) is None:
            faults.append(Fault("malformed", "not a digest", pointer=pointer("flows", index, "digest")))
        for name in ("input_schema", "output_schema"):
            schema = getattr(flow, name)
            if schema is not None:
                check_schema(schema, pointer("flows", index, name))
    if faults:
        raise Invalid(faults)
