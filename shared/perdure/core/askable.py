"""Whether a request can be settled as its author means it: what depends on several of its members.

Each member has passed its own check (`core.asked`); values are plain JSON, members named as an ask node's inputs are.
"""

from collections.abc import Iterable, Mapping, Sequence

from perdure.core import schema
from perdure.core.asked import Inputs, assigned
from perdure.core.event import Assignees, UserValue
from perdure.core.fit import COMMENT
from perdure.core.graph.faults import Faults, pointer
from perdure.core.standing import named, principal
from perdure.errors import Fault


def check(given: Inputs, at: str, faults: Faults, *, asker: str | None = None) -> None:
    """Note in `faults` what does not go together. `asker` is the user for whom the job runs, where that is known."""
    if "actions" not in given and given.get("kind") == "choice":
        faults.add(f"{at}/actions", "missing", "a choice names its actions")
    if not isinstance(given.get("defaults", {}), dict):
        faults.add(f"{at}/defaults", "wrong-type", "must be an object: values by the form's fields")
    if "proposal" in given and "proposal_schema" in given:
        _note(schema.faults(given["proposal_schema"], given["proposal"], f"{at}/proposal"), at, faults)
    _required(given, at, faults)
    _late(given, at, faults)
    _timely(given, at, faults)
    _reachable(given, asker, at, faults)


def wanted(action: Mapping[str, UserValue]) -> list[str] | None:
    """The members of the payload that an action requires by itself; None where the schema says so."""
    return [name for name in action["requires"] if name != COMMENT] if "requires" in action else None


def _required(given: Inputs, at: str, faults: Faults) -> None:
    """That what an action requires can be given at all."""
    rule = given.get("response_schema")
    if rule is None or rule.get("additionalProperties") is not False or "properties" not in rule:
        return
    for index, action in enumerate(given.get("actions", ())):
        for place, name in enumerate(action.get("requires", ())):
            if name != COMMENT and name not in rule["properties"]:
                here = f"{at}/actions/{index}/requires/{place}"
                faults.add(here, "unknown-member", "response_schema has no such member")


def _late(given: Inputs, at: str, faults: Faults) -> None:
    """That the answer of the time-out is one that would be taken."""
    late, rule = given.get("on_timeout"), given.get("response_schema")
    if late is None or late["do"] != "answer":
        return
    action: Mapping[str, UserValue] = next((a for a in given.get("actions", ()) if a["id"] == late["action"]), {})
    names, payload, here = wanted(action), late.get("payload"), f"{at}/on_timeout/payload"
    if rule is not None:
        merged = dict(rule) if names is None else {**rule, "required": names}
        _note(schema.faults(merged, {} if payload is None else payload, here), at, faults)
        return
    said = payload if isinstance(payload, dict) else {}
    for name in names or ():
        if name not in said:
            faults.add(here + pointer(name), "missing", "is required")


def _timely(given: Inputs, at: str, faults: Faults) -> None:
    """That reminders and escalations come before the end, and that there is somebody to add to."""
    escalations: Sequence[Mapping[str, UserValue]] = given.get("escalations", ())
    if escalations and not _named(given.get("assignees")):
        faults.add(f"{at}/escalations", "not-allowed", "everybody may answer already: name the assignees to add to")
    most = given.get("expires_in_seconds")
    if most is None:
        return
    moments = {f"reminders/{i}": seconds for i, seconds in enumerate(given.get("reminders", ()))}
    moments |= {f"escalations/{i}/after_seconds": item["after_seconds"] for i, item in enumerate(escalations)}
    for place, seconds in moments.items():
        if seconds >= most:
            faults.add(f"{at}/{place}", "out-of-range", "comes at the deadline or after it")


def _reachable(given: Inputs, asker: str | None, at: str, faults: Faults) -> None:
    """That somebody can answer, and as many as have to agree, where all who may are named users."""
    late = given.get("escalations", ())
    everybody = named(map(_pool, [given.get("assignees"), *(item["add"] for item in late)]))
    quorum = given.get("quorum")
    pool = everybody if quorum is None or "of" not in quorum else named([_pool(quorum["of"])])
    absent = {principal(asker)} if given.get("forbid_self") and asker is not None else set()
    if quorum is not None and pool is not None and len(pool - absent) < quorum["n"]:
        faults.add(f"{at}/quorum/n", "out-of-range", f"only {len(pool - absent)} can vote")
    elif pool is everybody and everybody is not None and not everybody - absent:
        faults.add(f"{at}/assignees", "not-allowed", "forbid_self leaves nobody to answer")


def _pool(value: UserValue) -> Assignees:
    return assigned(value or [])


def _named(value: UserValue) -> bool:
    """Whether these assignees name users or groups: else everybody with the right is meant."""
    who = _pool(value)
    return bool(who.users or who.groups)


def _note(found: Iterable[Fault], at: str, faults: Faults) -> None:
    for fault in found:
        faults.add(fault.pointer or at, fault.code, fault.detail)
