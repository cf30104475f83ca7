"""What is sealed with a job: a caller's tweaks and globals, in the log as ciphertext, read by its runner alone."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.core import codec
from perdure.core.event import SubmittedData
from perdure.core.langflow.overrides import Overrides
from perdure.errors import Malformed
from perdure.ids import Digest, Tenant
from perdure.seal import MasterKeys

Fetch = Callable[[Tenant, Digest], Awaitable[bytes]]
"""A blob by its digest. Raises NotFound, Unavailable."""


def seal(keys: MasterKeys, tenant: Tenant, fingerprint: Digest, overrides: Overrides) -> Any:  # Any: JSON
    """`overrides` as `job.submitted` holds them; None where there are none. Raises Unavailable without a master key."""
    if overrides.empty:
        return None
    return msgspec.to_builtins(keys.seal(tenant, _purpose(fingerprint), codec.canonical(overrides)))


def unseal(keys: MasterKeys, tenant: Tenant, submitted: SubmittedData) -> Overrides:
    """What was sealed with a job, its values in the event. Raises Unavailable where the key is not here, Malformed."""
    if submitted.sealed is None:
        return Overrides()
    return _read(keys.open(tenant, _purpose(submitted.fingerprint), submitted.sealed))


async def opened(keys: MasterKeys, fetch: Fetch, tenant: Tenant, submitted: SubmittedData) -> Overrides:
    """`unseal`, where the value may lie in a blob. Raises Unavailable, NotFound, Malformed."""
    if submitted.sealed_ref is not None:
        try:
            value = msgspec.json.decode(await fetch(tenant, submitted.sealed_ref.sha256))
        except msgspec.DecodeError as exc:
            raise Malformed("what is sealed with the job is no JSON") from exc
        submitted = replace(submitted, sealed=value, sealed_ref=None)
    return unseal(keys, tenant, submitted)


def _read(body: bytes) -> Overrides:
    try:
        return msgspec.json.decode(body, type=Overrides)
    except msgspec.MsgspecError as exc:
        raise Malformed("what is sealed with the job are no overrides") from exc


def _purpose(fingerprint: Digest) -> str:
    """Bound to the body that they came in: with another body they do not open."""
    return f"overrides:{fingerprint}"
