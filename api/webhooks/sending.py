"""One try at a delivery: a single POST to an address that was checked, and what came of it."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2

from api.webhooks.destinations import Destinations
from models.errors import WebhookAddressNotAllowed, WebhookHostNotAllowed

_CONNECT_SECONDS = 5.0
_ANSWER_BYTES = 1_024
_SHOWN_LENGTH = 300


@dataclass(frozen=True)
class Outcome:
    """What came of a try; `error` is a sentence, or None where the receiver answered with a 2xx."""

    seconds: float
    status_code: int | None = None
    error: str | None = None
    answer: str | None = None


class Sender:
    """Posts to receivers, past every proxy, redirect and cookie; each try has a connection of its own."""

    def __init__(self, destinations: Destinations, *, timeout_seconds: float, ca_file: Path | None = None) -> None:
        """Send where `destinations` allow it; a try takes at most `timeout_seconds`, its connecting 5 of them.

        Certificates are trusted as the machine trusts them, and where one in `ca_file` (PEM) vouches for them.
        """
        self._destinations = destinations
        self._timeout_seconds = timeout_seconds
        trusted = httpx2.create_ssl_context(trust_env=False)
        if ca_file is not None:
            trusted.load_verify_locations(ca_file)
        # No connection is kept: the next one to the same address may be for another name, with another certificate.
        self._transport = httpx2.AsyncHTTPTransport(
            verify=trusted, trust_env=False, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        )

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        """Post a JSON body; whatever goes wrong is in the outcome."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                status, answer = await self._post(httpx2.URL(url), headers, body)
        except (WebhookHostNotAllowed, WebhookAddressNotAllowed) as error:
            return _failed(started, str(error))
        except httpx2.ConnectTimeout:
            return _failed(started, f"No connection within {_CONNECT_SECONDS:g} s.")
        except TimeoutError:
            return _failed(started, f"No answer within {self._timeout_seconds:g} s.")
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError, OSError) as error:
            return _failed(started, f"No answer: {printable(str(error)) or type(error).__name__}.")
        return Outcome(time.monotonic() - started, status, _judge(status), answer)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._transport.aclose()

    async def _post(self, url: httpx2.URL, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        *others, last = await self._destinations.resolve(url)
        for address in others:
            try:
                return await self._post_to(address, url, headers, body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # a host may have an address that cannot be reached from here
        return await self._post_to(last, url, headers, body)

    async def _post_to(self, address: str, url: httpx2.URL, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        """Connect to the address, and to nothing else, speaking to the URL's host."""
        request = httpx2.Request(
            "POST",
            url.copy_with(host=address),
            headers=headers
            | {
                "Host": url.netloc.decode("ascii"),
                "Content-Type": "application/json",
                "User-Agent": "Trainyard-Webhooks/1",
                "Connection": "close",
            },
            content=body,
            extensions={
                "sni_hostname": url.host.rstrip("."),
                "timeout": {"connect": _CONNECT_SECONDS, "read": None, "write": None, "pool": None},
            },
        )
        response = await self._transport.handle_async_request(request)
        try:
            return response.status_code, printable(await _beginning(response))
        finally:
            await response.aclose()


def printable(text: str) -> str:
    """Return the beginning of a stranger's text on one line, with what cannot be printed or stored replaced."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN_LENGTH]).strip()


async def _beginning(response: httpx2.Response) -> str:
    """Return the first bytes of the body as they were sent: decompressing could make gigabytes of them."""
    content = b""
    async for piece in response.aiter_raw():
        content += piece
        if len(content) >= _ANSWER_BYTES:
            break
    return content[:_ANSWER_BYTES].decode("utf-8", "replace")


def _failed(started: float, error: str) -> Outcome:
    return Outcome(time.monotonic() - started, error=error)


def _judge(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The receiver answered {status}; redirects are not followed."
    return f"The receiver answered {status}."
