"""The recordings of Langflow 1.13: their steps by name, and the frames of their streams."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "langflow"


@cache
def scenario(number: int) -> dict[str, Any]:
    """The scenario of that number."""
    [file] = GOLDEN.glob(f"{number:02}-*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def steps(number: int) -> list[dict[str, Any]]:
    """Its steps."""
    found: list[dict[str, Any]] = scenario(number)["steps"]
    return found


def step(number: int, name: str) -> dict[str, Any]:
    """The first step of that name."""
    return next(each for each in steps(number) if each["name"] == name)


def answers(*numbers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each answer of `object` `response`, named after scenario and step."""
    for number in numbers:
        for index, each in enumerate(steps(number)):
            body = each["response"].get("json")
            if isinstance(body, dict) and body.get("object") == "response":
                yield f"{number:02}-{index}", body


def lines(text: str) -> list[str]:
    """The `data:` lines of a stream, without that word."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


def streams(*numbers: int) -> Iterator[tuple[str, list[str]]]:
    """The data of each stream of the protocol `langflow`."""
    for number in numbers:
        for index, each in enumerate(steps(number)):
            found = lines(each["response"].get("text") or "")
            if found and '"event": ' in found[0]:
                yield f"{number:02}-{index}", found
