"""The declaration of every route: who may call it, and what goes in and out. A route without one stops the start.

The OpenAPI document is built from it, and it validates too: a handler can take no query parameter and no body but those
that it declares (`bodies`), so the document cannot say anything else than what is taken.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeVar, get_args

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel

from perdure.errors import Forbidden, PerdureError
from perdure_gateway.auth import Caller

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
H = TypeVar("H", bound=Handler)
Right = Literal["read", "execute", "answer", "edit", "share", "admin", "values", "metrics"]
Surface = Literal["native", "langflow"]
SCOPES: Final = get_args(Right)
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"


class Policy(Struct, frozen=True, kw_only=True):
    """`right` is what the caller's key must hold (of several, one), None where any valid key will do; `public` needs no
    key at all.

    `query` names the parameters, `body` is what is sent (`optional`: or nothing), `answers` the statuses that are no
    problem, `media` what comes back, `record` its shape where it has one; `keyed`: an Idempotency-Key is taken;
    `ticket`: a ticket in the query, in the place of a key.
    `surface`: whose credentials and errors are spoken; `problems`: the media type of problems.
    """

    right: Right | tuple[Right, ...] | None = None
    public: bool = False
    query: tuple[str, ...] = ()
    body: type[BaseModel] | None = None
    optional: bool = False
    answers: tuple[int, ...] = (200,)
    media: tuple[str, ...] = (JSON,)
    record: Any = None  # a msgspec type
    keyed: bool = False
    ticket: bool = False
    surface: Surface = "native"
    problems: str = PROBLEM


class Undeclared(PerdureError):
    """A route whose handler declares nothing, or takes what it does not declare."""


def op(
    right: Right | tuple[Right, ...] | None = None,
    *,
    public: bool = False,
    query: tuple[str, ...] = (),
    body: type[BaseModel] | None = None,
    optional: bool = False,
    answers: tuple[int, ...] = (200,),
    media: tuple[str, ...] = (JSON,),
    record: Any = None,
    keyed: bool = False,
    ticket: bool = False,
    surface: Surface = "native",
    problems: str = PROBLEM,
) -> Callable[[H], H]:
    """Declare a handler. See Policy."""
    declared = Policy(
        right=right,
        public=public,
        query=query,
        body=body,
        optional=optional,
        answers=answers,
        media=media,
        record=record,
        keyed=keyed,
        ticket=ticket,
        surface=surface,
        problems=problems,
    )

    def declare(handler: H) -> H:
        _policies[handler] = declared
        return handler

    return declare


def policy_of(handler: Handler) -> Policy | None:
    """What `handler` declared, None for a stranger (such as aiohttp's own for unknown paths)."""
    return _policies.get(handler)


def declared(request: web.Request) -> Policy:
    """What the handler of `request` declared. Raises Undeclared."""
    found = policy_of(request.match_info.handler)
    if found is None:
        raise Undeclared("a handler that declares nothing")
    return found


def check(app: web.Application) -> None:
    """Every route has declared itself, and says what it does. Raises Undeclared, naming the route."""
    for route in app.router.routes():
        where = f"{route.method} {route.resource.canonical if route.resource else '?'}"
        if policy_of(route.handler) is None:
            raise Undeclared(f"{where} declares nothing")
        if not (route.handler.__doc__ or "").strip():
            raise Undeclared(f"{where} does not say what it does")


def permit(policy: Policy, caller: Caller) -> None:
    """Whether the caller's key may do this at all; whose thing it is, is asked by tenant. Raises Forbidden."""
    if rights(policy) and not any(map(caller.may, rights(policy))):
        raise Forbidden("the key's scopes do not allow this")


def rights(policy: Policy) -> tuple[Right, ...]:
    """The rights of which a caller needs one; none: any valid key will do."""
    if policy.right is None:
        return ()
    return policy.right if isinstance(policy.right, tuple) else (policy.right,)


_policies: Final[dict[Handler, Policy]] = {}
