"""What a step function may return instead of a bare value."""

from typing import Generic, TypeVar

from msgspec import Struct

from perdure.core.event import Usage

T = TypeVar("T")


class Result(Struct, Generic[T], frozen=True):
    """A step's value, and what it cost; the caller of `ctx.step` gets `value`."""

    value: T
    usage: Usage | None = None
