"""Who may answer a request, and who may see it: the names of its last revision against what somebody is just now.

Groups and rights are looked up when somebody acts, never stored: a `Standing` is as good as the moment it was made.
Whoever has handed the right on (`delegations`) has it no more by a group or by everybody's right; named again by name
he has it anew.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from perdure.core import event as ev
from perdure.ids import Principal

USER: Final = "user:"
LINK: Final = "link:"
ADMIN: Final = "admin"  # the right that makes keys for everybody, so voters too
EVERYBODY: Final = "execute"  # the right that whoever may answer has when nobody is named


class Standing(Struct, frozen=True):
    """Somebody who acts. `rights` are those on the flow at this moment (`read`, `execute`, `answer`, `edit`, …).

    `link` is the label of an outsider's answer link, which names this request; its principal is `link:<label>`.
    """

    principal: Principal
    groups: frozenset[str] = frozenset()
    rights: frozenset[str] = frozenset()
    link: str | None = None


def addressed(asked: ev.Request, who: Standing) -> bool:
    """Whether `who` may answer `asked` at this moment."""
    return entitled(asked, who) and not own(asked, who)


def visible(asked: ev.Request, who: Standing, *, watcher: bool) -> bool:
    """Whether `who` may see that `asked` exists: a `watcher` may see all of its flow."""
    return watcher or entitled(asked, who)


def entitled(asked: ev.Request, who: Standing) -> bool:
    """Whether the request names `who` as one who answers or votes, be it his own request or not."""
    if who.link is not None:
        return True
    gone = handed_on(asked)
    return _among(asked.assignees, who, gone) or (
        asked.quorum is not None and asked.quorum.of is not None and _among(asked.quorum.of, who, gone)
    )


def own(asked: ev.Request, who: Standing) -> bool:
    """Whether it is his own request, and he may not answer that. Users are compared, not their keys."""
    return asked.forbid_self and who.principal == asked.asked_for


def fills(asked: ev.Request, who: Standing) -> bool:
    """Whether a vote of `who` counts for the quorum: users of the pool, and outsiders whom the pool names."""
    if asked.quorum is None or not who.principal.startswith((USER, LINK)):
        return False
    pool = asked.assignees if asked.quorum.of is None else asked.quorum.of
    return _among(pool, who, handed_on(asked))


def gives(asked: ev.Request, maker: Standing, link: Principal) -> bool:
    """Whether `maker` may have somebody outside answer as `link` (`link:<label>`) by a link of his.

    Whoever may answer himself, and has a vote where the link would have one; and for a voter whom the pool names, an
    administrator: he could make himself a key of any voter.
    """
    if own(asked, maker):
        return False
    votes = fills(asked, Standing(link))
    return (votes and ADMIN in maker.rights) or (entitled(asked, maker) and (not votes or fills(asked, maker)))


def voters(asked: ev.Request) -> frozenset[Principal] | None:
    """Everybody who can ever fill the quorum of `asked`; None where groups, or whoever has a right, are among them."""
    if asked.quorum is None:
        return None
    pools: list[ev.Assignees | None] = [asked.quorum.of]
    if asked.quorum.of is None:
        pools = [asked.assignees, *(escalation.add for escalation in asked.escalations[asked.escalated :])]
    found = named(pools)
    return found if found is None or not asked.forbid_self else found - {asked.asked_for}


def named(pools: Iterable[ev.Assignees | None]) -> frozenset[Principal] | None:
    """Everybody whom the pools name; None where groups, or whoever has a right, are among them."""
    found: set[Principal] = set()
    for pool in pools:
        if pool is None or nobody(pool) or pool.groups or pool.anyone_with is not None:
            return None
        found.update(map(principal, pool.users))
    return frozenset(found)


def nobody(pool: ev.Assignees | None) -> bool:
    """Whether nobody is named, which means everybody who may execute the flow."""
    return pool is None or not (pool.users or pool.groups or pool.anyone_with is not None)


def joined(pools: Iterable[ev.Assignees | None]) -> ev.Assignees:
    """All of the pools together, each name once."""
    users, groups = dict[str, None](), dict[str, None]()
    anyone: set[str] = set()
    for pool in pools:
        if pool is None or nobody(pool):
            anyone.add(EVERYBODY)
            continue
        users |= dict.fromkeys(pool.users)
        groups |= dict.fromkeys(pool.groups)
        anyone |= {pool.anyone_with} if pool.anyone_with is not None else set()
    with_ = None if not anyone else "answer" if "answer" in anyone else "execute"
    return ev.Assignees(users=tuple(users), groups=tuple(groups), anyone_with=with_)  # type: ignore[arg-type]  # of two


def principal(name: str) -> Principal:
    """Who is meant by a name among users: `bob`, or `link:<label>` for an outsider."""
    return Principal(name if name.startswith(LINK) else f"{USER}{name}")


def _among(pool: ev.Assignees | None, who: Standing, gone: frozenset[Principal]) -> bool:
    if pool is not None and any(principal(name) == who.principal for name in pool.users):
        return True
    if who.principal in gone:
        return False
    if pool is None or nobody(pool):
        return EVERYBODY in who.rights
    return not who.groups.isdisjoint(pool.groups) or pool.anyone_with in who.rights


def handed_on(asked: ev.Request) -> frozenset[Principal]:
    """Who has given the right away, and not got it back."""
    gone: set[Principal] = set()
    for delegation in asked.delegations:
        gone.add(delegation.by)
        gone.discard(delegation.to)
    return frozenset(gone)
