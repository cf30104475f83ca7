"""How much work a schema is: nobody's schema may hold up the process in which everybody's answers are judged.

The validator looks at a definition again for each reference to it, so that thirty lines may mean a thousand million
looks; and it makes an error of each value that does not fit, which costs a thousand times a look.
"""

from collections.abc import Mapping
from typing import Any, Final

MOST: Final = 10_000  # subschemas, each as often as it is referred to
MOST_NAMED: Final = 20_000  # values times subschemas: beyond that an answer learns its first fault alone
_DEEPEST: Final = 500
_DEFINED: Final = ("$defs", "definitions")  # weigh where they are referred to
_VALUES: Final = ("const", "enum", "default", "examples")  # what stands in them is no schema


def weight(schema: Mapping[str, Any]) -> int:
    """How many subschemas `schema` has, each counted as often as it is referred to; at most MOST + 1. A reference from
    within itself counts once.
    """
    return _weighed(schema, schema, {}, 0)


def _weighed(node: Any, root: Mapping[str, Any], known: dict[int, int], depth: int) -> int:  # Any: an author's JSON
    if isinstance(node, list | tuple):
        return min(MOST + 1, sum(_weighed(inner, root, known, depth + 1) for inner in node))
    if not isinstance(node, Mapping):
        return 0
    if depth > _DEEPEST:
        return MOST + 1
    if id(node) not in known:
        known[id(node)] = 1  # of itself, as long as it is not known
        inner = [value for name, value in node.items() if name not in _VALUES and name not in _DEFINED]
        total = 1 + sum(_weighed(value, root, known, depth + 1) for value in inner)
        if isinstance(node.get("$ref"), str):
            total += _weighed(_named(root, node["$ref"]), root, known, depth + 1)
        known[id(node)] = min(MOST + 1, total)
    return known[id(node)]


def values_in(value: Any) -> int:  # Any: a user's value
    """How many values there are in `value`, with itself."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        count += 1
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return count


def _named(root: Mapping[str, Any], reference: str) -> Any:  # Any: an author's JSON
    """What `#/…` points to; None where there is nothing: the validator says so."""
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list | tuple) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
