"""What is sent to make a token, and what is shown of one: never its secret, but once to whoever made it."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from api.users.schemas import UserName
from models.user import Scope, Token
from models.validation import Moment, Name, Strict

LONGEST_DAYS = 3_650
SentScope = Annotated[Scope, Field(strict=False)]


class NewToken(Strict):
    """A token to be made; without an expiry it works until it is revoked."""

    name: Name
    scopes: Annotated[list[SentScope], Field(min_length=1, max_length=3)] = [Scope.READ, Scope.WRITE]  # noqa: RUF012
    expires_in_days: Annotated[int, Field(ge=1, le=LONGEST_DAYS)] | None = None
    expires_at: Moment | None = None
    user: UserName | None = Field(default=None, description="Whose it is to be; admins only, else the caller's")

    @model_validator(mode="after")
    def _one_expiry(self) -> "NewToken":
        if self.expires_in_days is not None and self.expires_at is not None:
            raise PydanticCustomError("conflict", "Give expires_in_days or expires_at, not both")
        return self


class TokenView(BaseModel):
    """A token as it may be shown."""

    id: str
    prefix: str
    user: str
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute")

    @classmethod
    def of(cls, token: Token, user: str) -> "TokenView":
        """Show a token of this user."""
        return cls(**_shown(token, user))


class MadeToken(TokenView):
    """A token that was just made. `token` is its text, which is shown this once."""

    token: str

    @classmethod
    def with_text(cls, token: Token, user: str, text: str) -> "MadeToken":
        """Show a new token of this user."""
        return cls(**_shown(token, user), token=text)


class TokenPage(BaseModel):
    """Tokens, newest first; `next` is the `after` of the following page, null at the end."""

    items: list[TokenView]
    next: str | None


def _shown(token: Token, user: str) -> dict[str, Any]:
    fields = ("id", "prefix", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
    return {"user": user} | {field: getattr(token, field) for field in fields}
