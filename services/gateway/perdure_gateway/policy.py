"""The policy of every route: what a handler declares about who may call it. A route without one stops the start."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar, get_args

from aiohttp import web
from msgspec import Struct

from perdure.errors import Forbidden, PerdureError
from perdure_gateway.auth import Caller

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
H = TypeVar("H", bound=Handler)
Right = Literal["read", "execute", "answer", "edit", "share", "admin", "values", "metrics"]
SCOPES: Final = get_args(Right)


class Policy(Struct, frozen=True):
    """`right` is what the caller's key must hold, None where any valid key will do; `public` needs no key at all."""

    right: Right | None = None
    public: bool = False


class Undeclared(PerdureError):
    """A route whose handler declares no policy."""


def allow(right: Right | None = None, *, public: bool = False) -> Callable[[H], H]:
    """Declare the policy of a handler."""

    def declare(handler: H) -> H:
        _policies[handler] = Policy(right, public)
        return handler

    return declare


def policy_of(handler: Handler) -> Policy | None:
    """What `handler` declared, None for a stranger (such as aiohttp's own for unknown paths)."""
    return _policies.get(handler)


def check(app: web.Application) -> None:
    """Every route has declared its policy. Raises Undeclared, naming the route."""
    for route in app.router.routes():
        if policy_of(route.handler) is None:
            raise Undeclared(f"{route.method} {route.resource.canonical if route.resource else '?'} declares no policy")


def permit(policy: Policy, caller: Caller) -> None:
    """Whether the caller's key may do this at all; whose thing it is, is asked by tenant. Raises Forbidden."""
    if policy.right is not None and not caller.may(policy.right):
        raise Forbidden("the key's scopes do not allow this")


_policies: Final[dict[Handler, Policy]] = {}
