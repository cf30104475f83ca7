"""What every client command shares: which gateway, which key, how to print, and what an error's exit code is."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter
from rich.console import Console

from perdure.client import Client
from perdure.config import DATA_FOLDER, ClientSettings
from perdure.core.event import Status
from perdure.errors import (
    Conflict,
    Expired,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    Unauthenticated,
    Unavailable,
)
from perdure.local.folder import StartRefused, read_client


class Exit(IntEnum):
    """Exit codes; the meaning of each is the same for every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_THERE = 4
    CONFLICT = 5
    UNREACHABLE = 6
    STOPPED_WAITING = 7
    NEEDS_PERSON = 8
    CANCELLED = 9
    INTERRUPTED = 130


_OF_ERROR: Final[tuple[tuple[tuple[type[PerdureError], ...], Exit], ...]] = (
    ((Invalid, StartRefused), Exit.USAGE),
    ((Unauthenticated, Forbidden), Exit.REFUSED),
    ((NotFound, Expired), Exit.NOT_THERE),
    ((Conflict,), Exit.CONFLICT),
    ((Unavailable, OutcomeUnknown), Exit.UNREACHABLE),
)
_OF_STATUS: Final[Mapping[Status, Exit]] = {
    Status.COMPLETED: Exit.DONE,
    Status.FAILED: Exit.FAILED,
    Status.TIMED_OUT: Exit.FAILED,
    Status.CANCELLED: Exit.CANCELLED,
}


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every client command."""

    url: Annotated[str | None, Parameter(help="The gateway's address [PERDURE_URL, else DATA/client.json].")] = None
    key: Annotated[str | None, Parameter(help="The API key [PERDURE_KEY, else DATA/client.json].")] = None
    data: Annotated[Path, Parameter(help="The data folder of `perdure up` to look for client.json in.")] = Path(
        DATA_FOLDER
    )
    json: Annotated[bool, Parameter(negative="", help="Print JSON: one document, or one line an item or event.")] = (
        False
    )
    quiet: Annotated[bool, Parameter(negative="", help="Print results only, no hints.")] = False
    no_color: Annotated[bool, Parameter(negative="", help="No colours (so does NO_COLOR).")] = False

    def client(self, environ: Mapping[str, str] = os.environ) -> Client:
        """The client by flag, else environment, else data folder. Raises Invalid when there is no address or no key."""
        settings = ClientSettings.load(environ, url=self.url, key=self.key)
        found = read_client(self.data)
        url = settings.url or (found.url if found else None)
        key = settings.key.get_secret_value() if settings.key else (found.key if found else None)
        missing = [name for name, value in (("PERDURE_URL", url), ("PERDURE_KEY", key)) if value is None]
        if url is None or key is None:
            hint = f"not set, and {self.data / 'client.json'} does not say it: start `perdure up`, or set it"
            raise Invalid([Fault("missing-setting", hint, parameter=name) for name in missing], code="invalid-settings")
        return Client(url, key, channel="cli")

    def printer(self) -> "Printer":
        """Where this command prints."""
        return Printer(self.json, self.quiet, self.no_color)


class Printer:
    """Results on stdout, for people or as JSON; hints and progress on stderr only."""

    def __init__(self, json: bool = False, quiet: bool = False, no_color: bool = False) -> None:
        self.json, self.quiet = json, quiet
        colour = {"no_color": True} if no_color else {}
        self.out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False, **colour)  # type: ignore[arg-type]  # one member
        self.err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can be asked."""
        return sys.stdin.isatty() and self.out.is_terminal and not self.json

    def result(self, value: object, human: Callable[[], str]) -> None:
        """Print `value` as one JSON document, or what `human` says."""
        if self.json:
            self.raw(msgspec.json.encode(value))
        else:
            self.text(human())

    def raw(self, document: bytes) -> None:
        """One line of JSON."""
        sys.stdout.buffer.write(document + b"\n")
        sys.stdout.flush()

    def text(self, line: str, style: str = "", end: str = "\n") -> None:
        """A line for people. What came from users is made safe for a terminal first."""
        self.out.print(safe(line), style=style, end=end)

    def hint(self, line: str) -> None:
        """A line on stderr that helps and may be left out."""
        if not self.quiet:
            self.err.print(safe(line), style="dim")


def safe(text: str) -> str:
    """`text` with its control characters (but for line ends and tabs) shown as escapes: no text drives the terminal."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() and c not in _BIDI) or c == " " else f"\\u{ord(c):04x}" for c in text
    )


_BIDI: Final = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def exit_of_error(error: PerdureError) -> Exit:
    """The exit code of an error."""
    return next((code for kinds, code in _OF_ERROR if isinstance(error, kinds)), Exit.FAILED)


def exit_of_status(status: Status) -> Exit:
    """The exit code of a command that saw a job to `status`."""
    return _OF_STATUS.get(status, Exit.NEEDS_PERSON if status is Status.SUSPENDED else Exit.STOPPED_WAITING)


def report(error: PerdureError, about: str | None = None) -> Exit:
    """Say on stderr what went wrong (with which thing), and what to do where that is known; the exit code."""
    err, begin = Printer().err, f"perdure: {about}: " if about else "perdure: "
    match error:
        case Invalid():
            for fault in error.faults:
                where = fault.parameter or fault.header or fault.pointer
                err.print(safe(f"{begin}{where + ': ' if where else ''}{fault.detail}"))
        case Unauthenticated():
            err.print(safe(f"{begin}the key is not known there: see --key, PERDURE_KEY and client.json"))
        case _:
            err.print(safe(f"{begin}{error}"))
    return exit_of_error(error)
