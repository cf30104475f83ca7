"""Where a coroutine waits, for messages to its author."""

import sysconfig
from collections.abc import Coroutine
from typing import Any, Final

_STANDARD: Final = sysconfig.get_paths()["stdlib"]


def place(coroutine: Coroutine[Any, Any, Any]) -> str:
    """`file:line` of the innermost frame that is the author's, not the standard library's, at which it waits."""
    inner: Any = coroutine
    at = "the end"
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None and (at == "the end" or not frame.f_code.co_filename.startswith(_STANDARD)):
            at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return at
