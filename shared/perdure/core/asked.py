"""What may be asked: the checks of an ask node when it is published, and of `ctx.ask` when it asks.

Values are plain JSON here, members named as an ask node's inputs are; `at` is the pointer to the value that is checked.
What depends on several members together is in `core.askable`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from perdure.core.event import Assignees, UserValue
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.ports import ACTION_ID, action_ids

MAX_ACTIONS: Final = 12
MAX_TITLE: Final = 500  # characters
MAX_LABEL: Final = 100
MAX_REQUIRES: Final = 20
MAX_POINTERS: Final = 100
MAX_ASSIGNEES: Final = 100
MAX_VOTES: Final = 100
MAX_REMINDERS: Final = 20
MAX_ESCALATIONS: Final = 10
MAX_EXTERNAL_IDS: Final = 20
MAX_SECONDS: Final = 400 * 86_400
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}", re.ASCII)  # of a user or a group
_LABEL: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_OUTSIDER: Final = re.compile(r"link:[A-Za-z0-9._-]{1,64}", re.ASCII)  # whoever has the answer link of that label
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)*")
ANYONE: Final = ("anyone", "anyone:execute", "anyone:answer")  # short forms; the first is the second

Inputs = Mapping[str, UserValue]


def actions(value: UserValue, reserved: tuple[str, ...], at: str, faults: Faults) -> None:
    """1 to 12 actions, each with an id of its own that is none of `reserved`."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ACTIONS:
        faults.add(at, "wrong-type", f"must be a list of 1 to {MAX_ACTIONS} actions")
        return
    seen: set[str] = set()
    for index, action in enumerate(value):
        here = f"{at}/{index}"
        if not _members(action, ("id", "label", "style", "requires"), "an action", here, faults):
            continue
        port_id(action.get("id"), reserved, seen, f"{here}/id", faults)
        if "label" in action and not (isinstance(action["label"], str) and 1 <= len(action["label"]) <= MAX_LABEL):
            faults.add(f"{here}/label", "wrong-type", f"must be a string of 1 to {MAX_LABEL} characters")
        if "style" in action and action["style"] not in ("primary", "danger"):
            faults.add(f"{here}/style", "invalid-value", "must be primary or danger")
        if "requires" in action and not _strings(action["requires"], MAX_REQUIRES):
            faults.add(f"{here}/requires", "wrong-type", f"must be a list of at most {MAX_REQUIRES} names")


def port_id(name: UserValue, reserved: tuple[str, ...], seen: set[str], at: str, faults: Faults) -> None:
    """The id of an action (or of a branch's case): in a graph it names a port."""
    if not isinstance(name, str) or ACTION_ID.fullmatch(name) is None:
        faults.add(at, "invalid-id", f"must match {ACTION_ID.pattern}")
    elif name in reserved:
        faults.add(at, "reserved-name", f"other outputs are called {', '.join(reserved)}")
    elif name in seen:
        faults.add(at, "duplicate", "another one has this id")
    else:
        seen.add(name)


def pointers(value: UserValue, at: str, faults: Faults) -> None:
    """JSON Pointers into a proposal."""
    if not _strings(value, MAX_POINTERS):
        faults.add(at, "wrong-type", f"must be a list of at most {MAX_POINTERS} JSON Pointers")
        return
    for index, text in enumerate(value):
        if _POINTER.fullmatch(text) is None:
            faults.add(f"{at}/{index}", "invalid-value", 'must be a JSON Pointer such as /amount, or "" for the whole')


def assignees(value: UserValue, at: str, faults: Faults, *, somebody: bool = False) -> None:
    """Users, groups or whoever has a right: as an object, or as a list of short forms (`user:bob`, `group:finance`).

    Among users `link:<label>` is an outsider with an answer link. With `somebody` it must name at least one.
    """
    if isinstance(value, list):
        if len(value) > MAX_ASSIGNEES:
            faults.add(at, "too-long", f"at most {MAX_ASSIGNEES} names")
        for index, short in enumerate(value):
            if not _short(short):
                faults.add(
                    f"{at}/{index}", "invalid-value", "must be user:<name>, group:<name>, link:<label> or anyone"
                )
    elif _members(value, ("users", "groups", "anyone_with"), "assignees", at, faults):
        for member in ("users", "groups"):
            if member in value:
                _names(value[member], f"{at}/{member}", faults, outsiders=member == "users")
        if "anyone_with" in value and value["anyone_with"] not in ("execute", "answer"):
            faults.add(f"{at}/anyone_with", "invalid-value", "must be execute or answer")
    if somebody and (value == [] or (isinstance(value, dict) and not any(value.values()))):
        faults.add(at, "too-short", "must name somebody")


def quorum(value: UserValue, literals: Inputs, at: str, faults: Faults) -> None:
    """How many have to agree, of whom, and whose refusal settles alone."""
    if not _members(value, ("n", "of", "veto"), "a quorum", at, faults):
        return
    n = value.get("n")
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_VOTES:
        faults.add(f"{at}/n", "out-of-range" if "n" in value else "missing", f"must be a number from 1 to {MAX_VOTES}")
    if "of" in value:
        assignees(value["of"], f"{at}/of", faults, somebody=True)
    veto = value.get("veto", [])
    if not _strings(veto, MAX_ACTIONS):
        faults.add(f"{at}/veto", "wrong-type", "must be a list of actions")
        return
    for index, action in enumerate(veto):
        if action not in action_ids(literals):
            faults.add(f"{at}/veto/{index}", "unknown-action", "must be the id of one of the actions")


def reminders(value: UserValue, at: str, faults: Faults) -> None:
    """Seconds after the asking, ascending."""
    if not isinstance(value, list) or len(value) > MAX_REMINDERS:
        faults.add(at, "wrong-type", f"must be a list of at most {MAX_REMINDERS} numbers of seconds")
        return
    _ascending(value, lambda index: f"{at}/{index}", faults)


def escalations(value: UserValue, at: str, faults: Faults) -> None:
    """Who is added after how many seconds, ascending."""
    if not isinstance(value, list) or len(value) > MAX_ESCALATIONS:
        faults.add(at, "wrong-type", f"must be a list of at most {MAX_ESCALATIONS} escalations")
        return
    fit = True
    for index, item in enumerate(value):
        here = f"{at}/{index}"
        if not _members(item, ("after_seconds", "add"), "an escalation", here, faults):
            fit = False
        elif "add" not in item:
            faults.add(f"{here}/add", "missing", "an escalation says whom it adds")
        else:
            assignees(item["add"], f"{here}/add", faults, somebody=True)
    if fit:
        _ascending([item.get("after_seconds") for item in value], lambda i: f"{at}/{i}/after_seconds", faults)


def external_ids(value: UserValue, at: str, faults: Faults) -> None:
    """What the request is called elsewhere, by the name of that elsewhere."""
    if not isinstance(value, dict) or len(value) > MAX_EXTERNAL_IDS:
        faults.add(at, "wrong-type", f"must be an object of at most {MAX_EXTERNAL_IDS} ids")
        return
    for name, text in value.items():
        if _LABEL.fullmatch(str(name)) is None:
            faults.add(at + pointer(str(name)), "invalid-id", f"a name must match {_LABEL.pattern}")
        elif not isinstance(text, str) or not 1 <= len(text) <= 1000:
            faults.add(at + pointer(name), "wrong-type", "must be a string of 1 to 1000 characters")


def on_timeout(value: UserValue, literals: Inputs, at: str, faults: Faults) -> None:
    """What happens when nobody answers in time, or when those who vote can no longer agree."""
    if not _members(value, ("do", "action", "payload"), "on_timeout", at, faults):
        return
    do = value.get("do")
    if do not in ("answer", "branch", "fail"):
        faults.add(f"{at}/do", "invalid-value", "must be answer, branch or fail")
    if do == "answer" and value.get("action") not in action_ids(literals):
        faults.add(f"{at}/action", "unknown-action", "must be the id of one of the actions")
    if do != "answer" and ("action" in value or "payload" in value):
        faults.add(at, "not-allowed", "action and payload belong to do: answer")
    if "expires_in_seconds" not in literals and "quorum" not in literals:
        faults.add(at, "missing", "on_timeout needs expires_in_seconds, or a quorum that may not be reached")


def assigned(value: UserValue) -> Assignees:
    """The record of assignees that passed their check, whichever form they have."""
    if isinstance(value, dict):
        value = [
            *(name if name.startswith("link:") else f"user:{name}" for name in value.get("users", ())),
            *(f"group:{name}" for name in value.get("groups", ())),
            *([f"anyone:{value['anyone_with']}"] if "anyone_with" in value else ()),
        ]
    named: dict[str, list[str]] = {"user": [], "group": [], "anyone": []}
    for short in value:
        kind, _, name = short.partition(":")
        named["user" if kind == "link" else kind].append(short if kind == "link" else name)
    anyone: Literal["execute", "answer"] = "answer" if "answer" in named["anyone"] else "execute"
    return Assignees(
        users=tuple(named["user"]), groups=tuple(named["group"]), anyone_with=anyone if named["anyone"] else None
    )


def _short(value: UserValue) -> bool:
    if not isinstance(value, str) or value in ANYONE:
        return isinstance(value, str)
    kind, _, name = value.partition(":")
    named = kind in ("user", "group") and _NAME.fullmatch(name) is not None
    return named or _OUTSIDER.fullmatch(value) is not None


def _names(value: UserValue, at: str, faults: Faults, *, outsiders: bool) -> None:
    if not _strings(value, MAX_ASSIGNEES):
        faults.add(at, "wrong-type", f"must be a list of at most {MAX_ASSIGNEES} names")
        return
    for index, name in enumerate(value):
        if _NAME.fullmatch(name) is None and not (outsiders and _OUTSIDER.fullmatch(name)):
            faults.add(f"{at}/{index}", "invalid-value", f"must match {_NAME.pattern}")


def _ascending(values: list[UserValue], at: Callable[[int], str], faults: Faults) -> None:
    """Seconds, each later than the one before."""
    before = 0.0
    for index, seconds in enumerate(values):
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= MAX_SECONDS:
            faults.add(at(index), "out-of-range", f"must be a number of seconds, above 0 and at most {MAX_SECONDS}")
        elif seconds <= before:
            faults.add(at(index), "out-of-range", "must be later than the one before")
        else:
            before = seconds


def _members(value: UserValue, known: tuple[str, ...], what: str, at: str, faults: Faults) -> bool:
    """Whether `value` is an object; members that are not known are noted."""
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", f"must be an object: {what} has {', '.join(known)}")
        return False
    for member in value:
        if member not in known:
            faults.add(at + pointer(str(member)), "unknown-member", f"{what} has {', '.join(known)}")
    return True


def _strings(value: UserValue, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(isinstance(v, str) and len(v) <= 1000 for v in value)
