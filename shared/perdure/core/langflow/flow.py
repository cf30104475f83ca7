"""A Langflow flow as `/api/v1` shows it, and what a body makes of it. Members that nobody uses have 1.13's defaults.

A version of such a flow is stored as this record; its digest is that of `data` alone, so a job knows what it executes
and a new name makes no other code. The token of a version changes with `data` only.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.instant import Instant
from perdure.ids import Principal, Tenant, derived

Shown = dict[str, UserValue]
HEADER_MEMBERS: Final = (
    "id", "name", "folder_id", "is_component", "endpoint_name", "description", "data", "access_type", "tags",
    "mcp_enabled", "flow_type", "a2a_enabled", "a2a_card_overrides", "action_name", "action_description", "updated_at",
)  # fmt: skip
MOST_TRIES: Final = 10_000


class Flow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored of a version. `data_version` is the version in which `data` changed last."""

    data: dict[str, Any] | None = None  # Any: a flow file's JSON
    description: str | None = None
    endpoint_name: str | None = None
    tags: list[str] | None = None
    data_version: int = 1


def token(flow: str, data_version: int) -> str:
    """The version token."""
    return derived("langflow-version", flow, str(data_version))


def user(tenant: Tenant, principal: Principal) -> str:
    """A principal as a user id: clients want a UUID."""
    return derived("langflow-user", tenant, principal)


def shown(flow_id: str, name: str, flow: Flow, owner: str, folder: str, updated_at: Instant) -> Shown:
    """The flow with the members of 1.13, in its order."""
    return {
        "name": name,
        "description": flow.description,
        "icon": None,
        "icon_bg_color": None,
        "gradient": None,
        "data": flow.data,
        "is_component": False,
        "updated_at": f"{updated_at[:19]}+00:00",
        "webhook": False,
        "endpoint_name": flow.endpoint_name,
        "tags": flow.tags,
        "locked": False,
        "mcp_enabled": False,
        "action_name": None,
        "action_description": None,
        "access_type": "PRIVATE",
        "flow_type": "workflow",
        "a2a_enabled": False,
        "a2a_card_overrides": None,
        "id": flow_id,
        "user_id": owner,
        "folder_id": folder,
        "workspace_id": None,
        "name_key": None,
        "version_token": token(flow_id, flow.data_version),
    }


def header(whole: Mapping[str, UserValue]) -> Shown:
    """The short form of a list: 16 members, without data and token."""
    return {name: None if name == "data" else whole[name] for name in HEADER_MEMBERS}


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or `wanted (1)`, `wanted (2)`, … where it is taken."""
    return _free(wanted, taken, "{} ({})")


def free_endpoint(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or `wanted-1`, `wanted-2`, … where it is taken."""
    return _free(wanted, taken, "{}-{}")


def _free(wanted: str, taken: Collection[str], form: str) -> str:
    candidates = (form.format(wanted, number) for number in range(1, MOST_TRIES))
    return wanted if wanted not in taken else next(name for name in candidates if name not in taken)
