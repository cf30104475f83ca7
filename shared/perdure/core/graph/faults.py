"""Collects what is wrong with a definition, so that its author sees it all at once. Refused values are not repeated."""

from typing import Final, NoReturn

from perdure.errors import Fault, Invalid

MAX_FAULTS: Final = 100  # an answer stays readable, and small


def pointer(*tokens: str | int) -> str:
    """The JSON Pointer (RFC 6901) of these members and indexes; none is the document itself."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


class Faults:
    """The faults met so far, in the order of the checks; from MAX_FAULTS on they are only counted."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self._more = 0

    def add(self, at: str, code: str, detail: str) -> None:
        """Note that the value at the pointer `at` is refused."""
        if len(self.found) < MAX_FAULTS:
            self.found.append(Fault(code=code, detail=detail, pointer=at))
        else:
            self._more += 1

    def at(self, *pointers: str) -> bool:
        """Whether one of these values itself was refused."""
        return any(fault.pointer in pointers for fault in self.found)

    def __bool__(self) -> bool:
        return bool(self.found)

    def refuse(self, code: str) -> NoReturn:
        """Raise Invalid with everything that was found."""
        if self._more:
            self.found.append(Fault(code="more", detail=f"and {self._more} more", pointer=""))
        raise Invalid(self.found, code)
