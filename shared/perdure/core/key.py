"""Keys: how a context call is known in the log. They never depend on timing."""

from hashlib import sha256
from typing import Final, NamedTuple

from perdure.core import codec

ROOT: Final = ""


class Key(NamedTuple):
    """The branch that calls (`path`), the name it gives the call, and its nth use there (from 1)."""

    path: str
    name: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.path or '/'} {self.name}#{self.occurrence}"


def branch_path(path: str, group: int, branch: int) -> str:
    """The path of the `branch`-th coroutine of the `group`-th gather or race of `path`, both from 1."""
    return f"{path}/{group}.{branch}"


def args_digest(args: tuple[object, ...], kwargs: dict[str, object]) -> str | None:
    """16 hex digits of SHA-256 over the arguments, keys sorted; None, and not compared, where one cannot be encoded."""
    try:
        return sha256(codec.canonical([args, kwargs])).hexdigest()[:16]
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
