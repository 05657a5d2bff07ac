"""Webhooks over TLS: sent to a receiver whose certificate is trusted and names it, and to no other."""

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_CONFIGURATION = "[req]\ndistinguished_name = name\n[name]\n"  # in place of what the machine would add by itself


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "openssl.cnf").write_text(_CONFIGURATION)
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        self.certificate = self._sign("authority", *extensions)

    def server_of(self, host: str) -> ssl.SSLContext:
        """Return the context of a server with a certificate for this host."""
        by_us = ["-CA", str(self.certificate), "-CAkey", str(self.certificate.with_suffix(".key"))]
        certificate = self._sign(host, *by_us, "-addext", f"subjectAltName=DNS:{host}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        return context

    def _sign(self, name: str, *more: str) -> Path:
        """Return a certificate for two days; its key lies beside it."""
        certificate = self._directory / f"{name}.pem"
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
        request = ["openssl", "req", "-x509", "-config", "openssl.cnf", "-days", "2", "-subj", f"/CN={name}", *new_key]
        subprocess.run(
            [*request, "-out", certificate.name, *more], cwd=self._directory, capture_output=True, check=True
        )
        return certificate


@pytest.fixture(scope="module")
def new_authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Authority]:
    """How an authority is made."""
    version = ["openssl", "version"]
    if shutil.which("openssl") is None or subprocess.check_output(version, text=True) < "OpenSSL 3":
        pytest.skip("certificates are made by OpenSSL 3")
    return lambda: Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(new_authority: Callable[[], Authority]) -> Authority:
    """The laboratory's own authority."""
    return new_authority()


@pytest.fixture(scope="module")
def service(start_service: Any, ours: Authority, fast_webhooks: dict[str, Any]) -> Any:
    """A service that trusts the laboratory's authority."""
    return start_service(workers=0, webhook_ca_file=ours.certificate, **fast_webhooks)


def address(receiver: Any) -> str:
    return f"https://localhost:{receiver.port}/hook"


def test_a_receiver_with_a_trusted_certificate_is_sent_what_happens(
    hook_to: Any, start_receiver: Any, tries: Any, ours: Authority
) -> None:
    receiver = start_receiver(tls=ours.server_of("localhost"))
    hook = hook_to(address(receiver))
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery), delivery["attempts"][0]["error"]) == ("delivered", [204], None)
    (request,) = receiver.requests
    assert request.headers["host"] == f"localhost:{receiver.port}"
    assert request.message["type"] == "webhook.ping"


def test_a_receiver_whose_certificate_nobody_vouches_for_is_sent_nothing_and_the_log_says_why(
    hook_to: Any, start_receiver: Any, tries: Any, service: Any, new_authority: Callable[[], Authority]
) -> None:
    receiver = start_receiver(tls=new_authority().server_of("localhost"))
    hook = hook_to(address(receiver))
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [None] * 3)
    assert all("certificate verify failed" in attempt["error"] for attempt in delivery["attempts"])
    assert receiver.requests == []
    stored = service.rows("SELECT status FROM deliveries WHERE id = %s", delivery["id"])
    assert stored == [{"status": "failed"}]


def test_a_receiver_with_the_certificate_of_another_host_is_sent_nothing(
    hook_to: Any, start_receiver: Any, tries: Any, ours: Authority
) -> None:
    receiver = start_receiver(tls=ours.server_of("elsewhere.lab.org"))
    hook = hook_to(address(receiver))
    hook.ping()
    (delivery,) = hook.settled()
    assert (delivery["status"], tries(delivery)) == ("failed", [None] * 3)
    assert all("Hostname mismatch" in attempt["error"] for attempt in delivery["attempts"])
    assert receiver.requests == []
