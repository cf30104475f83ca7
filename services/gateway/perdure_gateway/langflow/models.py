"""The bodies of the API, as Pydantic takes them: its own words for faults are what Langflow's clients know."""

import re
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from perdure.core.langflow.overrides import MAX_GLOBAL, MAX_NAME
from perdure_gateway.bodies import MAX_DEADLINE_SECONDS
from perdure_gateway.langflow.ids import canonical

GlobalName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME)]
GlobalValue = Annotated[str, StringConstraints(max_length=MAX_GLOBAL)]
FlowName = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
ENDPOINT: Final = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
TagValue = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Mode(StrEnum):
    """How the client waits."""

    SYNC = "sync"
    STREAM = "stream"
    BACKGROUND = "background"


class RunBody(BaseModel):
    """`POST /api/v2/workflows`. The last three are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flow_id: str
    input_value: str = ""
    mode: Mode = Mode.SYNC
    session_id: Annotated[str, StringConstraints(max_length=1024)] | None = None
    tweaks: dict[str, Any] = {}
    globals: dict[GlobalName, GlobalValue] = {}
    output_ids: list[str] | None = None
    stream_protocol: str = "langflow"
    expose_graph_state: bool | None = None
    data: dict[str, Any] | None = None
    files: list[str] | None = None
    start_component_id: str | None = None
    stop_component_id: str | None = None
    idempotency_key: Annotated[str, StringConstraints(max_length=255)] | None = None
    deadline_seconds: Annotated[float, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = None
    priority: Literal["low", "normal", "high"] = "normal"
    tags: Annotated[dict[TagName, TagValue], Field(max_length=16)] = {}

    @model_validator(mode="after")
    def _flow_is_a_uuid(self) -> Self:
        if canonical(self.flow_id) is None:
            raise ValueError("Invalid flow_id, must be a UUID")
        return self


class StopBody(BaseModel):
    """`POST /api/v2/workflows/stop`; unknown members are passed over, as in 1.13."""

    job_id: str

    @field_validator("job_id")
    @classmethod
    def _job_is_a_uuid(cls, value: str) -> str:
        found = canonical(value)
        if found is None:
            raise ValueError("Invalid job_id, must be a UUID")
        return found


class ResumeBody(BaseModel):
    """`POST /api/v2/workflows/{job_id}/resume`. What the decision holds is judged with the request that it answers."""

    request_id: Annotated[str, StringConstraints(max_length=512)]
    decision: Any = None


class FlowChanges(BaseModel):
    """`PATCH /api/v1/flows/{id}`: what is None stays; unknown members are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: FlowName | None = None
    description: str | None = None
    data: dict[str, Any] | None = None
    endpoint_name: str | None = None
    tags: list[str] | None = None

    @field_validator("data")
    @classmethod
    def _data_is_a_flow(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        for member in ("nodes", "edges"):
            if member not in value:
                raise ValueError(f"Flow must have {member}")
        return value

    @field_validator("endpoint_name")
    @classmethod
    def _endpoint_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and ENDPOINT.fullmatch(value) is None:
            raise ValueError("Endpoint name must contain only letters, numbers, hyphens, and underscores")
        return value


class FlowBody(FlowChanges):
    """`POST /api/v1/flows/`, `PUT /api/v1/flows/{id}`, and each flow of an upload."""

    name: FlowName
    id: str | None = None
