"""Whether a request comes from this machine: the only ones that may come without a token."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own and nobody else's."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_from_this_machine(request: Request) -> bool:
    """Whether a program on this machine sent it: no proxy for somebody else, no page of a foreign site in a browser."""
    if request.client is None or not is_loopback(request.client.host):
        return False
    if any(name in request.headers for name in _FORWARDED):
        return False
    # A foreign site's page names itself in Origin, and, where its name was bound anew to this machine, in Host.
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    return _names_loopback(host) and (origin is None or urlsplit(origin).netloc == host)


def _names_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
