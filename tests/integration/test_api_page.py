"""Every command of docs/api.md runs as it stands there, against a service."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from api.webhooks.messages import headers_of, new_secret

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """Return what the page has in this language, in its order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(service: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A directory that looks as the page says, with the token where `make up` leaves it."""
    place = tmp_path_factory.mktemp("reader")
    (place / ".trainyard").mkdir()
    (place / ".trainyard" / "admin-token").write_text(service.stack.admin_token)
    return place


def run(service: Any, place: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr
    assert "unexpected_error" not in service.log("api")
    return done.stdout


def test_the_commands_of_the_shell(service: Any, place: Path) -> None:
    script = "\n".join(blocks("sh")).replace(ADDRESS, service.stack.base_url)
    assert script.count("curl") > 9
    printed = run(service, place, "bash", "-euo", "pipefail", "-c", script)
    assert "event: end" in printed
    assert "epoch,train_loss" in printed
    assert "confusion_matrix" in printed


def test_the_python(service: Any, place: Path) -> None:
    script = "\n".join(blocks("python")).replace(ADDRESS, service.stack.base_url)
    printed = run(service, place, sys.executable, "-c", script)
    assert "learning_rate" in printed


def test_the_check_of_a_webhooks_signature() -> None:
    (block,) = [part for part in blocks("python") if "def verified" in part]
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    verified, secret, body = namespace["verified"], new_secret(), b'{"type":"job.succeeded"}'
    headers = headers_of("msg_1", int(time.time()), body, secret)
    assert verified(headers, body, secret)
    assert not verified(headers, body + b" ", secret)
    assert not verified(headers, body, new_secret())
    assert not verified(headers | {"webhook-id": "msg_2"}, body, secret)
    assert not verified(headers_of("msg_1", int(time.time()) - 301, body, secret), body, secret)
