"""From the digest that a job names to a workflow: definitions and those inside them are read as blobs of the tenant."""

from typing import Any

import pytest
from msgspec.structs import replace

from perdure import component
from perdure.bus import blob
from perdure.bus.connection import Bus
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import FlowRef
from perdure.core.instant import Instant
from perdure.core.langflow.overrides import Overrides
from perdure.engine.workflow import Workflow
from perdure.errors import UnsupportedVersion
from perdure.ids import Digest, Queue, Tenant
from perdure.jobs.overrides import seal
from perdure.seal import MasterKeys, new_master_key
from perdure.testing.factory import FINGERPRINT, OWNER
from perdure.testing.memory import MemoryJob
from perdure_runner.flows import Flows
from perdure_runner.langflow.flow import LangflowFlow


def definition(name: str, component: str = "text_input", **inputs: Any) -> dict[str, Any]:
    return {
        "format": "perdure.graph/1",
        "name": name,
        "nodes": [{"id": "a", "component": component, "inputs": inputs}],
    }


def ref(digest: Digest) -> FlowRef:
    return FlowRef(id="f", name="top", version=1, kind="graph", digest=digest)


async def put(bus: Bus, tenant: Tenant, what: dict[str, Any]) -> Digest:
    return await blob.put(bus, tenant, codec.canonical(what))


async def test_a_flow_runs_with_the_flows_inside_it(bus: Bus, tenant: Tenant) -> None:
    leaf = await put(bus, tenant, definition("leaf", "template", template="hello"))
    middle = await put(bus, tenant, definition("middle", "subflow", flow=f"leaf@{leaf}"))
    top = await put(bus, tenant, definition("top", "map", items=[], flow=f"middle@{middle}") | {"nodes": [
        {"id": "one", "component": "subflow", "inputs": {"flow": f"middle@{middle}"}},
        {"id": "two", "component": "subflow", "inputs": {"flow": f"leaf@{leaf}"}}]})  # fmt: skip
    flows = Flows(bus, None)
    workflow = await flows.workflow(tenant, ref(top))
    assert isinstance(workflow, Workflow)
    assert (workflow.name, workflow.digest) == ("top", top)
    assert await flows.workflow(tenant, ref(top)) is workflow
    job = MemoryJob(input={})
    await job.run(workflow)
    assert job.outputs == {"one": "hello", "two": "hello"}
    assert {data.path for data in job.events(ev.StepCompleted)} == {"/one/a/a", "/two/a"}


@pytest.mark.parametrize(
    ("component", "inputs"),
    [
        ("subflow", {"flow": "leaf@" + "0" * 64}),  # a blob that is not there
        ("subflow", {"flow": "leaf"}),  # never published like this
        ("subflow", {"flow": "leaf@3"}),
        ("telepathy", {}),
    ],
)
async def test_what_this_runner_cannot_run_is_handed_to_another(
    bus: Bus, tenant: Tenant, component: str, inputs: dict[str, Any]
) -> None:
    digest = await put(bus, tenant, definition("top", component, **inputs))
    with pytest.raises(UnsupportedVersion):
        await Flows(bus, None).workflow(tenant, ref(digest))


async def test_a_chain_of_flows_that_is_too_long_is_refused(bus: Bus, tenant: Tenant) -> None:
    digest = await put(bus, tenant, definition("leaf", "template", template="x"))
    for _ in range(8):
        digest = await put(bus, tenant, definition("n", "subflow", flow=f"n@{digest}"))
    with pytest.raises(UnsupportedVersion):
        await Flows(bus, None).workflow(tenant, ref(digest))


def shorten(text: str) -> str:
    return text[:2]


async def test_components_of_users_are_for_the_tenants_of_the_runner(bus: Bus, tenant: Tenant) -> None:
    digest = await put(bus, tenant, definition("own", "shorten", text="hello"))
    own = {"shorten": component(shorten)}
    job = MemoryJob(input={})
    workflow = await Flows(bus, None, tenants=[tenant], components=own).workflow(tenant, ref(digest))
    assert isinstance(workflow, Workflow)
    await job.run(workflow)
    assert job.outputs == {"a": "he"}
    for flows in (Flows(bus, None, tenants=["other"], components=own), Flows(bus, None, tenants=[tenant])):
        with pytest.raises(UnsupportedVersion):
            await flows.workflow(tenant, ref(digest))


async def test_a_langflow_flow_is_run_where_the_runner_was_started_for_it(bus: Bus, tenant: Tenant) -> None:
    digest = await blob.put(bus, tenant, b'{"nodes": [], "edges": []}')
    flow = FlowRef(id="f", name="f", version=1, kind="langflow", digest=digest)
    with pytest.raises(UnsupportedVersion, match="--langflow"):
        await Flows(bus, None).workflow(tenant, flow)
    found = await Flows(bus, None, langflow=True).workflow(tenant, flow)
    assert found == LangflowFlow("f", b'{"data":{"nodes":[],"edges":[]}}', digest)


@pytest.mark.parametrize("definition", [b"[]", b"{", b'{"data": []}'])
async def test_what_is_no_langflow_flow_is_handed_to_another(bus: Bus, tenant: Tenant, definition: bytes) -> None:
    digest = await blob.put(bus, tenant, definition)
    flow = FlowRef(id="f", name="f", version=1, kind="langflow", digest=digest)
    with pytest.raises(UnsupportedVersion):
        await Flows(bus, None, langflow=True).workflow(tenant, flow)


KEYS = MasterKeys(new_master_key())


def graph(found: Workflow | LangflowFlow) -> Workflow:
    assert isinstance(found, Workflow)
    return found


def submitted(flow: FlowRef, tenant: Tenant, tweaks: dict[str, Any], keys: MasterKeys = KEYS) -> ev.SubmittedData:
    """A job's first event, with tweaks sealed in it."""
    return ev.SubmittedData(
        flow=flow,
        owner=OWNER,
        queue=Queue("default"),
        priority="normal",
        deadline_at=Instant("2030-01-01T00:00:00.000Z"),
        fingerprint=FINGERPRINT,
        sealed=seal(keys, tenant, FINGERPRINT, Overrides(tweaks=tweaks)),
    )


async def test_025_a_graph_runs_with_the_tweaks_that_are_sealed_with_the_job(bus: Bus, tenant: Tenant) -> None:
    leaf = await put(bus, tenant, definition("leaf", "template", template="leaf"))
    nodes = [
        {"id": "own", "component": "template", "inputs": {"template": "stored"}},
        {"id": "sub", "component": "subflow", "inputs": {"flow": f"leaf@{leaf}"}},
    ]
    digest = await put(bus, tenant, {"format": "perdure.graph/1", "name": "top", "nodes": nodes})
    flows, flow = Flows(bus, None, master_keys=KEYS), ref(digest)
    tweaks = {"own": {"template": "tweaked", "nope": 1}, "gone": {"template": "x"}}
    for _ in range(2):  # a second attempt opens them again
        job = MemoryJob(input={})
        await job.run(graph(await flows.workflow(tenant, flow, submitted(flow, tenant, tweaks))))
        assert job.outputs == {"own": "tweaked", "sub": "leaf"}
    plain = MemoryJob(input={})
    await plain.run(graph(await flows.workflow(tenant, flow)))
    assert plain.outputs == {"own": "stored", "sub": "leaf"}


async def test_tweaks_that_were_too_large_for_their_event_are_read_from_their_blob(bus: Bus, tenant: Tenant) -> None:
    flow = ref(await put(bus, tenant, definition("top", "template", template="stored")))
    first = submitted(flow, tenant, {"a": {"template": "tweaked"}})
    body = codec.canonical(first.sealed)
    lies = ev.BlobRef(sha256=await blob.put(bus, tenant, body), size_bytes=len(body), media_type="application/json")
    job = MemoryJob(input={})
    moved = replace(first, sealed=None, sealed_ref=lies)
    await job.run(graph(await Flows(bus, None, master_keys=KEYS).workflow(tenant, flow, moved)))
    assert job.outputs == {"a": "tweaked"}


async def test_without_the_key_or_with_what_does_not_fit_the_job_is_left_to_others(bus: Bus, tenant: Tenant) -> None:
    flow = ref(await put(bus, tenant, definition("top", "template", template="stored")))
    for keys, tweaks in ((MasterKeys(), {"a": {"template": "x"}}), (KEYS, {"a": {"template": 5}})):
        with pytest.raises(UnsupportedVersion):
            await Flows(bus, None, master_keys=keys).workflow(tenant, flow, submitted(flow, tenant, tweaks))
