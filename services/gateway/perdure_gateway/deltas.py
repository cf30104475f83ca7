"""What each type of delta says, for its schema: runners write them as they come, readers take them as they are."""

from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType


class _Delta(Struct, frozen=True, kw_only=True, tag_field="type"):
    """`n` counts the deltas of an attempt from 1, `after` is the last event that its runner knew. A delta belongs to a
    step (`step`, `occurrence`) or, without one, to the body of the workflow; `path` is the branch, absent at the root.
    """

    v: int
    job_id: str
    attempt: int
    n: int
    after: int
    path: str | UnsetType = UNSET
    step: str | UnsetType = UNSET
    occurrence: int | UnsetType = UNSET


class _Begun(_Delta, frozen=True, kw_only=True, tag="delta.step"):
    kind: Literal["started"]


class _Text(_Delta, frozen=True, kw_only=True, tag="delta.text"):
    """`pos` counts code points from the channel's beginning; `truncated`: what was before `pos` is no longer kept."""

    channel: str
    pos: int
    text: str
    truncated: bool | UnsetType = UNSET


class _Reasoning(_Text, frozen=True, kw_only=True, tag="delta.reasoning"):
    pass


class _Tool(_Delta, frozen=True, kw_only=True, tag="delta.tool"):
    call_id: str
    name: str
    arguments: Any = UNSET  # users' values
    result: Any = UNSET


class _Log(_Delta, frozen=True, kw_only=True, tag="delta.log"):
    level: str
    text: str
    fields: dict[str, Any] | UnsetType = UNSET


class _Progress(_Delta, frozen=True, kw_only=True, tag="delta.progress"):
    done: float | UnsetType = UNSET
    total: float | UnsetType = UNSET
    text: str | UnsetType = UNSET


class _Reset(Struct, frozen=True, kw_only=True, tag_field="type", tag="delta.reset"):
    """Forget every delta that no event has settled: made by gateways, so it is in answers and streams only."""

    v: int
    job_id: str
    attempt: int
    reason: Literal["attempt", "joined", "gap"]


DELTAS: Final[dict[str, type[Struct]]] = {
    str(cls.__struct_config__.tag): cls for cls in (_Begun, _Text, _Reasoning, _Tool, _Log, _Progress, _Reset)
}
