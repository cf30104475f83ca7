"""Where a coroutine stands, for messages to its author."""

from typing import Any


def place(coroutine: Any) -> str:  # a coroutine, or what it awaits: any object
    """`file:line` of the innermost coroutine that `coroutine` waits in."""
    found = "an unknown place"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return found
