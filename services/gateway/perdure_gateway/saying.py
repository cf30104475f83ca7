"""Bodies of what people say to requests."""

from typing import Annotated, Any, Final

from pydantic import Field, StringConstraints, field_validator

from perdure_gateway.bodies import Body, parse_instant

MAX_COMMENT: Final = 4096  # characters
MAX_LINK_SECONDS: Final = 90 * 86_400
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}"

User = Annotated[str, StringConstraints(pattern=rf"^user:{_NAME}$")]
Audience = Annotated[str, StringConstraints(pattern=rf"^(user|link):{_NAME}$")]
ActionId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Comment = Annotated[str, StringConstraints(min_length=1, max_length=MAX_COMMENT)]

__all__ = ["AnswerBody", "CommentBody", "DelegateBody", "LinkBody", "WithdrawBody"]


class AnswerBody(Body):
    """`POST /api/inbox/{r}/answer`, and of a link."""

    user_values = frozenset({"payload", "proposal"})

    action: ActionId
    payload: Any = None
    proposal: Any = None
    proposal_digest: Annotated[str, StringConstraints(max_length=100)] | None = None
    comment: Comment | None = None


class DelegateBody(Body):
    """`POST /api/inbox/{r}/delegate`."""

    to: User
    comment: Comment | None = None


class WithdrawBody(Body):
    """`POST /api/inbox/{r}/withdraw`; the body may be left out."""

    reason: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "withdrawn"


class CommentBody(Body):
    """`POST /api/inbox/{r}/comments`."""

    text: Comment


class LinkBody(Body):
    """`POST /api/inbox/{r}/links`: for a user of the tenant, or for somebody outside, who is called by a label."""

    audience: Annotated[Audience, Field(alias="for")]
    actions: Annotated[list[ActionId], Field(min_length=1, max_length=12)] | None = None
    expires_at: str | None = None

    @field_validator("expires_at")
    @classmethod
    def _instant(cls, value: str | None) -> str | None:
        return None if value is None else parse_instant(value)
