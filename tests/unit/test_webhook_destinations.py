"""Where a webhook may send to: no way leads into a network that is not the internet's."""

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from api.webhooks.destinations import Destinations, is_public
from api.webhooks.schemas import NewWebhook
from models.errors import WebhookAddressNotAllowed, WebhookHostNotAllowed

INNER = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", INNER)
def test_an_address_that_is_not_the_internets_is_none(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_one(address: str) -> None:
    assert is_public(ip_address(address))


def url_of(address: str) -> httpx2.URL:
    host = f"[{address}]" if ":" in address else address
    return httpx2.URL(f"http://{host}/")


@pytest.mark.parametrize("address", INNER)
def test_such_an_address_is_refused_though_it_is_on_the_list(address: str) -> None:
    rules = Destinations([address], private_addresses=False)
    with pytest.raises(WebhookAddressNotAllowed):
        rules.check(url_of(address))


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "::ffff:10.0.0.1", "fe80::1", "::"])
def test_private_addresses_do_not_include_those_of_links_groups_and_disguises(address: str) -> None:
    rules = Destinations([address], private_addresses=True)
    with pytest.raises(WebhookAddressNotAllowed):
        rules.check(url_of(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "192.168.1.1", "[fd00::1]", "[::1]", "100.64.0.1"])
def test_private_addresses_are_allowed_by_a_setting(address: str) -> None:
    Destinations([address.strip("[]")], private_addresses=True).check(httpx2.URL(f"http://{address}/"))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("hooks.lab.org", True),
        ("HOOKS.LAB.ORG", True),
        ("hooks.lab.org.", True),
        ("a.ci.lab.org", True),
        ("b.a.ci.lab.org", True),
        ("ci.lab.org", False),
        ("evilci.lab.org", False),
        ("lab.org", False),
        ("hooks.lab.org.evil.org", False),
        ("xhooks.lab.org", False),
        ("8.8.8.8", False),
        ("0x7f000001", False),
        ("2130706433", False),
    ],
)
def test_a_host_is_on_the_list_by_its_name_or_below_a_name_with_a_star(host: str, allowed: bool) -> None:
    rules = Destinations(["hooks.lab.org", "*.ci.lab.org"], private_addresses=False)
    url = httpx2.URL(f"https://{host}/x")
    if allowed:
        rules.check(url)
    else:
        with pytest.raises(WebhookHostNotAllowed):
            rules.check(url)


def test_without_a_list_no_host_is_allowed() -> None:
    with pytest.raises(WebhookHostNotAllowed, match="allowed are: none"):
        Destinations([], private_addresses=True).check(httpx2.URL("https://hooks.lab.org/"))


def test_a_name_is_refused_if_one_of_its_addresses_is_an_inner_one(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    rules = Destinations(["hooks.lab.org"], private_addresses=False)
    with pytest.raises(WebhookAddressNotAllowed, match=r"10\.0\.0\.1"):
        asyncio.run(rules.resolve(httpx2.URL("https://hooks.lab.org/")))
    rules.close()


def made(**changes: Any) -> NewWebhook:
    return NewWebhook.model_validate({"url": "https://hooks.lab.org/x", "events": ["job.failed"]} | changes)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.lab.org",
        "https://hooks.lab.org:8443/a/b?c=d%20e",
        "https://192.168.1.1/x",
        "http://[::1]:9/",
        "https://hooks.lab.org./x",
        "https://hooks.lab.org/@a",
    ],
)
def test_a_plain_url_is_taken_as_it_is(url: str) -> None:
    assert made(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.lab.org",
        "//hooks.lab.org",
        "ftp://hooks.lab.org",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "HTTPS://hooks.lab.org",
        "https://",
        "https:///x",
        "https://user@hooks.lab.org/",
        "https://user:secret@hooks.lab.org/",
        "https://@hooks.lab.org/",
        "https://hooks.lab.org\\@evil.org/",
        "https://hooks.lab.org/\r\nHost: evil.org",
        "https://hooks.lab.org/a b",
        "https://hooks.lab.org/\x00",
        "https://hôte.lab.org/",
        "https://hooks.lab.org/é",
        "https://hooks..lab.org/",
        "https://%68ooks.lab.org/",
        "https://*.lab.org/",
        "https://hooks.lab.org:0/",
        "https://hooks.lab.org:65536/",
        "https://hooks.lab.org:x/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://hooks.lab.org/#fragment",
        f"https://{'a' * 64}.org/",
        f"https://hooks.lab.org/{'x' * 2_048}",
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        made(url=url)
    assert [error["loc"] for error in refused.value.errors()] == [("url",)]


@pytest.mark.parametrize("events", [[], ["job.done"], ["webhook.ping"], ["job.failed", 1], "job.failed", ["job.*"]])
def test_an_event_that_there_is_not_is_refused(events: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        made(events=events)
    assert {error["loc"][0] for error in refused.value.errors()} == {"events"}


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("", ()),
        ("hooks.lab.org", ("hooks.lab.org",)),
        ("Hooks.Lab.org, *.ci.lab.org ,192.168.1.1,::1", ("hooks.lab.org", "*.ci.lab.org", "192.168.1.1", "::1")),
    ],
)
def test_the_setting_of_hosts_is_a_list_with_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, hosts: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TRAINYARD_WEBHOOK_HOSTS", value)
    assert ApiSettings(environment="development").webhook_hosts == hosts


@pytest.mark.parametrize("value", ["*", "https://hooks.lab.org", "hooks.lab.org/x", "a,*.", "*lab.org"])
def test_a_host_that_would_never_match_ends_the_start(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TRAINYARD_WEBHOOK_HOSTS", value)
    with pytest.raises(ValidationError):
        ApiSettings(environment="development")


def test_a_lease_shorter_than_a_try_ends_the_start() -> None:
    with pytest.raises(ValidationError, match="LEASE"):
        ApiSettings(environment="development", webhook_lease_seconds=10, webhook_timeout_seconds=10)
