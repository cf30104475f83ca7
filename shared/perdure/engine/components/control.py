"""The nodes that steer: which case of a branch is taken, when a wait ends, what a map repeats."""

from datetime import timedelta
from typing import Any, Final, Literal

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph import condition
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.instant import Instant, moment, seconds_between
from perdure.engine.components.contract import Component, ComponentContext
from perdure.errors import Malformed, Terminal

MAX_ITEMS: Final = 1000
MAX_WAIT: Final = timedelta(days=400)


class Case(Struct, frozen=True):
    """One way out of a branch node. Any: a condition, checked when the definition was."""

    id: str
    when: dict[str, Any]


class BranchInputs(Struct, frozen=True):
    value: UserValue
    cases: tuple[Case, ...]


class WaitInputs(Struct, frozen=True):
    """Either `seconds` or `until`."""

    seconds: float | None = None
    until: str | None = None
    value: UserValue = None

    def duration(self, now: Instant) -> timedelta:
        """How long to wait from `now`. Raises Terminal for what an edge brought and is no duration, or no instant."""
        seconds = self.seconds if self.until is None else max(0.0, seconds_between(now, _aware(self.until)))
        if seconds is None or not 0 <= seconds <= MAX_WAIT.total_seconds():
            raise Terminal(f"a wait lasts 0 to {MAX_WAIT.days} days", code="invalid_input")
        return timedelta(seconds=seconds)


class MapInputs(Struct, frozen=True):
    """What a map node says about itself; the rest of its inputs goes to each item."""

    items: list[Any]  # any JSON
    width: int = 10
    on_error: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        if len(self.items) > MAX_ITEMS:
            raise Terminal(f"{len(self.items)} items, at most {MAX_ITEMS} in one map", code="too_many_items")


async def _branch(_context: ComponentContext, inputs: BranchInputs) -> dict[str, UserValue]:
    """The value on the port of the first case that holds, else on `default`."""
    taken = next((case.id for case in inputs.cases if condition.holds(case.when, inputs.value)), "default")
    return {taken: inputs.value}


def _aware(text: str) -> Instant:
    try:
        at = moment(Instant(text))
    except Malformed as exc:
        raise Terminal("what the wait should end at is no instant", code="invalid_input") from exc
    if at.tzinfo is None:
        raise Terminal("the instant at which the wait should end has no offset from UTC", code="invalid_input")
    return Instant(text)


COMPONENTS: Final = (Component(spec=BUILTIN["branch"], inputs=BranchInputs, run=_branch),)
