"""The journal entry of a finished component of a Langflow flow: what its `step.completed` has as result.

It holds just what a later attempt needs to go on behind the component: of its outputs those that outgoing edges read,
where every component stands, which branches are taken. And what the API shows of a terminal component.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue
from perdure.errors import Malformed

FORMAT: Final = 1


class Entry(Struct, frozen=True, kw_only=True):
    """`lfx` is the version that made it. `kept`: outputs by name, as lfx 1.13 writes values (`serialize_value`), or a
    table of ours; None when one of them cannot be kept, and the component runs again if somebody reads it. `states`:
    what lfx calls the state of each component; `branches`: members of its graph, by name. `output`: what the API shows
    of a terminal component (`type status display_name content metadata`).
    """

    v: int = FORMAT
    lfx: str
    kept: dict[str, UserValue] | None = None
    states: dict[str, str] = {}
    branches: dict[str, UserValue] = {}
    output: dict[str, UserValue] | None = None


class Finished(Struct, frozen=True):
    """A component that the log remembers."""

    component: str
    entry: Entry


def journal(log: Iterable[AnyEvent]) -> list[Finished]:
    """What the log remembers of a Langflow job, in the order in which it finished; values that lay in blobs are there.

    Raises Malformed for a step that has no entry.
    """
    return [Finished(event.data.step, read(event.data.result)) for event in log if isinstance(event, ev.StepCompleted)]


def read(result: Any) -> Entry:  # Any: a step's result, as JSON
    """The entry in the result of a step. Raises Malformed."""
    try:
        entry = msgspec.convert(result, Entry)
    except msgspec.ValidationError as exc:
        raise Malformed(f"a step of a Langflow job has no journal entry: {exc}") from exc
    if entry.v != FORMAT:
        raise Malformed(f"a journal entry of format {entry.v}")
    return entry


def outputs(journal: Iterable[Finished]) -> dict[str, dict[str, UserValue]]:
    """What the terminal components gave, by component. Always from here: what is restored has no output any more."""
    return {done.component: done.entry.output for done in journal if done.entry.output is not None}
