"""Whom a request asks, as names by which lists find it: what `core.standing` decides with, as rows.

user:<name>     by name          link:<label>   somebody outside
group:<name>    the members of a group, whoever they are just now
anyone:execute  everybody who may execute its flow, or `anyone:answer`
not:<who>       has handed the right on: has it by name alone, no more by a group or by everybody's right
"""

from collections.abc import Sequence
from typing import Final

from perdure.core import event as ev
from perdure.core.standing import EVERYBODY, handed_on, nobody, principal

ANYONE: Final = "anyone"  # in filters: both of them
GROUP: Final = "group:"
NOT: Final = "not:"


def whom(request: ev.Request) -> tuple[str, ...]:
    """The rows of `request`: its assignees, the pool of its quorum, and who has handed the right on."""
    pools: list[ev.Assignees | None] = [request.assignees]
    if request.quorum is not None and request.quorum.of is not None:
        pools.append(request.quorum.of)
    found: dict[str, None] = {}
    for pool in pools:
        if pool is None or nobody(pool):
            found[f"{ANYONE}:{EVERYBODY}"] = None
            continue
        found |= dict.fromkeys(principal(name) for name in pool.users)
        found |= dict.fromkeys(f"{GROUP}{name}" for name in pool.groups)
        if pool.anyone_with is not None:
            found[f"{ANYONE}:{pool.anyone_with}"] = None
    found |= dict.fromkeys(f"{NOT}{who}" for who in sorted(handed_on(request)))
    return tuple(found)


def asked_by(assignees: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """The names to look for, each once, and the one principal among them who may have handed on what groups and
    everybody were asked; None where there is no one such.
    """
    found: dict[str, None] = {}
    for name in assignees:
        found |= dict.fromkeys((f"{ANYONE}:execute", f"{ANYONE}:answer") if name == ANYONE else (name,))
    one = [name for name in found if by_name(name)]
    return tuple(found), one[0] if len(one) == 1 else None


def by_name(who: str) -> bool:
    """Whether `who` is somebody, not a group or everybody."""
    return not who.startswith((GROUP, f"{ANYONE}:"))
