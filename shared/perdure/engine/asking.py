"""What the code asks, and how it was settled: the arguments of `ctx.ask`, checked whole, and the answer it gets."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar

from msgspec import UNSET, Struct, convert, to_builtins

from perdure.core import askable, asked
from perdure.core import event as ev
from perdure.core.codec import INLINE_VALUE_BYTES, encode_value
from perdure.core.graph import literal
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.faults import Faults
from perdure.core.jcs import jcs
from perdure.core.request import proposal_digest
from perdure.engine.described import form_of
from perdure.engine.values import UNSHAPED, Shape, plain, shaped
from perdure.errors import Malformed, NotApproved

T = TypeVar("T")
RequestKind = Literal["approval", "choice", "input", "tool_call"]
Who = ev.Assignees | Sequence[str]  # "user:bob", "group:finance", "anyone"
Duration = float | timedelta

_CHECKED: Final = [
    port for port in BUILTIN["ask"].inputs if port.name not in ("actions", "proposal", "expires_in_seconds")
]  # the rest code may say in more ways than a definition
_FOREVER: Final = 1e12  # seconds; what lies beyond the calendar lasts as long as the job
REFUSING: Final = ("reject", "respond")  # actions of the kinds' own that approve nothing
_ACTIONS: Final[dict[RequestKind, tuple[ev.Action, ...]]] = {
    "approval": (ev.Action(id="approve", style="primary"), ev.Action(id="reject", style="danger")),
    "choice": (),
    "input": (ev.Action(id="submit", style="primary"),),
    "tool_call": tuple(ev.Action(id=i) for i in ("approve", "edit", "reject", "respond")),
}


class Answer(Struct, Generic[T], frozen=True, kw_only=True):
    """How a request was settled. `action` is None when it expired and the code was to go on by itself (`branch`).

    `payload` is an instance of the `schema` that was asked for, once what was said is one: an action that requires less
    than the schema, and a time-out, may leave it plain.
    """

    action: str | None
    payload: T
    proposal: Any = None  # as approved: edited, or as it was shown
    comment: str | None = None
    by: str | None = None  # a principal; None when it expired
    timed_out: bool = False
    edited: bool = False  # what was approved is not what the code proposed
    votes: tuple[ev.Vote, ...] = ()
    cause: Literal["deadline", "no_quorum"] | None = None  # why it expired
    digest: str | None = None  # of what was shown; None when nothing was proposed
    request_id: str | None = None

    def require(self, proposal: object) -> None:
        """See that exactly `proposal` was approved: call it in the step that acts on it.

        Raises NotApproved, which ends a step for good, when something else was approved, when the action refuses
        (reject, respond), and when nobody answered or nothing was proposed.
        """
        if self.action is None or self.action in REFUSING:
            raise NotApproved(f"request {self.request_id} was not approved: {self.action or 'nobody answered'}")
        if self.digest is None:
            raise NotApproved(f"request {self.request_id} proposed nothing that could be approved")
        if jcs(plain(proposal)) != jcs(self.proposal):
            raise NotApproved(f"what was approved with request {self.request_id} is not what is to be acted on")


Check = Callable[[Answer[T]], Awaitable[None] | None]


class AskOptions(TypedDict, total=False):
    """What `ctx.ask` and `ctx.approve_tool` take beside the question itself."""

    message: str | None  # CommonMark
    actions: Sequence[ev.Action | str] | None
    assignees: Who | None
    forbid_self: bool
    quorum: ev.Quorum | int | None
    expires_in: Duration | None
    reminders: Sequence[Duration]
    escalations: Sequence[ev.Escalation] | Mapping[Duration, Sequence[str]]
    on_timeout: ev.OnTimeout | None
    ui: dict[str, Any] | None
    external_ids: Mapping[str, str] | None


class Asking(Struct, frozen=True, kw_only=True):
    """What the code wants to ask; checked and plain, but not yet of a place in the log."""

    kind: RequestKind
    title: str
    message: str | None
    actions: tuple[ev.Action, ...]
    proposal: Any  # any JSON
    digest: str | None
    proposal_schema: dict[str, Any] | None
    editable: tuple[str, ...] | None
    response_schema: dict[str, Any] | None
    defaults: dict[str, Any] | None
    assignees: ev.Assignees | None
    forbid_self: bool
    quorum: ev.Quorum | None
    expires_in: float | None  # seconds
    reminders: tuple[float, ...]  # seconds
    escalations: tuple[ev.Escalation, ...]
    on_timeout: ev.OnTimeout | None
    ui: dict[str, Any] | None
    external_ids: dict[str, str]
    shape: Shape  # what the payload is converted to


def asking(
    *,
    asker: str,
    kind: RequestKind = "approval",
    title: str,
    message: str | None = None,
    actions: Sequence[ev.Action | str] | None = None,
    proposal: Any = UNSET,  # any JSON, UNSET for none
    proposal_schema: dict[str, Any] | None = None,
    editable: Sequence[str] | None = None,
    response_schema: dict[str, Any] | None = None,
    schema: Shape = None,
    defaults: dict[str, Any] | None = None,
    assignees: Who | None = None,
    forbid_self: bool = False,
    quorum: ev.Quorum | int | None = None,
    expires_in: Duration | None = None,
    reminders: Sequence[Duration] = (),
    escalations: Sequence[ev.Escalation] | Mapping[Duration, Sequence[str]] = (),
    on_timeout: ev.OnTimeout | None = None,
    ui: dict[str, Any] | None = None,
    external_ids: Mapping[str, str] | None = None,
) -> Asking:
    """The checked arguments of `ctx.ask`. `asker` is the principal for whom the job runs.

    Raises Invalid (`invalid-request`) naming every argument that cannot be by its JSON Pointer; Malformed for values
    that are no JSON, TooLarge when they do not fit into an event together.
    """
    faults = Faults()
    wait = None if expires_in is None else seconds(expires_in)
    if wait is not None and not wait >= 0:  # NaN is not either
        faults.add("/expires_in", "out-of-range", "must not lie in the past")
        wait = None
    if schema is not None:
        if response_schema is not None:
            faults.add("/response_schema", "not-allowed", "the schema says it already")
        response_schema = form_of(schema)
    offered = (
        _ACTIONS.get(kind, ()) if actions is None else [ev.Action(id=a) if isinstance(a, str) else a for a in actions]
    )
    given: dict[str, Any] = {
        "title": title,
        "message": message,
        "kind": kind,
        "actions": [ev.Action(id=a) if isinstance(a, str) else a for a in offered],
        "proposal_schema": proposal_schema,
        "editable": None if editable is None else list(editable),
        "response_schema": response_schema,
        "defaults": defaults,
        "ui": ui,
        "assignees": assignees,
        "forbid_self": forbid_self or None,
        "quorum": {"n": quorum} if isinstance(quorum, int) else quorum,
        "reminders": list(map(seconds, reminders)) or None,
        "escalations": _escalations(escalations) or None,
        "expires_in_seconds": None if wait is None else min(wait, _FOREVER),
        "on_timeout": None if on_timeout is None else {"do": on_timeout.do, **to_builtins(on_timeout)},
        "external_ids": external_ids or None,
    }
    given = plain({name: value for name, value in given.items() if value is not None})
    if proposal is not UNSET:
        given["proposal"] = plain(proposal)
    _check(given, asker, faults)
    if not faults and on_timeout is not None and on_timeout.do == "answer":
        _typed_late(given, schema, faults)
    if faults:
        faults.refuse("invalid-request")
    # What cannot leave the event is bounded together; the proposal and the answer of a time-out may become blobs.
    encode_value([v for name, v in given.items() if name not in ("proposal", "on_timeout")], INLINE_VALUE_BYTES)
    encode_value(given.get("on_timeout"))
    return Asking(
        kind=kind,
        title=title,
        message=message,
        actions=convert(given["actions"], tuple[ev.Action, ...]),
        proposal=given.get("proposal"),
        digest=None if proposal is UNSET else proposal_digest(title, message, given["proposal"]),
        proposal_schema=given.get("proposal_schema"),
        editable=None if editable is None else tuple(editable),
        response_schema=given.get("response_schema"),
        defaults=given.get("defaults"),
        assignees=None if assignees is None else asked.assigned(given["assignees"]),
        forbid_self=forbid_self,
        quorum=_quorum(given.get("quorum")),
        expires_in=wait,
        reminders=tuple(given.get("reminders", ())),
        escalations=tuple(
            ev.Escalation(after_seconds=item["after_seconds"], add=asked.assigned(item["add"]))
            for item in given.get("escalations", ())
        ),
        on_timeout=on_timeout,
        ui=given.get("ui"),
        external_ids=given.get("external_ids", {}),
        shape=UNSHAPED if schema is None else schema,
    )


def seconds(duration: Duration) -> float:
    """A duration as a number of seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def _check(given: dict[str, Any], asker: str, faults: Faults) -> None:
    """What an ask node is held to when it is published, and what only code can say."""
    for port in _CHECKED:
        if port.name in given:
            literal.check(port, given[port.name], given, f"/{port.name}", faults)
    asked.actions(given["actions"], (), "/actions", faults)
    if "external_ids" in given:
        asked.external_ids(given["external_ids"], "/external_ids", faults)
    if "proposal" not in given:
        for name in ("editable", "proposal_schema"):
            if name in given:
                faults.add(f"/{name}", "not-allowed", "there is no proposal")
    if not faults:
        askable.check(given, "", faults, asker=asker.removeprefix("user:") if asker.startswith("user:") else None)


def _typed_late(given: dict[str, Any], shape: Shape, faults: Faults) -> None:
    """That the answer of the time-out is an instance, where everything that the type requires is there."""
    late = given["on_timeout"]
    action = next(a for a in given["actions"] if a["id"] == late["action"])
    if shape is not None and "requires" not in action:
        try:
            shaped(late.get("payload", {}), shape)
        except Malformed as exc:
            faults.add("/on_timeout/payload", "type", str(exc))


def _escalations(given: Sequence[ev.Escalation] | Mapping[Duration, Sequence[str]]) -> list[Any]:
    if isinstance(given, Mapping):
        return [{"after_seconds": seconds(after), "add": add} for after, add in given.items()]
    return list(given)


def _quorum(given: dict[str, Any] | None) -> ev.Quorum | None:
    if given is None:
        return None
    pool = asked.assigned(given["of"]) if "of" in given else None
    return ev.Quorum(n=given["n"], of=pool, veto=tuple(given.get("veto", ())))
