"""The first token: whose it is, where it is kept, when it is made anew, and how it is printed."""

import stat
from pathlib import Path
from typing import Any

import pytest

from local.stack import Stack


@pytest.fixture(scope="module")
def service(start_service: Any) -> Any:
    """A service without workers: nothing here is to be run."""
    return start_service(workers=0)


def test_the_first_token_is_its_owners_alone_and_kept_while_it_works(service: Any) -> None:
    file: Path = service.data_dir / "admin-token"
    stack: Stack = service.stack
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    file.chmod(0o644)
    stack.run_module("api.access.bootstrap", "--file", str(file))
    assert file.read_text() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert before.strip().rpartition("_")[2] not in service.log("api.access.bootstrap")


def test_a_token_that_works_no_more_is_replaced_and_its_admin_is_let_in_again(service: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(
        service.http.post("/tokens", json={"name": "reads", "scopes": ["read"]}).json()["token"]
    )  # works, but does not administrate
    service.new_user("deputy", role="admin")
    service.rows("UPDATE users SET disabled_at = now() WHERE name = 'admin'")
    service.stack.run_module("api.access.bootstrap", "--file", str(file), "--name", "again")
    token = file.read_text().strip()
    assert service.client(token).get("/me").json()["role"] == "admin"
    assert service.http.get("/me").status_code == 200, "the same user's older token works again too"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token"]
    changes = service.http.get("/audit", params={"subject": "user:admin", "action": "user.update"}).json()["items"]
    assert changes[0]["detail"] == {"role": "admin", "disabled": False}
    assert changes[0]["request_id"].startswith("bootstrap-")


def test_without_a_file_the_token_is_printed_once_and_is_new_each_time(service: Any) -> None:
    for _ in range(2):
        service.stack.run_module("api.access.bootstrap")
    first, second = service.log("api.access.bootstrap").split()[-2:]
    assert first != second
    assert service.client(first).get("/me").json()["scopes"] == ["admin", "read", "write"]
