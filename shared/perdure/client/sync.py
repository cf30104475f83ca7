"""The calls of `Client`, blocking: each is the asynchronous one, run in a loop of its own thread.

There is no second implementation: a call here is made out of its model, with the same name, parameters and words.
"""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from perdure.client.follow import Follow, Told
from perdure.client.http import Client
from perdure.client.loop import LoopThread
from perdure.clock import Chance, Clock

P = ParamSpec("P")
T = TypeVar("T")


class SyncFollow:
    """An iterator over what a job says; `with`, or `close`, ends its connection where it is not read to its end.

    `offset` is behind what was yielded last: another `follow` with `after=offset` goes on there. KeyboardInterrupt ends
    it.
    """

    def __init__(self, follow: Follow, client: "SyncClient") -> None:
        self._follow, self._client = follow, client
        self._turn = asyncio.Lock()  # an end that comes while one waits for the next record ends that first

    @property
    def offset(self) -> str:
        """Where it stands: a `seq`, or `seq.n` behind a delta."""
        return self._follow.offset

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Told:
        try:
            told = self._client._run(self._next)
        except KeyboardInterrupt:
            self.close()
            raise
        if told is None:
            raise StopIteration
        return told

    def close(self) -> None:
        """End it; nothing more comes. The job is left alone."""
        if not self._client.closed:
            self._client._run(self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _next(self) -> Told | None:
        async with self._turn:
            return await anext(self._follow, None)

    async def _end(self) -> None:
        async with self._turn:
            await self._follow.aclose()


def _blocking(
    call: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],  # Any: nothing is sent into it
) -> Callable[Concatenate["SyncClient", P], T]:
    @functools.wraps(call)
    def blocking(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda: call(self._client, *args, **kwargs))

    return blocking


def _following(call: Callable[Concatenate[Client, P], Follow]) -> Callable[Concatenate["SyncClient", P], SyncFollow]:
    @functools.wraps(call)
    def following(self: "SyncClient", /, *args: P.args, **kwargs: P.kwargs) -> SyncFollow:
        return SyncFollow(call(self._client, *args, **kwargs), self)

    following.__annotations__ = call.__annotations__ | {"return": SyncFollow}
    return following


class SyncClient:
    """The client of one gateway, blocking; a context manager: `with SyncClient(url, key) as client`.

    Its calls, their parameters and their errors are those of `Client`. Any number of threads may use one; its own
    thread begins with the first call and ends with `close`, which also ends calls that other threads still wait for
    (they raise RuntimeError). KeyboardInterrupt ends the call that it interrupts.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        retry_seconds: float = 20.0,
        clock: Clock | None = None,
        chance: Chance | None = None,
        channel: str | None = None,
    ) -> None:
        self._client = Client(
            url, key, timeout=timeout, retry_seconds=retry_seconds, clock=clock, chance=chance, channel=channel
        )
        self._thread = LoopThread("perdure-client", self._client)
        self._lock = threading.Lock()
        self._started = self._closed = False

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self._client.url

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closed

    def close(self) -> None:
        """End what runs, the connections and the thread; calls afterwards raise RuntimeError. Again changes nothing.

        In a function that a call of this client called (`on_request`) it ends that call, without waiting for it.
        """
        with self._lock:
            self._closed = True
        if self._started:
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with self._lock:
            if self._closed:
                raise RuntimeError("this client is closed")
            if not self._started:
                self._closed = True  # unless it starts: a thread that was interrupted there cannot start again
                self._thread.start()
                self._started, self._closed = True, False
        return self._thread.run(call)

    submit = _blocking(Client.submit)
    job = _blocking(Client.job)
    wait = _blocking(Client.wait)
    jobs = _blocking(Client.jobs)
    cancel = _blocking(Client.cancel)
    signal = _blocking(Client.signal)
    retry = _blocking(Client.retry)
    delete = _blocking(Client.delete)
    state = _blocking(Client.state)
    requests = _blocking(Client.requests)
    blob = _blocking(Client.blob)
    follow = _following(Client.follow)
    log = _blocking(Client.log)

    run = _blocking(Client.run)
    result = _blocking(Client.result)
    next_request = _blocking(Client.next_request)

    inbox = _blocking(Client.inbox)
    request = _blocking(Client.request)
    answer = _blocking(Client.answer)
    delegate = _blocking(Client.delegate)
    withdraw = _blocking(Client.withdraw)
    comment = _blocking(Client.comment)
    link = _blocking(Client.link)
    revoke_link = _blocking(Client.revoke_link)
    groups = _blocking(Client.groups)
    add_to_group = _blocking(Client.add_to_group)
    remove_from_group = _blocking(Client.remove_from_group)

    flows = _blocking(Client.flows)
    flow = _blocking(Client.flow)
    flow_versions = _blocking(Client.flow_versions)
    check_flow = _blocking(Client.check_flow)
    push_flow = _blocking(Client.push_flow)
    restore_flow = _blocking(Client.restore_flow)
    delete_flow = _blocking(Client.delete_flow)

    whoami = _blocking(Client.whoami)
    keys = _blocking(Client.keys)
    create_key = _blocking(Client.create_key)
    rotate_key = _blocking(Client.rotate_key)
    revoke_key = _blocking(Client.revoke_key)
    runners = _blocking(Client.runners)
    drain_runner = _blocking(Client.drain_runner)
    queues = _blocking(Client.queues)
