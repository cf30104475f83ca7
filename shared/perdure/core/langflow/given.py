"""What a job of a Langflow flow file is given: the input of `job.submitted` for flows of the kind `langflow`."""

from msgspec import Struct


class Given(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The chat input ("" leaves what the flow says), and where a partial run begins and ends, by component id."""

    input_value: str = ""
    start_component_id: str | None = None
    stop_component_id: str | None = None
