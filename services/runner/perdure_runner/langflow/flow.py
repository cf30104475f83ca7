"""A Langflow flow as a runner executes it, and what a job of it was given beside."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.langflow.given import Given
from perdure.core.langflow.overrides import Overrides
from perdure.errors import Malformed
from perdure.ids import Digest, JobRef, Tenant


class LangflowFlow(Struct, frozen=True):
    """A stored flow file, as `lfx` loads it; `digest` is that of its definition."""

    name: str
    definition: bytes
    digest: Digest


Unseal = Callable[[Tenant, ev.SubmittedData], Awaitable[Overrides]]
"""Opens what is sealed with a job. Raises Unavailable where the key is not here, Malformed."""


Recollect = Callable[[JobRef], Awaitable[list[dict[str, UserValue]]]]
"""What other jobs of a job's session have said, oldest first. Raises Unavailable."""


def flow_file(definition: bytes) -> bytes:
    """The flow file in a stored definition: a whole file, or its `data` alone. Raises Malformed."""
    try:
        found = msgspec.json.decode(definition)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise Malformed("a Langflow flow that is no JSON") from exc
    if isinstance(found, dict) and isinstance(found.get("data"), dict):
        return definition
    if isinstance(found, dict) and "nodes" in found:
        return msgspec.json.encode({"data": found})
    raise Malformed("a Langflow flow without data")


def given(value: Any) -> Given:  # Any: the input of a job
    """What the job was given: a text alone is the chat input. Raises Malformed."""
    if value is None or value is msgspec.UNSET:
        return Given()
    if isinstance(value, str):
        return Given(input_value=value)
    try:
        return msgspec.convert(value, Given)
    except msgspec.ValidationError as exc:
        raise Malformed(f"no input of a Langflow flow: {exc}") from exc
