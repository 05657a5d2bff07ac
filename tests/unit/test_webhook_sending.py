"""The connection of a try: to the address that was checked, under the name of the URL."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api.webhooks.destinations import Destinations
from api.webhooks.sending import Outcome, Sender, printable


def post(url: str) -> Outcome:
    """Post to a URL, with private addresses allowed."""

    async def once() -> Outcome:
        destinations = Destinations(["hooks.lab.org", "nowhere.invalid"], private_addresses=True)
        sender = Sender(destinations, timeout_seconds=5)
        try:
            return await sender.post(url, {}, b"{}")
        finally:
            await sender.aclose()
            destinations.close()

    return asyncio.run(once())


@contextmanager
def tls_server(asked_for: list[str | None]) -> Iterator[int]:
    """Run a server without a certificate, which notes the name that a client asks for; give its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: asked_for.append(name)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)  # for a client that goes elsewhere
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let every name have these addresses at its first look-up, and inner ones at each later one."""
    looked_up: list[str] = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        looked_up.append(host)
        found = addresses if len(looked_up) == 1 else ("169.254.169.254",)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def test_the_name_is_looked_up_once_and_its_certificate_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str | None] = []
    looked_up = resolves_to(monkeypatch, "127.0.0.1")
    with tls_server(asked_for) as port:
        outcome = post(f"https://hooks.lab.org:{port}/x")
    assert asked_for == ["hooks.lab.org"]
    assert looked_up == ["hooks.lab.org"], "what was checked is what is connected to"
    assert outcome.error is not None
    assert outcome.error.startswith("No answer: ")


def test_an_address_that_cannot_be_reached_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str | None] = []
    resolves_to(monkeypatch, "127.255.255.254", "127.0.0.1")  # nobody listens at the first
    with tls_server(asked_for) as port:
        post(f"https://hooks.lab.org:{port}/x")
    assert asked_for == ["hooks.lab.org"]


def test_a_name_without_an_address_is_a_failure_and_no_crash() -> None:
    outcome = post("http://nowhere.invalid/")
    assert outcome.status_code is None
    assert outcome.error is not None


def test_a_strangers_text_is_shortened_to_what_can_be_printed_and_stored() -> None:
    assert printable("a\x00b\r\n\ud800c") == "a b   c"
    assert len(printable("x" * 10_000)) <= 300
