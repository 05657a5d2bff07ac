"""The text of a token, `ty_<id>_<secret>`: made, read, and compared with the digest that is kept."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from uuid_utils.compat import uuid7

_SECRET_BYTES = 32
_TEXT = re.compile(r"ty_([0-9a-f]{32})_([0-9a-f]{64})")


@dataclass(frozen=True)
class TokenText:
    """A token as its owner holds it; its `repr` shows the public part alone."""

    id: str
    secret: str

    @classmethod
    def new(cls) -> "TokenText":
        """Draw a token: its id is in the order of time, its secret has 256 random bits."""
        return cls(uuid7().hex, secrets.token_hex(_SECRET_BYTES))

    @classmethod
    def read(cls, text: str) -> "TokenText | None":
        """Return the token that is written so, None where none is."""
        match = _TEXT.fullmatch(text)
        return cls(match[1], match[2]) if match else None

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the secret; a fast hash is right here, because nobody guesses 256 random bits."""
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, digest: bytes) -> bool:
        """Compare with a digest that was kept, in constant time."""
        return hmac.compare_digest(self.digest, digest)

    def __str__(self) -> str:
        return f"ty_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"<TokenText ty_{self.id}>"
