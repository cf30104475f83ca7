"""Text with holes: `{{name}}` and `{{name.member.0}}`. Paths only, no code, no filters, no escapes.

A single brace and a stray `}}` are text, so JSON may stand in a template; a `{{` that begins no path is an error, so a
typing error does not travel to a reader.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from perdure.core import codec
from perdure.core.event import UserValue
from perdure.errors import Malformed, TooLarge

MAX_RENDERED_CHARS: Final = 1024 * 1024
_HOLE: Final = re.compile(
    r"\{\{[ \t]{0,8}([A-Za-z_][A-Za-z0-9_]{0,63})((?:\.[A-Za-z0-9_-]{1,64}){0,16})[ \t]{0,8}\}\}", re.ASCII
)


class Hole(NamedTuple):
    """A place for a value: the variable's name and the way into it."""

    name: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.name, *self.path))


Template = tuple[str | Hole, ...]


def parse(text: str) -> Template:
    """The pieces of `text` in order. Raises Malformed, with the position, for a `{{` that begins no path."""
    pieces: list[str | Hole] = []
    at = 0
    while (start := text.find("{{", at)) >= 0:
        match = _HOLE.match(text, start)
        if match is None:
            raise Malformed(
                f"at character {start + 1} '{{{{' begins no path such as {{{{name}}}} or {{{{name.member}}}}"
            )
        if start > at:
            pieces.append(text[at:start])
        pieces.append(Hole(match[1], tuple(match[2].split(".")[1:])))
        at = match.end()
    if at < len(text):
        pieces.append(text[at:])
    return tuple(pieces)


def names(template: Template) -> tuple[str, ...]:
    """The variables of `template`, each once, in the order of their first use."""
    return tuple(dict.fromkeys(piece.name for piece in template if isinstance(piece, Hole)))


def render(template: Template, values: Mapping[str, UserValue]) -> str:
    """The text with every hole filled: strings as they are, everything else as JSON.

    Raises Malformed when a path leads nowhere, TooLarge beyond MAX_RENDERED_CHARS.
    """
    pieces: list[str] = []
    size = 0
    for piece in template:
        text = piece if isinstance(piece, str) else _text(_reach(piece, values))
        size += len(text)
        if size > MAX_RENDERED_CHARS:
            raise TooLarge(f"a text of more than {MAX_RENDERED_CHARS} characters")
        pieces.append(text)
    return "".join(pieces)


def _reach(hole: Hole, values: Mapping[str, UserValue]) -> UserValue:
    here: UserValue = values
    for member in (hole.name, *hole.path):
        if isinstance(here, Mapping) and member in here:
            here = here[member]
        elif (
            isinstance(here, Sequence) and not isinstance(here, str) and member.isdecimal() and int(member) < len(here)
        ):
            here = here[int(member)]
        else:
            raise Malformed(f"there is no {hole}")
    return here


def _text(value: UserValue) -> str:
    return value if isinstance(value, str) else codec.encode_value(value).decode()
