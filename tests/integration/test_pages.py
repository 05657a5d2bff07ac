"""The pages that show the API's description: they work without the internet."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers."""
    return start_service(workers=0)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_what_a_page_loads_comes_from_the_service_itself(service: Any, path: str) -> None:
    stranger = service.anonymous()
    page = stranger.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text) + re.findall(r"url: '([^']+)'", page.text)
    assert "/openapi.json" in loaded
    assert any(address.endswith(".js") for address in loaded)
    for address in loaded:
        assert urlsplit(address).netloc == "", "another host"
        answer = stranger.get(address)
        assert (answer.status_code, bool(answer.content)) == (200, True), address


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/files/swagger-ui-bundle.js"])
def test_a_browser_is_told_to_load_nothing_from_elsewhere(service: Any, path: str) -> None:
    policy = service.anonymous().get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self' 'unsafe-inline';" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/docs/files/nothing.js", 404, "not_found"),
        ("GET", "/docs/files/", 404, "not_found"),
        ("GET", "/docs/files/..%2F__init__.py", 404, "not_found"),
        ("GET", "/docs/files/%2e%2e/core.py", 404, "not_found"),
        ("GET", "/docs/files//etc/passwd", 404, "not_found"),
        ("POST", "/docs/files/swagger-ui.css", 405, "method_not_allowed"),
    ],
)
def test_nothing_else_is_shown(service: Any, method: str, path: str, status: int, code: str) -> None:
    answer = service.anonymous().request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
