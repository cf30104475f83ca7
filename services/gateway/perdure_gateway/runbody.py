"""The body of `POST /api/agui/{flow}`: a RunAgentInput of AG-UI 1.x, taken as widely as the protocol asks.

Members that we do not know are left alone, and what has no value may be null: other clients than ours write it. Our own
options in `forwardedProps.perdure` are taken strictly.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator

from perdure.core.schema import pointer
from perdure.core.surface.runinput import OWN, RunInput
from perdure.errors import Fault, Invalid
from perdure_gateway.bodies import MAX_DEADLINE_SECONDS, Body, Tags, Text, parse

MAJOR: Final = "1"
MAX_NAME: Final = 256

Named = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]


class RunOptions(Body):
    """`forwardedProps.perdure`."""

    tags: Tags = Field(default_factory=dict)
    priority: Literal["low", "normal", "high"] = "normal"
    deadline_seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None
    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None


class RunBody(Body):
    """A RunAgentInput."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    user_values = frozenset({"state", "tools", "context", "forwardedProps", "resume", "parentRunId", "protocolVersion"})

    threadId: Text  # the names are the protocol's
    runId: Named
    messages: list[dict[str, Any]]
    state: Any = None
    tools: list[Any] | None = None
    context: list[Any] | None = None
    forwardedProps: Any = None
    parentRunId: Named | None = None
    protocolVersion: Annotated[str, StringConstraints(max_length=32)] | None = None
    resume: list[Any] | None = None

    @field_validator("messages")
    @classmethod
    def _messages(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for message in value:
            if not all(isinstance(message.get(name), str) and message[name] for name in ("id", "role")):
                raise ValueError("each message must have an id and a role")
        return value

    @field_validator("state")
    @classmethod
    def _state(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            raise ValueError("must be an object: its key perdure is set")
        return value

    @field_validator("protocolVersion")
    @classmethod
    def _version(cls, value: str | None) -> str | None:
        if value is not None and value.partition(".")[0] != MAJOR:
            raise ValueError("must be 1, with any minor version")
        return value

    def options(self) -> RunOptions:
        """Our own options. Raises Invalid (`invalid-body`)."""
        given = self.forwardedProps.get(OWN) if isinstance(self.forwardedProps, dict) else None
        if given is None:
            return RunOptions()
        try:
            return parse(given, RunOptions)
        except Invalid as exc:
            at = pointer("forwardedProps", OWN)
            faults = [Fault(f.code, f.detail, pointer=at + (f.pointer or "")) for f in exc.faults]
            raise Invalid(faults) from None

    def run(self) -> RunInput:
        """What a flow can use of it."""
        return RunInput(
            thread_id=self.threadId,
            run_id=self.runId,
            parent_run_id=self.parentRunId,
            messages=self.messages,
            state=self.state,
            tools=self.tools or [],
            context=self.context or [],
            forwarded=self.forwardedProps,
        )
