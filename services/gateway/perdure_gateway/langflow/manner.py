"""How the API behaves where the operator may choose: see `docs/reference/settings.md`, PERDURE_LANGFLOW_*."""

from typing import Final, Literal, Self

from msgspec import Struct

from perdure.config import GatewaySettings


class Manner(Struct, frozen=True, kw_only=True):
    """`legacy`: jobs that ended badly are answered with 500 and 408."""

    legacy: bool = False
    supersede: Literal["named", "always", "off"] = "named"
    sync_seconds: float = 300.0
    orphan_seconds: float = 60.0
    query_key: bool = True

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """As the settings say."""
        return cls(
            legacy=settings.langflow_failed_status == "legacy",
            supersede=settings.langflow_supersede,
            sync_seconds=settings.langflow_sync_timeout_seconds,
            orphan_seconds=settings.langflow_stream_orphan_seconds,
            query_key=settings.langflow_query_key,
        )


DEFAULT_MANNER: Final = Manner()
