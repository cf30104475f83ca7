"""Durability by name: what `perdure up --profile` may say, and the sentence that it prints at start."""

from typing import Final, Literal

from msgspec import Struct

from perdure.local.server import SyncMode

ProfileName = Literal["durable", "relaxed"]


class Profile(Struct, frozen=True):
    """When the broker calls fsync, and what that means for a job."""

    name: ProfileName
    sync: SyncMode
    sentence: str


PROFILES: Final[dict[ProfileName, Profile]] = {
    "durable": Profile("durable", "always", "every event is on disk before it is acknowledged"),
    "relaxed": Profile(
        "relaxed", "default", "events reach the disk within two minutes: a power cut may lose accepted work"
    ),
}
