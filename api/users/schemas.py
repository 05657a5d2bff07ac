"""What is sent to make or change a user, and what is shown of one."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from models.user import Role, Scope
from models.validation import Strict

USER_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
UserName = Annotated[str, StringConstraints(pattern=USER_NAME)]
SentRole = Annotated[Role, Field(strict=False)]  # strict takes a Role alone, and JSON has none


class NewUser(Strict):
    """A user to be made."""

    name: UserName
    role: SentRole = Role.MEMBER


class UserChange(Strict):
    """What is to change; what is left out, or null, stays."""

    role: SentRole | None = None
    disabled: bool | None = None


class UserView(BaseModel):
    """A user; a disabled one keeps their jobs, and none of their tokens works."""

    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None


class UserPage(BaseModel):
    """Users in the order of their names; `next` is the `after` of the following page, null at the end."""

    items: list[UserView]
    next: str | None


class MyToken(BaseModel):
    """The token that the request was made with."""

    prefix: str
    name: str
    expires_at: datetime | None


class RateLimitView(BaseModel):
    """Requests that a token may make: so many in a minute, and so many at once."""

    requests_per_minute: int
    burst: int


class Me(BaseModel):
    """Who calls. The scopes are what the token allows now; without a token it is null."""

    user: str
    role: Role
    scopes: list[Scope]
    token: MyToken | None
    rate_limit: RateLimitView
