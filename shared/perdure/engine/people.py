"""The part of a context that asks people: `ask`, and `approve_tool` for what an agent wants to do."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, Unpack, overload

from msgspec import UNSET
from msgspec.structs import replace

from perdure.core.journal import CallKind, Entry
from perdure.core.key import Key
from perdure.engine.askcall import AskCall
from perdure.engine.asking import Answer, AskOptions, Check, RequestKind, asking
from perdure.engine.branches import Branch
from perdure.engine.derived import Derived
from perdure.engine.reask import Again, AskAgain, again, typed
from perdure.engine.toolcall import CALL_ID, EDITABLE, ToolDecision, actions, decision, fits, proposal_schema
from perdure.errors import Malformed, RequestExpired

T = TypeVar("T")
A = TypeVar("A")
MAX_NAME: Final = 128  # characters


class People(Derived):
    """What a workflow asks, and waits for without holding anything."""

    @overload
    async def ask(
        self,
        name: str,
        *,
        title: str,
        schema: type[T],
        kind: RequestKind = ...,
        proposal: Any = ...,  # any JSON
        proposal_schema: dict[str, Any] | None = ...,
        editable: Sequence[str] | None = ...,
        defaults: dict[str, Any] | None = ...,
        check: Check[T] | None = ...,
        **options: Unpack[AskOptions],
    ) -> Answer[T]: ...

    @overload
    async def ask(
        self,
        name: str,
        *,
        title: str,
        schema: None = None,
        kind: RequestKind = ...,
        proposal: Any = ...,  # any JSON
        proposal_schema: dict[str, Any] | None = ...,
        editable: Sequence[str] | None = ...,
        response_schema: dict[str, Any] | None = ...,
        defaults: dict[str, Any] | None = ...,
        check: Check[Any] | None = ...,
        **options: Unpack[AskOptions],
    ) -> Answer[Any]: ...

    async def ask(
        self,
        name: str,
        *,
        title: str,
        schema: Any = None,  # a type; what the payload becomes
        kind: RequestKind = "approval",
        proposal: Any = UNSET,  # any JSON
        proposal_schema: dict[str, Any] | None = None,
        editable: Sequence[str] | None = None,
        response_schema: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        check: Callable[[Any], Any] | None = None,
        **options: Unpack[AskOptions],
    ) -> Answer[Any]:
        """Ask a person, and wait for as long as it takes; the job holds nothing meanwhile.

        With `schema` the payload has that type. `check` gets each answer and may raise AskAgain, for a new request that
        says why. `editable` are the JSON Pointers under which the proposal may be changed.

        Raises Invalid, naming each argument that makes no request; RequestExpired when nobody answered within
        `expires_in`, or the voters can no longer agree, and `on_timeout` says fail (the default); RequestWithdrawn when
        somebody withdrew the request.
        """
        branch = await self._bench.branches.enter()
        what = asking(
            asker=self._bench.submitted.on_behalf_of or self._bench.submitted.owner,
            kind=kind,
            title=title,
            proposal=proposal,
            proposal_schema=proposal_schema,
            editable=editable,
            response_schema=response_schema,
            schema=schema,
            defaults=defaults,
            **options,
        )
        before: Again | None = None
        while True:
            call = AskCall(self._bench, branch, self._entry(branch, "ask", name), what, before)
            said: Answer[Any] = await self._bench.branches.wait(call)
            assert call.request is not None, "it was settled"
            try:
                answer = replace(said, payload=typed(said, call.request, what))
                if check is not None and answer.action is not None:
                    checked = check(answer)
                    if inspect.isawaitable(checked):
                        await checked
                return answer
            except AskAgain as exc:
                if said.timed_out:  # nobody is there to be asked again
                    raise RequestExpired(
                        f"request {name} expired, and the answer of its time-out does not hold: {exc}",
                        request_id=call.request.id,
                        cause=said.cause or "deadline",
                        votes=said.votes,
                    ) from exc
                before = again(call.request, what, said, exc, before)
            branch = await self._bench.branches.enter()

    @overload
    async def approve_tool(
        self,
        name: str,
        arguments: Any,  # any JSON object
        *,
        schema: type[A],
        title: str | None = None,
        call_id: str | None = None,
        editable: Sequence[str] = ...,
        **options: Unpack[AskOptions],
    ) -> ToolDecision[A]: ...

    @overload
    async def approve_tool(
        self,
        name: str,
        arguments: Any,  # any JSON object
        *,
        schema: dict[str, Any] | None = None,
        title: str | None = None,
        call_id: str | None = None,
        editable: Sequence[str] = ...,
        **options: Unpack[AskOptions],
    ) -> ToolDecision[dict[str, Any]]: ...

    async def approve_tool(
        self,
        name: str,
        arguments: Any,  # any JSON object
        *,
        schema: Any = None,  # a type, or a JSON Schema
        title: str | None = None,
        call_id: str | None = None,
        editable: Sequence[str] = EDITABLE,
        **options: Unpack[AskOptions],
    ) -> ToolDecision[Any]:
        """Ask whether the tool `name` may be called with `arguments`: approve, edit, reject, or respond in its place.

        `schema` is the type or the JSON Schema of the arguments, which edited ones must keep. `call_id` is what the
        model calls this call. Raises what `ask` raises; with `on_timeout` `branch` the outcome is `timeout`.
        """
        if call_id is not None:
            options["external_ids"] = {**(options.get("external_ids") or {}), CALL_ID: call_id}
        options["actions"] = actions(options.get("actions"), editable)
        answer: Answer[Any] = await self.ask(
            name,
            title=title or f"Call {name}?",
            kind="tool_call",
            proposal={"name": name, "arguments": arguments},
            proposal_schema=proposal_schema(name, schema),
            editable=list(editable),
            check=lambda answer: fits(answer, schema),
            **options,
        )
        return decision(answer, schema)

    def _entry(self, branch: Branch, kind: CallKind, name: str, args_digest: str | None = None) -> Entry:
        if not name or len(name) > MAX_NAME or not name.isprintable() or name.startswith("$"):
            raise Malformed(f"a name has 1 to {MAX_NAME} printable characters and does not begin with $")
        return Entry(kind, Key(branch.path, name, branch.occurrence(name)), args_digest)
