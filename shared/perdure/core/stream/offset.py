"""Offsets: where a reader is in a job's stream, as the ids of its frames say it."""

import re
from typing import Final

from msgspec import Struct

from perdure.errors import Malformed

MOST_CHARS: Final = 24
_FORM: Final = re.compile(r"(0|[1-9][0-9]{0,17})(?:\.([1-9][0-9]{0,8}))?", re.ASCII)


class Offset(Struct, frozen=True):
    """All events up to `seq`, and where `n` is given also the deltas up to that number of its attempt."""

    seq: int
    n: int | None = None

    def __str__(self) -> str:
        return str(self.seq) if self.n is None else f"{self.seq}.{self.n}"


START: Final = Offset(0)


def parse(text: str) -> Offset:
    """An offset as a frame's id says it. Raises Malformed."""
    match = _FORM.fullmatch(text) if len(text) <= MOST_CHARS else None
    if match is None:
        raise Malformed("not an offset: a frame's id")
    return Offset(int(match[1]), None if match[2] is None else int(match[2]))
