"""What a child is told: all that the log says of the job so far, so that it goes on as if nothing had happened."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue
from perdure.core.langflow import entry, memory
from perdure.core.langflow.entry import journal
from perdure.core.langflow.flow import user
from perdure.core.langflow.overrides import Overrides
from perdure.core.machine import JobState
from perdure.ids import JobRef
from perdure_runner.langflow.asked import decisions
from perdure_runner.langflow.flow import LangflowFlow, given
from perdure_runner.langflow.frames import Start

LOADING: Final = "$load"  # the step that failed where a child died and no component ran that the log lacks


def start(
    flow: LangflowFlow,
    ref: JobRef,
    log: Iterable[AnyEvent],
    job: JobState,
    overrides: Overrides,
    threads: Mapping[str, UserValue],
) -> Start:
    """The order for a pass. `log` has its values, also those that lie in blobs.

    Raises Malformed for a log that is none of a Langflow job, RequestExpired and RequestWithdrawn as `decisions`.
    """
    events = list(log)
    first = events[0]
    assert isinstance(first, ev.JobSubmitted), "a log begins with it"
    what, done = given(first.data.input), journal(events)
    return Start(
        flow=msgspec.Raw(flow.definition),
        flow_id=first.data.flow.id,
        job_id=ref.job,
        user_id=user(ref.tenant, first.data.owner),
        session_id=first.data.session_id or first.data.flow.id,
        input_value=what.input_value,
        start_component_id=what.start_component_id,
        stop_component_id=what.stop_component_id,
        tweaks=overrides.tweaks,
        globals=overrides.globals,
        journal=done,
        decisions=decisions(job),
        threads=dict(threads),
        messages=memory.said(events),
    )


def left_over(log: Iterable[AnyEvent], component: str) -> list[str]:
    """The messages that an earlier attempt has recorded of a component that it did not finish."""
    found: dict[str, None] = {}
    for event in log:
        match event:
            case ev.Message(data=said) if said.step == component:
                found.pop(said.message_id, None)
                if not said.removed:
                    found[said.message_id] = None
            case ev.StepCompleted(data=step) if step.step == component:
                return []
            case _:
                pass
    return list(found)


def outputs(log: Iterable[AnyEvent]) -> dict[str, UserValue]:
    """What the job gives: of each terminal component what the API shows of it."""
    return {**entry.outputs(journal(log))}
