"""A board's identity file, and the marks of the machine that it is bound to."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from d3bed.agent.identity import (
    Identity,
    change_credential,
    find_identity,
    new_node,
    read_identity,
    write_identity,
)
from d3bed.agent.machine import read_machine
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine, same_machine


def make_board(
    root: Path, *, serial: str = "", system: str = "5ca1ab1e", card: str = "dc:a6:32:00:00:01"
) -> Path:
    """The files of a small board's /etc, /proc and /sys, with one card of its own and a virtual one."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/machine-id").write_text(system + "\n")
    if serial:
        (root / "proc/device-tree").mkdir(parents=True)
        (root / "proc/device-tree/serial-number").write_bytes(serial.encode() + b"\0")
    for name, address, kind in (("eth0", card, "0"), ("veth1", "12:34:56:78:9a:bc", "3")):
        (root / "sys/class/net" / name).mkdir(parents=True)
        (root / "sys/class/net" / name / "address").write_text(address + "\n")
        (root / "sys/class/net" / name / "addr_assign_type").write_text(kind + "\n")
    (root / "sys/class/net/eth0/device").mkdir()
    return root


def make_identity(**changes: object) -> Identity:
    values: dict[str, object] = {
        "node": new_node(),
        "machine": Machine("b", "s", ("c",)),
        "agent": AgentId("edge-1"),
        "tier": Tier.EDGE,
        "server": "http://192.0.2.1:8333",
        "credential": "d3a_00000000_" + "0" * 48,
    }
    return Identity(**{**values, **changes})  # type: ignore[arg-type]


def test_marks_tell_a_clone_from_the_board_it_was_copied_from(tmp_path: Path) -> None:
    node = new_node()
    here = read_machine(node, make_board(tmp_path / "a", serial="10000000aa"))
    again = read_machine(node, tmp_path / "a")
    clone = read_machine(node, make_board(tmp_path / "b", serial="10000000bb", card="dc:a6:32:00:00:02"))
    assert same_machine(here, again)
    assert here.system == clone.system  # it is on the card
    assert not same_machine(here, clone)


def test_without_a_serial_number_the_network_card_tells_them_apart(tmp_path: Path) -> None:
    node = new_node()
    here = read_machine(node, make_board(tmp_path / "a"))
    clone = read_machine(node, make_board(tmp_path / "b", card="dc:a6:32:00:00:02"))
    assert len(here.cards) == 1, "virtual cards are no marks"
    assert not same_machine(here, clone)


def test_marks_do_not_give_the_numbers_away(tmp_path: Path) -> None:
    board = make_board(tmp_path / "a", serial="10000000aa")
    one, other = read_machine(new_node(), board), read_machine(new_node(), board)
    assert "10000000aa" not in str(one)
    assert not {one.board, one.system, *one.cards} & {other.board, other.system, *other.cards}


def test_a_bare_system_has_no_marks(tmp_path: Path) -> None:
    assert read_machine(new_node(), tmp_path) == Machine()


def test_an_identity_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "identity.json"
    write_identity(path, make_identity())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_identity(path) == find_identity(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read .* chmod 600"):
        read_identity(path)


def test_a_new_credential_leaves_the_rest(tmp_path: Path) -> None:
    path, before = tmp_path / "identity.json", make_identity()
    write_identity(path, before)
    change_credential(path, "another")
    after = read_identity(path)
    assert after.credential == "another" and after.node == before.node
    assert [file.name for file in tmp_path.iterdir()] == ["identity.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"node": 1}', "\xff"])
def test_what_is_no_identity_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "identity.json"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="identity.json"):
        find_identity(path)


def test_no_identity_is_none(tmp_path: Path) -> None:
    assert find_identity(tmp_path / "identity.json") is None
