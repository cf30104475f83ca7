"""The ask node: what its inputs ask, and which of its ports an answer makes live. The asking itself is `ctx.ask`."""

from typing import Any, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from perdure.core.event import Action, OnTimeout, UserValue
from perdure.core.graph.ports import fields


class AskInputs(Struct, frozen=True, kw_only=True):
    """The inputs of an ask node, literals and edges joined."""

    title: str
    message: str | None = None
    kind: Literal["approval", "choice", "input", "tool_call"] = "approval"
    actions: tuple[Action, ...] | None = None
    proposal: UserValue | UnsetType = UNSET
    proposal_schema: dict[str, UserValue] | None = None
    editable: tuple[str, ...] | None = None
    response_schema: dict[str, UserValue] | None = None
    defaults: dict[str, UserValue] | None = None
    ui: dict[str, UserValue] | None = None
    assignees: dict[str, UserValue] | tuple[str, ...] | None = None
    forbid_self: bool = False
    quorum: dict[str, UserValue] | None = None
    reminders: tuple[float, ...] = ()
    escalations: tuple[dict[str, UserValue], ...] = ()
    expires_in_seconds: float | None = None
    on_timeout: OnTimeout | None = None

    def arguments(self) -> dict[str, Any]:  # of `ctx.ask`, which takes the plain forms of a definition too
        """What is asked, as `ctx.ask` has it."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return {"expires_in": given.pop("expires_in_seconds"), **given}

    @property
    def literals(self) -> dict[str, UserValue]:
        """As much of what the definition says as its outputs hang on."""
        actions = {} if self.actions is None else {"actions": [{"id": action.id} for action in self.actions]}
        return {"kind": self.kind, "response_schema": self.response_schema, **actions}


class Answered(Protocol):
    """As much of the engine's answer as the ports are made of. `action` is None when the time-out took its branch."""

    @property
    def action(self) -> str | None: ...
    @property
    def payload(self) -> UserValue: ...
    @property
    def proposal(self) -> UserValue: ...
    @property
    def comment(self) -> str | None: ...


def ports(inputs: AskInputs, answer: Answered) -> dict[str, UserValue]:
    """The live ports: the action that was taken, what was said with it, or `timeout`.

    An action carries the proposal as it was approved, edited or not; where nothing was proposed, the payload. `timeout`
    carries the proposal as it was asked. Each field of the form that was said is live by itself.
    """
    proposed = inputs.proposal is not UNSET
    if answer.action is None:
        return {"timeout": inputs.proposal if proposed else None}
    said = answer.payload if isinstance(answer.payload, dict) else {}
    live = {name: said[name] for name in fields(inputs.literals) if name in said}
    live[answer.action] = answer.proposal if proposed else answer.payload
    if answer.payload is not None:
        live["payload"] = answer.payload
    if answer.comment is not None:
        live["comment"] = answer.comment
    return live


def decision(inputs: AskInputs, answer: Answered) -> dict[str, UserValue]:
    """What an ask node without successors gives as the job's output: the decision, members without a value absent."""
    if answer.action is None:
        return {"timed_out": True}
    said: dict[str, UserValue] = {"action": answer.action}
    if inputs.proposal is not UNSET:
        said["proposal"] = answer.proposal
    if answer.payload is not None:
        said["payload"] = answer.payload
    if answer.comment is not None:
        said["comment"] = answer.comment
    return said
