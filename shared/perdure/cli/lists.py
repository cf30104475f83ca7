"""What commands on lists and on several things share: pages to their end, a call for each id."""

import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from perdure.cli.session import Exit, Printer, report
from perdure.client import Page
from perdure.errors import Fault, Invalid, PerdureError, Unavailable

T = TypeVar("T")


async def print_pages(
    printer: Printer, limit: int, fetch: Callable[[int, str | None], Awaitable[Page[T]]], line: Callable[[T], str]
) -> int:
    """Print up to `limit` items, a line each; `fetch(limit, cursor)` gives a page. The exit code."""
    cursor, left = None, limit
    while left > 0:
        page = await fetch(min(left, 200), cursor)
        for item in page.data:
            printer.result(item, partial(line, item))
        left -= len(page.data)
        cursor = page.next
        if cursor is None:
            break
    return Exit.DONE


async def for_each(ids: tuple[str, ...], act: Callable[[str], Awaitable[None]]) -> int:
    """Do `act` for each id, in order; `-` stands for those on standard input, a line each.

    What is refused is said and the rest goes on, unless nothing can be reached; the exit code is that of the first
    refusal. Raises Invalid where there is no id, or where one is an option that does not exist.
    """
    if unknown := [one for one in ids if one.startswith("-") and one != "-"]:
        raise Invalid([Fault("unknown", "there is no such option", parameter=unknown[0])])
    wanted = list(_read(ids))
    if not wanted:
        raise Invalid([Fault("missing", "give at least one id, or - for those on standard input")])
    code = Exit.DONE
    for one in wanted:
        try:
            await act(one)
        except Unavailable:
            raise
        except PerdureError as exc:
            if len(wanted) == 1:
                raise
            said = report(exc, about=one)
            code = code or said
    return code


def _read(ids: tuple[str, ...]) -> Iterable[str]:
    for one in ids:
        if one != "-":
            yield one
            continue
        for line in sys.stdin:
            if words := line.split():
                yield words[0]
