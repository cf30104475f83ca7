"""Values that the broker and the database hold and only a process with the master key can read.

AES-256-GCM under a key of the tenant, which is derived from the master key (HKDF-SHA256, RFC 5869, with the tenant as
its info), so nothing else has to be kept. What is sealed is bound to tenant and purpose: moved elsewhere it does not
open. `PERDURE_MASTER_KEY` holds one key, or several with commas: the first seals, all of them open, so a new one is put
in front and the old one taken away when nothing is left that it sealed.
"""

import os
import re
from base64 import b64decode, b64encode
from binascii import Error
from functools import lru_cache
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from perdure.errors import Malformed, Unavailable
from perdure.ids import Tenant

FORMAT: Final = 1
KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_KEY: Final = re.compile(r"([a-z0-9-]{1,32}):([A-Za-z0-9+/]{43}=)", re.ASCII)


class Sealed(Struct, frozen=True, kw_only=True):
    """A sealed value as it is stored: which key opens it, and the rest in base64."""

    v: int = FORMAT
    key: str
    nonce: str
    sealed: str


class MasterKeys:
    """The operator's keys by name. Whoever has none seals and opens nothing."""

    def __init__(self, text: str | None = None) -> None:
        """`text`: `name:base64` of 32 bytes, with commas. Raises ValueError, never with a part of a key."""
        self._keys: dict[str, bytes] = {}
        for part in (text or "").split(",") if text else ():
            match = _KEY.fullmatch(part.strip())
            if match is None:
                raise ValueError("each must be name:base64 of 32 bytes, with commas between them")
            if match[1] in self._keys:
                raise ValueError("two keys of one name")
            self._keys[match[1]] = b64decode(match[2])
        self._of_tenant = lru_cache(maxsize=1024)(self._derive)

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    @property
    def able(self) -> bool:
        """Whether there is a key at all."""
        return bool(self._keys)

    def seal(self, tenant: Tenant, purpose: str, value: bytes) -> Sealed:
        """`value` for `tenant`, good for `purpose` alone. Raises Unavailable without a key."""
        name = next(iter(self._keys), None)
        if name is None:
            raise Unavailable("there is no master key: set PERDURE_MASTER_KEY")
        nonce = os.urandom(_NONCE_BYTES)
        body = AESGCM(self._of_tenant(name, tenant)).encrypt(nonce, value, _bound(tenant, purpose))
        return Sealed(key=name, nonce=b64encode(nonce).decode(), sealed=b64encode(body).decode())

    def open(self, tenant: Tenant, purpose: str, sealed: Any) -> bytes:  # Any: a Sealed, or it as JSON
        """The value again. Raises Unavailable when its key is not here, Malformed when it is not what was sealed."""
        try:
            found = sealed if isinstance(sealed, Sealed) else msgspec.convert(sealed, Sealed)
            nonce, body = b64decode(found.nonce, validate=True), b64decode(found.sealed, validate=True)
        except (msgspec.ValidationError, Error) as exc:
            raise Malformed("not a sealed value") from exc
        if found.v != FORMAT or len(nonce) != _NONCE_BYTES:
            raise Malformed("not a sealed value of this version")
        if found.key not in self._keys:
            raise Unavailable(f"the master key {found.key} is not here")
        try:
            return AESGCM(self._of_tenant(found.key, tenant)).decrypt(nonce, body, _bound(tenant, purpose))
        except InvalidTag as exc:
            raise Malformed("a sealed value was changed, or is somebody else's") from exc

    def _derive(self, name: str, tenant: Tenant) -> bytes:
        info = b"perdure seal " + tenant.encode()
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._keys[name])


def new_master_key(name: str = "k1") -> str:
    """A new master key as `PERDURE_MASTER_KEY` takes it."""
    return f"{name}:{b64encode(os.urandom(KEY_BYTES)).decode()}"


def _bound(tenant: Tenant, purpose: str) -> bytes:
    return msgspec.json.encode([FORMAT, tenant, purpose])
