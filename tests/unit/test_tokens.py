"""Tokens, logins and the limit on wrong tokens, as the home keeps them."""

import json
import re
import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from src.access import Role
from src.cli import app
from src.panel.access import logins, tokens
from src.panel.access.limits import MAX_BY_CLIENT, MAX_IN_TOTAL, SECONDS, WrongTokens


def spelltune(*arguments: str, code: int = 0) -> str:
    answer = CliRunner().invoke(app, ["token", *arguments])
    assert answer.exit_code == code, answer.output
    return answer.stdout if code == 0 else answer.stderr


def test_a_token_opens_and_only_its_hash_is_kept(home: Path) -> None:
    secret = tokens.make("edit", Role.EDIT)
    assert len(secret) == 43  # 256 bits
    found = tokens.match(secret)
    assert found and (found.name, found.role) == ("edit", Role.EDIT)
    for wrong in ("", secret[:-1], secret + "x", secret.swapcase(), found.sha256, "é", "x" * 10**6):
        assert tokens.match(wrong) is None, wrong[:50]
    cookie = logins.begin(found)
    files = [file for file in (home / "access").rglob("*") if file.is_file()]
    assert len(files) == 2
    for file in files:
        text = file.read_text() + file.name
        assert secret not in text and cookie not in text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_login_ends_with_its_token_its_time_or_by_itself(home: Path) -> None:
    tokens.make("edit", Role.EDIT)
    tokens.make("guest", Role.READ)
    owner, guest = tokens.find("edit"), tokens.find("guest")
    keys = [logins.key_of(logins.begin(token)) for token in (owner, guest, guest)]
    assert [logins.role_of(key) for key in keys] == [Role.EDIT, Role.READ, Role.READ]
    logins.end(keys[2])
    assert logins.role_of(keys[2]) is None and logins.role_of(keys[1]) is Role.READ
    tokens.renew("guest")
    assert logins.role_of(keys[1]) is None
    file = next(f for f in (home / "access/logins").iterdir() if keys[0] in f.name)
    late = json.loads(file.read_text()) | {"until": time.time() - 1}
    file.write_text(json.dumps(late))
    assert logins.role_of(keys[0]) is None
    tokens.revoke("edit")
    # A new token of the same name does not bring an old login back.
    file.write_text(json.dumps(late | {"until": time.time() + 9}))
    tokens.make("edit", Role.EDIT)
    assert logins.role_of(keys[0]) is None
    logins.begin(tokens.find("guest"))
    # What has ended by its time is swept away.
    file.write_text(json.dumps(late))
    logins.begin(tokens.find("guest"))
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"role": "owner"}', "\0"])
def test_a_damaged_file_opens_nothing(home: Path, text: str) -> None:
    secret = tokens.make("edit", Role.EDIT)
    cookie = logins.begin(tokens.find("edit"))
    for file in (home / "access").rglob("*.json"):
        file.write_text(text)
    assert tokens.match(secret) is None and tokens.listed() == []
    assert logins.role_of(logins.key_of(cookie)) is None


def test_the_commands_make_list_renew_and_revoke(home: Path) -> None:
    assert spelltune("list") == ""
    first = spelltune("new").split()[-1]
    read = json.loads(spelltune("new", "--read-only", "--json"))
    assert (read["name"], read["role"]) == ("read-only", "read")
    second = spelltune("new").split()[-1]
    assert tokens.match(first) and tokens.match(second) and tokens.match(read["token"])
    listed = json.loads(spelltune("list", "--json"))
    assert [one["name"] for one in listed] == ["edit", "read-only", "edit-2"]
    assert not {"token", "sha256"} & {key for one in listed for key in one}
    assert re.search(r"read-only +read ", spelltune("list"))
    third = spelltune("renew", "edit").split()[-1]
    assert tokens.match(first) is None and tokens.match(third)
    spelltune("revoke", "edit")
    assert tokens.match(third) is None
    assert "there is no token 'edit'; did you mean 'edit-2'?" in spelltune("revoke", "edit", code=2)
    assert "there is a token 'edit-2' already" in spelltune("new", "edit-2", code=2)
    for name in ("../../x", "a b", "", "X", "a" * 41, "a/b"):
        assert "a token's name has up to 40" in spelltune("new", name, code=2)
    assert "there is no token '../tokens/edit-2'" in spelltune("revoke", "../tokens/edit-2", code=2)


def test_wrong_tokens_are_limited_by_client_and_in_total() -> None:
    wrong = WrongTokens()
    for second in range(MAX_BY_CLIENT):
        assert wrong.wait("10.0.0.1", float(second)) == 0
        wrong.note("10.0.0.1", float(second))
    assert wrong.wait("10.0.0.1", 9.5) == SECONDS - 9  # until the first one is forgotten
    assert wrong.wait("10.0.0.2", 9.5) == 0
    assert wrong.wait("10.0.0.1", SECONDS) == 0
    for number in range(MAX_IN_TOTAL):
        wrong.note(f"10.1.0.{number}", 100.0)
    assert wrong.wait("10.0.0.3", 100.0) == SECONDS
    assert wrong.wait("10.0.0.3", 100.0 + SECONDS) == 0


def test_one_machine_has_a_whole_network_of_ipv6_and_counts_once() -> None:
    wrong = WrongTokens()
    for number in range(MAX_BY_CLIENT):
        wrong.note(f"2001:db8::{number:x}", 0.0)
        wrong.note(f"::ffff:10.0.0.{number}", 0.0)  # IPv4 at a socket of IPv6: all others
    assert wrong.wait("2001:db8::ffff", 0.0) == SECONDS
    assert wrong.wait("2001:db9::1", 0.0) == 0
    assert wrong.wait("::ffff:10.0.0.99", 0.0) == 0
