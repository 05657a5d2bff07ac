"""Where a webhook may send to: hosts that are allowed, at addresses that are no way into our own network."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx2

from models.errors import WebhookAddressNotAllowed, WebhookHostNotAllowed

_RESOLVING_THREADS = 8
_PORTS = {"http": 80, "https": 443}

# What the IANA registries of special-purpose addresses (RFC 6890) keep from the public internet, and multicast.
_SPECIAL = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "2001::/23",  # Teredo among others
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address within
        "3fff::/20",
    )
)
# All else is link-local, multicast, an IPv4 address in disguise (mapped, NAT64) or not given out.
_GLOBAL_UNICAST = ip_network("2000::/3")
# A laboratory's own machines; never link-local, where clouds keep their credentials.
_PRIVATE = tuple(
    ip_network(network)
    for network in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)


class Destinations:
    """The rules of one service: names on its list, `*.lab.org` for all hosts below `lab.org`, and public addresses."""

    def __init__(self, hosts: Sequence[str], *, private_addresses: bool) -> None:
        """Allow these hosts, in lower case; none of them: send nothing. `private_addresses` allows those as well."""
        self._hosts = hosts
        self._private_addresses = private_addresses
        # Threads of our own: a name server that hangs must not take those that others wait for.
        self._resolving = ThreadPoolExecutor(_RESOLVING_THREADS, thread_name_prefix="webhook-names")

    def check(self, url: httpx2.URL) -> None:
        """Raise WebhookHostNotAllowed or, for an address in place of a name, WebhookAddressNotAllowed."""
        host = url.host.rstrip(".")
        if not any(_is_or_is_below(host, allowed) for allowed in self._hosts):
            raise WebhookHostNotAllowed(
                f"Webhooks may not be sent to {host}; allowed are: {', '.join(self._hosts) or 'none'}."
            )
        try:
            address = ip_address(host)
        except ValueError:
            return
        self._check_address(address)

    async def resolve(self, url: httpx2.URL) -> list[str]:
        """Return the host's addresses, the nearest first, all of them allowed; to be connected to as they are.

        Raises what `check` raises, and OSError where the host has no address.
        """
        self.check(url)
        port = url.port or _PORTS[url.scheme]
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolving, lambda: socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        )
        addresses = [str(place[0]) for *_, place in found]
        for address in addresses:
            self._check_address(ip_address(address))
        return addresses

    def close(self) -> None:
        """Stop resolving."""
        self._resolving.shutdown(wait=False, cancel_futures=True)

    def _check_address(self, address: IPv4Address | IPv6Address) -> None:
        if is_public(address) or (self._private_addresses and _is_in(address, _PRIVATE)):
            return
        raise WebhookAddressNotAllowed(f"Webhooks may not be sent to the address {address}.")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is one of the public internet's, by the same table in every version of Python."""
    return (address.version == 4 or address in _GLOBAL_UNICAST) and not _is_in(address, _SPECIAL)


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)


def _is_or_is_below(host: str, allowed: str) -> bool:
    return host.endswith(allowed.removeprefix("*")) if allowed.startswith("*.") else host == allowed
