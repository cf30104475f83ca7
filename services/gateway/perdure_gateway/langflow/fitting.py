"""What is checked of a run before anything is written, in the order of the contract; and what then is submitted."""

from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from perdure.core import codec
from perdure.core.event import FlowRef, UserValue
from perdure.core.graph.nested import digests
from perdure.core.graph.spec import GraphSpec, check_input, input_nodes, parse
from perdure.core.langflow import overrides, refusal
from perdure.core.langflow.gates import misplaced
from perdure.core.langflow.given import Given
from perdure.core.langflow.overrides import Overrides
from perdure.core.langflow.shape import FlowShape, faults_of, of_graph, of_langflow, of_python
from perdure.core.schema import faults
from perdure.db.flows import FlowVersion
from perdure.db.runners import list_runners
from perdure.errors import Invalid, NotFound
from perdure.ids import Digest
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, FLOWS, SQL
from perdure_gateway.langflow.flows import record_of
from perdure_gateway.langflow.ids import canonical
from perdure_gateway.langflow.models import Mode, RunBody
from perdure_gateway.subflows import announced

PROTOCOLS = ("agui", "langflow")
RUNS_WHOLE = "Flows of this kind run whole."
NO_FILES = "Files cannot be uploaded here yet."


class Run(Struct, frozen=True, kw_only=True):
    """A call that fits: `input` as it is stored, `overrides` with tweaks by component id, `fingerprint` of the body."""

    body: RunBody
    flow: FlowVersion
    ref: FlowRef
    inside: tuple[Digest, ...]
    input: UserValue
    shape: FlowShape
    overrides: Overrides
    fingerprint: Digest
    warnings: tuple[str, ...] = ()

    @property
    def session(self) -> str | None:
        """The session that the caller names."""
        return self.body.session_id or None

    @property
    def graph_state(self) -> bool:
        """Whether the stream shows the graph."""
        wanted = self.body.expose_graph_state
        return self.body.stream_protocol == "langflow" if wanted is None else wanted


async def fitting(request: web.Request, body: RunBody) -> Run:
    """The run that `body` asks for. Raises Refusal, Unavailable."""
    if body.stream_protocol not in PROTOCOLS:
        raise refusal.unknown_protocol(body.stream_protocol)
    flow = await _flow(request, body.flow_id)
    warnings: list[str] = []
    _fields(body, flow)
    if not request[CALLER].may("edit") and (body.data is not None or body.tweaks):
        body = body.model_copy(update={"data": None, "tweaks": {}})
        warnings.append("data and tweaks were left out: the key may run this flow, not change it")
    ref, inside, shape = await _definition(request, body, flow)
    _components(body, flow, shape)
    resolved = overrides.resolve(body.tweaks, shape)
    if resolved.refused:
        raise refusal.refused_tweaks(resolved.refused)
    globals_ = overrides.merged(body.globals, request.headers.items())
    _globals(globals_)
    body = body.model_copy(update={"globals": globals_})
    graph: GraphSpec | None = None
    if flow.kind == "graph":
        known = await request.app[FLOWS].graph(flow)
        graph = await _tweaked(request, flow, known, resolved.tweaks) if resolved.tweaks else known
    return Run(
        body=body,
        flow=flow,
        ref=ref,
        inside=inside,
        input=_input(body, flow, graph),
        shape=shape,
        overrides=Overrides(tweaks=resolved.tweaks, globals=globals_),
        fingerprint=fingerprint(body),
        warnings=tuple(warnings),
    )


def fingerprint(body: RunBody) -> Digest:
    """SHA-256 over the body with sorted keys and defaults filled in, without its key; globals of headers are in it."""
    return Digest(sha256(codec.canonical(body.model_dump(mode="json", exclude={"idempotency_key"}))).hexdigest())


async def _flow(request: web.Request, named: str) -> FlowVersion:
    caller, flow_id = request[CALLER], canonical(named)
    try:
        flow = await request.app[FLOWS].get(caller.tenant, flow_id or named)
    except NotFound:
        raise refusal.flow_not_found(named) from None
    if not caller.may("execute"):
        text = "You can read this flow, but not run it."
        raise refusal.coded(403, "Flow execution forbidden", "FLOW_EXECUTE_FORBIDDEN", text, flow_id=flow.id)
    return flow


def _fields(body: RunBody, flow: FlowVersion) -> None:
    """Members that the mode, or the kind of the flow, does not take."""
    partial = [name for name in ("start_component_id", "stop_component_id") if getattr(body, name) is not None]
    if body.mode is Mode.SYNC:
        given = ["data"] if body.data is not None else []
        given += ["files"] if body.files else []
        if given + partial:
            raise refusal.sync_fields(given + partial)
        return
    if body.output_ids:
        why = "Output selection via output_ids only applies to mode='sync'."
        raise refusal.mode_fields(body.mode, ["output_ids"], why)
    if body.files:
        raise refusal.mode_fields(body.mode, ["files"], NO_FILES)
    whole = (["data"] if body.data is not None else []) + partial
    if flow.kind != "langflow" and whole:
        raise refusal.mode_fields(body.mode, whole, RUNS_WHOLE)


async def _definition(
    request: web.Request, body: RunBody, flow: FlowVersion
) -> tuple[FlowRef, tuple[Digest, ...], FlowShape]:
    """What the job executes, the definitions inside it, and its shape."""
    ref = FlowRef(id=flow.id, name=flow.name, version=flow.version, kind=flow.kind, digest=flow.digest)
    if flow.kind == "graph":
        graph = await request.app[FLOWS].graph(flow)
        return ref, digests(graph), of_graph(graph)
    if flow.kind == "python":
        return ref, (), of_python(flow.outputs)
    data: Any = body.data if body.data is not None else record_of(flow).data
    if data is None:
        raise refusal.invalid_flow(flow.id, f"Flow {flow.id} has no data. The flow may be corrupted.")
    if (why := faults_of(data)) is not None:
        raise refusal.invalid_flow(flow.id, f"Flow {flow.id} cannot run: {why}.")
    if gates := misplaced(data):
        text = "A request to a person inside of a loop or of a nested flow cannot suspend the run."
        raise refusal.coded(422, "Unsupported place of a gate", "HITL_UNSUPPORTED_PLACE", text, components=list(gates))
    digest = flow.digest
    if body.data is not None:
        digest = await request.app[DESK].eventlog.blobs.put(request[CALLER].tenant, codec.canonical(data))
    return msgspec.structs.replace(ref, digest=digest), (), of_langflow(data)


def _components(body: RunBody, flow: FlowVersion, shape: FlowShape) -> None:
    """Components that the body names."""
    terminals = {component.id for component in shape.terminals}
    unknown = [name for name in body.output_ids or () if name not in terminals]
    if unknown:
        raise refusal.unknown_outputs(unknown, terminals)
    for member in ("start_component_id", "stop_component_id"):
        named = getattr(body, member)
        if named is not None and shape.find(named) is None:
            text = f"{member} names no component of the flow."
            known = sorted(component.id for component in shape.components)
            raise refusal.coded(422, "Unknown component", "UNKNOWN_COMPONENT", text, field=member, available=known)


def _globals(found: dict[str, str]) -> None:
    """The sizes of those that came in headers; the body's have been seen to."""
    for name, value in found.items():
        if len(name) > overrides.MAX_NAME or len(value) > overrides.MAX_GLOBAL or overrides.unfit([name, value]):
            text = "A global of a header has a name or a value that cannot be stored."
            raise refusal.coded(422, "Invalid request overrides", "INVALID_REQUEST_OVERRIDES", text, field="globals")


async def _tweaked(request: web.Request, flow: FlowVersion, known: GraphSpec, tweaks: overrides.Tweaks) -> GraphSpec:
    """The graph as the tweaks make it. Raises Refusal in the list form for what is no such literal, Unavailable."""
    definition = overrides.applied(msgspec.json.decode(flow.definition), tweaks)
    async with request.app[SQL].reading() as conn:
        catalogue = announced(await list_runners(conn, flow.tenant))
    try:
        return parse(definition, catalogue, known.flows)
    except Invalid as exc:
        items = [
            refusal.fault("value_error", ["body", "tweaks"], f"Value error, {fault.pointer}: {fault.detail}")
            for fault in exc.faults
        ]
        raise refusal.listed(*items) from None


def _input(body: RunBody, flow: FlowVersion, graph: GraphSpec | None) -> UserValue:
    """The job's input, as flows of each kind take it. Raises Refusal in the list form."""
    text = body.input_value
    if flow.kind == "langflow":
        given = Given(
            input_value=text, start_component_id=body.start_component_id, stop_component_id=body.stop_component_id
        )
        return msgspec.to_builtins(given)
    try:
        return _python_input(flow, text) if graph is None else _graph_input(graph, text)
    except Invalid as exc:
        items = [
            refusal.fault("value_error", ["body", "input_value"], f"Value error, {fault.pointer}: {fault.detail}")
            for fault in exc.faults
        ]
        raise refusal.listed(*items) from None


def _graph_input(graph: GraphSpec, text: str) -> UserValue:
    """The text is that of the first chat input, or of the first input node; no text leaves the defaults."""
    nodes = input_nodes(graph)
    chats = [node for node in nodes if node.component == "chat_input"] or list(nodes)
    if not chats:
        return check_input(graph, None)
    if text == "" and all("default" in node.inputs for node in nodes):
        return check_input(graph, None)
    return check_input(graph, {node.id: text for node in chats[:1]})


def _python_input(flow: FlowVersion, text: str) -> UserValue:
    """The text as it is where the flow takes text; else the JSON that it holds."""
    if flow.input_schema is None or not (wrong := faults(flow.input_schema, text, "/input")):
        return text
    try:
        value = codec.decode_value(text.encode())
    except ValueError:
        raise Invalid(wrong, "invalid-input") from None
    if found := faults(flow.input_schema, value, "/input"):
        raise Invalid(found, "invalid-input")
    return value
