"""Who it is at the door, and how often they may guess."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine
from d3bed.server.audit import Audit
from d3bed.server.credentials import MOST_OPEN, Credential, Credentials, Denied, Invitation
from d3bed.server.door import GUESS_S, GUESSES, SESSION_S, Door, Limiter

TOKEN, EDGE, NODE = "sesame-open-sesame", AgentId("edge-1"), "n" * 32
HOST = "192.0.2.7"


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "credentials.json")


def issue(credentials: Credentials, now: float = 0.0, agent: AgentId = EDGE) -> tuple[Credential, str]:
    return credentials.issue(now, agent, Tier.EDGE, NODE, Machine(), host=HOST, by="test")


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────


def test_a_join_token_is_good_so_often_and_so_long(credentials: Credentials) -> None:
    made, secret = credentials.invite(0.0, "test", expires_s=60.0, uses=2, agent=None)
    assert credentials.check(secret, 59.0) == made
    credentials.spend(made)
    found = credentials.check(secret, 59.0)
    assert isinstance(found, Invitation) and found.uses == 1
    with pytest.raises(Denied, match="has expired"):
        credentials.check(secret, 60.0)
    credentials.spend(made)
    with pytest.raises(Denied, match="was used already"):
        credentials.check(secret, 1.0)


def test_a_revoked_or_replaced_credential_says_so(credentials: Credentials) -> None:
    _, first = issue(credentials)
    made, second = issue(credentials, 1.0)
    with pytest.raises(Denied, match="edge-1 was replaced") as denied:
        credentials.check(first, 2.0)
    assert not denied.value.guess
    assert credentials.check(second, 2.0) == made
    assert credentials.revoke(EDGE, 3.0, "test") and not credentials.revoke(EDGE, 4.0, "test")
    with pytest.raises(Denied, match="edge-1 was revoked"):
        credentials.check(second, 5.0)
    assert credentials.revoked == (EDGE,)
    issue(credentials, 6.0)
    assert not credentials.revoked


def test_while_one_is_rotated_both_are_good(credentials: Credentials) -> None:
    old, first = issue(credentials)
    new, second = credentials.rotate(old, 1.0, "test")
    assert credentials.check(first, 2.0) == old and credentials.check(second, 2.0) == new
    assert credentials.kept(new.id, 3.0) and not credentials.kept(new.id, 3.0)
    with pytest.raises(Denied, match="was replaced"):
        credentials.check(first, 4.0)
    found = credentials.check(second, 4.0)
    assert isinstance(found, Credential) and not found.rotates


@pytest.mark.parametrize("secret", ["", "d3a_", "d3a_00000000_" + "0" * 48, "x" * 10_000, "d3j_é", "\udcff"])
def test_what_is_not_known_counts_as_a_guess(credentials: Credentials, secret: str) -> None:
    issue(credentials)
    with pytest.raises(Denied, match="not known") as denied:
        credentials.check(secret, 0.0)
    assert denied.value.guess


def test_the_right_id_with_a_wrong_secret_is_a_guess(credentials: Credentials) -> None:
    made, secret = issue(credentials)
    with pytest.raises(Denied, match="not known"):
        credentials.check(secret[:-1] + ("0" if secret[-1] != "0" else "1"), 0.0)
    with pytest.raises(Denied, match="not known"):
        credentials.check(f"d3j_{made.id}_{secret.rpartition('_')[2]}", 0.0)


def test_all_of_it_is_read_again_and_no_secret_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    before = Credentials(path)
    _, token = before.invite(0.0, "test", expires_s=None, uses=None, agent=EDGE)
    _, secret = issue(before)
    before.write(before.encoded(1.0))
    after = Credentials(path)
    assert after.check(token, 1e9) == before.check(token, 1e9)
    assert after.check(secret, 1.0) == before.check(secret, 1.0)
    text = path.read_text()
    assert token.rpartition("_")[2] not in text and secret.rpartition("_")[2] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_over_is_forgotten_in_the_end(credentials: Credentials) -> None:
    for n in range(1200):
        issue(credentials, float(n))
    credentials.encoded(2000.0)
    assert len(credentials.credentials) == 1001 and credentials.current(EDGE) is not None


def test_open_join_tokens_are_bounded(credentials: Credentials) -> None:
    for _ in range(MOST_OPEN):
        credentials.invite(0.0, "test", expires_s=10.0, uses=1, agent=None)
    with pytest.raises(Denied, match="revoke some"):
        credentials.invite(1.0, "test", expires_s=10.0, uses=1, agent=None)
    credentials.invite(11.0, "test", expires_s=None, uses=1, agent=None)


def test_a_broken_file_is_named_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match="credentials.json.*restore it"):
        Credentials(path)
    assert path.read_text() == "{"


# ── callers ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer sesame-open-sesame", True),
        ("bearer sesame-open-sesame", True),
        ("Bearer Sesame-open-sesame", False),
        ("Bearer ", False),
        ("Basic sesame-open-sesame", False),
        ("sesame-open-sesame", False),
        ("Bearer sésame", False),
    ],
)
def test_only_the_bearer_of_the_token_has_it(credentials: Credentials, header: str, right: bool) -> None:
    door = Door(TOKEN, credentials)
    if right:
        assert door.caller(header, None, HOST, 0.0).kind == "admin"
    else:
        with pytest.raises(Denied, match="not known"):
            door.caller(header, None, HOST, 0.0)


def test_who_says_nothing_is_nobody_but_on_loopback_without_a_token(credentials: Credentials) -> None:
    assert not Door(TOKEN, credentials).caller(None, None, HOST, 0.0).may_change
    assert Door(None, credentials).caller(None, None, "127.0.0.1", 0.0).may_change


def test_agents_and_join_tokens_may_not_change_things(credentials: Credentials) -> None:
    door = Door(TOKEN, credentials)
    _, secret = issue(credentials)
    _, token = credentials.invite(0.0, "test", expires_s=None, uses=1, agent=None)
    for kind, text in (("agent", secret), ("invited", token)):
        caller = door.caller(f"Bearer {text}", None, HOST, 1.0)
        assert caller.kind == kind and not caller.may_change
        assert text.rpartition("_")[2] not in caller.who
        with pytest.raises(Denied, match="server's own token"):
            door.log_in(text, HOST, 1.0)


def test_a_page_session_ends(credentials: Credentials) -> None:
    door = Door(TOKEN, credentials)
    session = door.log_in(TOKEN, HOST, 0.0)
    assert door.caller(None, session, HOST, SESSION_S - 1).kind == "page"
    assert door.caller(None, session, HOST, SESSION_S + 1).kind == "nobody"
    assert door.caller(None, "made up", HOST, 1.0).kind == "nobody"
    door.log_out(session)
    assert door.caller(None, session, HOST, 1.0).kind == "nobody"
    with pytest.raises(Denied):
        door.log_in("wrong", HOST, 0.0)


def test_after_ten_guesses_a_host_waits_and_another_does_not(credentials: Credentials) -> None:
    door = Door(TOKEN, credentials)
    for _ in range(GUESSES):
        with pytest.raises(Denied, match="not known"):
            door.caller("Bearer wrong", None, HOST, 0.0)
    with pytest.raises(Denied, match="wait") as denied:
        door.caller(f"Bearer {TOKEN}", None, HOST, 0.0)
    assert denied.value.status == 429
    assert door.caller(f"Bearer {TOKEN}", None, "192.0.2.8", 0.0).kind == "admin"
    assert door.caller(f"Bearer {TOKEN}", None, HOST, GUESS_S + 0.1).kind == "admin"


def test_a_secret_that_was_right_once_is_no_guess(credentials: Credentials) -> None:
    door = Door(TOKEN, credentials)
    _, secret = issue(credentials)
    credentials.revoke(EDGE, 1.0, "test")
    for _ in range(3 * GUESSES):
        with pytest.raises(Denied, match="revoked"):
            door.caller(f"Bearer {secret}", None, HOST, 2.0)


def test_an_ipv6_network_guesses_as_one_and_hosts_are_bounded() -> None:
    limiter = Limiter(hosts=100)
    for n in range(GUESSES):
        limiter.guessed(f"2001:db8::{n:x}", 0.0)
    assert limiter.wait_s("2001:db8::ffff", 0.0) > 0
    assert limiter.wait_s("2001:db8:0:1::1", 0.0) == 0
    for n in range(200):
        limiter.guessed(f"10.0.0.{n}", 0.0)
    assert len(limiter._full_s) == 100


# ── the audit log ─────────────────────────────────────────────────────────────────────────────────


def test_equal_knocks_are_one_row_a_minute_and_all_together_bounded() -> None:
    rows: list[tuple[str, dict[str, object]]] = []
    audit = Audit(lambda table, row: rows.append((table, row)))
    for _ in range(50):
        audit.knocked(0.0, "stranger", HOST, "POST /api/join", "not known", 401)
    assert len(rows) == 1
    audit.knocked(61.0, "stranger", HOST, "POST /api/join", "not known", 401)
    assert "49 times more" in str(rows[-1][1]["detail"])
    for n in range(1000):
        audit.knocked(62.0, "stranger", f"10.0.{n // 250}.{n % 250}", "POST /api/join", "not known", 401)
    assert len(rows) <= 122
    audit.changed(62.0, "token", HOST, "POST /x", "y" * 1000)
    assert rows[-1][0] == "audit" and len(str(rows[-1][1]["detail"])) == 500
