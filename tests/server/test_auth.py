from __future__ import annotations

import stat
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.server.auth import is_foreign_host, is_foreign_origin, is_loopback, kept_secret


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.org", "", "::", "localhost.evil.org"])
def test_anything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    made, is_new = kept_secret(tmp_path / "token")
    assert is_new and len(made) == 48
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert kept_secret(tmp_path / "token") == (made, False)


def test_emptied_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="too short"):
        kept_secret(tmp_path / "token")


def test_pages_of_other_origins_are_foreign() -> None:
    assert not is_foreign_origin(None, "127.0.0.1:8333")
    assert not is_foreign_origin("http://127.0.0.1:8333", "127.0.0.1:8333")
    for origin in ("http://evil.org", "null", "http://127.0.0.1:9999", "http://localhost:8333"):
        assert is_foreign_origin(origin, "127.0.0.1:8333")


def test_rebound_names_are_foreign_hosts() -> None:
    assert not any(map(is_foreign_host, ["127.0.0.1:8333", "localhost:8333", "[::1]:8333", "localhost"]))
    assert all(map(is_foreign_host, ["evil.org:8333", "evil.org", "", None, "127.0.0.1.evil.org"]))
