"""What is sent to make or change a user, and what is shown of one."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from models.share import DEFAULT_WEIGHT, LEAST_WEIGHT, Share
from models.user import Role, Scope, User
from models.validation import Strict

USER_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
UserName = Annotated[str, StringConstraints(pattern=USER_NAME)]
Weight = Annotated[float, Field(ge=LEAST_WEIGHT, le=1_000)]
RunningLimit = Annotated[int, Field(ge=0, le=10_000)]
QueuedLimit = Annotated[int, Field(ge=0, le=1_000_000)]
SentRole = Annotated[Role, Field(strict=False)]  # strict takes a Role alone, and JSON has none


class NewUser(Strict):
    """A user to be made."""

    name: UserName
    role: SentRole = Role.MEMBER


class UserChange(Strict):
    """What is to change; what is left out, or null, stays: only a limit that is null is taken away."""

    role: SentRole | None = None
    disabled: bool | None = None
    weight: Weight | None = Field(default=None, description="A user of twice the weight gets twice the GPU time.")
    max_running: RunningLimit | None = Field(default=None, description="Jobs that may run at once; null: any number.")
    max_queued: QueuedLimit | None = Field(default=None, description="Jobs that may wait; null: the service's default.")

    def of_share(self) -> dict[str, float | int | None]:
        """Return the fields of the user's part in the queue that are to have these values."""
        sent = self.model_dump(include={"weight", "max_running", "max_queued"}, exclude_unset=True)
        return {name: value for name, value in sent.items() if value is not None or name != "weight"}


class ShareView(BaseModel):
    """A user's part in the queue: jobs that may run at once (null: any number), and jobs that may wait."""

    weight: float
    max_running: int | None
    max_queued: int | None


class UserView(ShareView):
    """A user; a disabled one keeps their jobs, and none of their tokens works.

    Without a `max_queued` of their own the service's default holds.
    """

    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None

    @classmethod
    def of(cls, user: User, share: Share | None) -> "UserView":
        """Show a user with their part in the queue, if they have had one."""
        return cls(
            name=user.name,
            role=Role(user.role),
            created_at=user.created_at,
            disabled_at=user.disabled_at,
            weight=share.weight if share else DEFAULT_WEIGHT,
            max_running=share.max_running if share else None,
            max_queued=share.max_queued if share else None,
        )


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


class Me(ShareView):
    """Who calls. The scopes are what the token allows now; without a token it is null. The limits are what holds."""

    user: str
    role: Role
    scopes: list[Scope]
    token: MyToken | None
    rate_limit: RateLimitView
