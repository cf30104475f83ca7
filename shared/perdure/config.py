"""Settings: one closed record a service, from flags and PERDURE_* variables. An unknown name stops the start."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from perdure.errors import Fault, Invalid
from perdure.ids import is_token

_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?", re.ASCII)
_MASTER: Final = re.compile(r"[a-z0-9-]{1,32}:[A-Za-z0-9+/]{43}=", re.ASCII)
PREFIX: Final = "PERDURE_"
DATA_FOLDER: Final = ".perdure"  # what `perdure up` uses where --data does not say otherwise
# Read where they are used and by no service's settings: failpoints, the broker's binary, the parent to die with.
LOOSE: Final = frozenset({"PERDURE_FAILPOINTS", "PERDURE_NATS_SERVER", "PERDURE_PARENT"})


class Address(NamedTuple):
    """Where a listener listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _list(value: object) -> object:
    """A comma list, as variables and flags have it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _address(value: object) -> object:
    """`host:port` or `[v6]:port`."""
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port")
    return Address(host.strip("[]") or "127.0.0.1", int(port))


def _addresses(value: object) -> object:
    """A comma list of `host:port`."""
    parts = _list(value)
    return tuple(_address(part) for part in parts) if isinstance(parts, tuple) else parts


def _token(value: str) -> str:
    if not is_token(value):
        raise ValueError("each must be 1 to 32 of a-z 0-9 _ -, and begin with a letter or digit")
    return value


def _module(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("each must be a module: package.module")
    return value


def _origin(value: str) -> str:
    if _ORIGIN.fullmatch(value) is None:
        raise ValueError("each must be an exact origin: https://host or https://host:port, in lower case")
    return value


def _master(value: SecretStr | None) -> SecretStr | None:
    for part in value.get_secret_value().split(",") if value is not None else ():
        if _MASTER.fullmatch(part.strip()) is None:
            raise ValueError("each must be name:base64 of 32 bytes")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_list), Field(min_length=1)]
QueueName = Annotated[str, BeforeValidator(_token)]
Queues = Annotated[tuple[QueueName, ...], BeforeValidator(_list), Field(min_length=1)]
Tenants = Queues
Apps = Annotated[tuple[Annotated[str, BeforeValidator(_module)], ...], BeforeValidator(_list)]
Origins = Annotated[tuple[Annotated[str, BeforeValidator(_origin)], ...], BeforeValidator(_list)]
Names = Annotated[tuple[str, ...], BeforeValidator(_list)]
Priorities = Annotated[tuple[Literal["low", "normal", "high"], ...], BeforeValidator(_list), Field(min_length=1)]
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_addresses)]
HealthAddress = Annotated[Address | None, BeforeValidator(_address)]
MasterKey = Annotated[SecretStr | None, AfterValidator(_master)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]


class Settings(BaseModel):
    """What every process knows. Attribute `x_y` is the variable PERDURE_X_Y."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    log_level: LogLevel = "info"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, /, **flags: object) -> Self:
        """The settings from `flags` (None: not given), else from `environ` (os.environ), else the defaults.

        A variable that is set to nothing counts as not set. Raises Invalid with one fault for each unknown PERDURE_*
        name and each value that does not fit; the message names the setting and never shows the value.
        """
        environ = os.environ if environ is None else environ
        faults = [
            Fault("unknown-setting", "no such setting", parameter=name)
            for name in sorted(environ)
            if name.startswith(PREFIX) and name not in known_names()
        ]
        values: dict[str, Any] = {}  # Any: pydantic decides
        for field in cls.model_fields:
            given = flags.get(field)
            text = environ.get(variable(field)) or None
            if given is not None:
                values[field] = given
            elif text is not None:
                values[field] = text
        try:
            settings = cls.model_validate(values)
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_context=False, include_input=False):
                name = variable(str(error["loc"][0])) if error["loc"] else PREFIX + "*"
                faults.append(Fault("invalid-setting", error["msg"].removeprefix("Value error, "), parameter=name))
            raise Invalid(faults, code="invalid-settings") from None  # the cause would show the refused value
        if faults:
            raise Invalid(faults, code="invalid-settings")
        return settings

    def environ(self) -> dict[str, str]:
        """These settings as PERDURE_* variables, defaults left out: how a child process gets them, never by argv."""
        found: dict[str, str] = {}
        for field in self.model_fields_set:
            value = getattr(self, field)
            if value is None:
                continue
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            is_list = isinstance(value, tuple) and not isinstance(value, Address)
            found[variable(field)] = ",".join(map(str, value)) if is_list else str(value)
        return found


class NatsSettings(Settings):
    """How a service reaches the broker, where it tells whether it is well, and how long its end may take."""

    nats: Words = ("nats://127.0.0.1:4222",)
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    health: HealthAddress = None
    grace_seconds: Seconds = 30.0

    @property
    def password(self) -> str | None:
        """The broker's password in the clear, for the one who connects."""
        return self.nats_password.get_secret_value() if self.nats_password else None


class DatabaseSettings(NatsSettings):
    """A service that also speaks SQL. `database` is a SQLAlchemy URL (sqlite+aiosqlite or postgresql+asyncpg)."""

    database: str = f"sqlite+aiosqlite:///{DATA_FOLDER}/perdure.db"


class GatewaySettings(DatabaseSettings):
    """The gateway; its end waits for open requests. `sql_outage_seconds`: how long the keys and flows that it remembers
    stay good while the database is away. `cors_origins`: exact origins of browsers that may read answers.
    `rate_per_minute`: requests of one key. `connections_per_address`: not counted on loopback. `nats_replay_user`: who
    answers `replay.*.*`, on a connection of its own. `master_key`: what seals overrides (`perdure.seal`). `langflow_…`:
    of Langflow's workflows API.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8480
    sql_outage_seconds: Seconds = 900.0
    cors_origins: Origins = ()
    rate_per_minute: Annotated[int, Field(ge=1, le=10_000_000)] = 120_000
    connections_per_address: Annotated[int, Field(ge=1, le=20_000)] = 200
    nats_replay_user: str | None = None
    nats_replay_password: SecretStr | None = None
    master_key: MasterKey = None
    langflow_failed_status: Literal["ok", "legacy"] = "ok"
    langflow_supersede: Literal["named", "always", "off"] = "named"
    langflow_sync_timeout_seconds: Seconds = 300.0
    langflow_stream_orphan_seconds: Seconds = 60.0
    langflow_query_key: bool = True


class RunnerSettings(NatsSettings):
    """A runner; its end waits for running steps. `slots`: jobs at the same time. `outbound_allow`: hosts and ports that
    flows may ask although they are inside, plain or on another port than 443 and 8443. `master_key`: what opens
    overrides that were sealed with a job. `langflow`: execute flow files of Langflow, each in a process of its own:
    `langflow_ahead` of them wait for work; each may take `langflow_memory_mb` of memory and `langflow_seconds` of time,
    and sees the variables that `langflow_environ` names.
    """

    queues: Queues = ("default",)
    priorities: Priorities = ("high", "normal", "low")
    slots: Annotated[int, Field(ge=1, le=1000)] = 64
    app: Apps = ()
    tenants: Tenants = ("main",)
    model_url: str | None = None
    model_key: SecretStr | None = None
    model_name: str | None = None
    outbound_allow: Addresses = ()
    master_key: MasterKey = None
    langflow: bool = False
    langflow_ahead: Annotated[int, Field(ge=0, le=64)] = 2
    langflow_memory_mb: Annotated[int, Field(ge=64, le=1_048_576)] = 2_048
    langflow_seconds: Seconds = 3_600.0
    langflow_environ: Names = ()


class StreamSettings(DatabaseSettings):
    """Who declares the streams. `lease_seconds`: of queues that nobody has served yet; one that was keeps its own."""

    lease_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 10.0


class SweeperSettings(StreamSettings):
    """The sweeper. `log_days`: how long after its end a log stays with the broker; `archive_days`: how long after it
    the archive and a tombstone do.
    """

    log_days: Days = 7.0
    archive_days: Days = 90.0


class MigrateSettings(StreamSettings):
    """`perdure migrate`: the operator's rights. `first_key`: the first API key, where the operator chooses it."""

    first_key: SecretStr | None = None


class ClientSettings(Settings):
    """Where a client finds the gateway, and its key."""

    url: str | None = None
    key: SecretStr | None = None


ALL: Final[tuple[type[Settings], ...]] = (
    GatewaySettings,
    RunnerSettings,
    SweeperSettings,
    MigrateSettings,
    ClientSettings,
)


def variable(field: str) -> str:
    """The name of a setting's variable."""
    return PREFIX + field.upper()


def known_names() -> frozenset[str]:
    """Every PERDURE_* name that anybody reads: each process accepts the names of all, so one environment fits all."""
    return LOOSE | {variable(field) for settings in ALL for field in settings.model_fields}
