"""Joining, rotating and cutting off at a running server, over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from d3bed.agent import join as protocol_of_agents
from d3bed.agent.join import join as ask_to_join
from d3bed.agent.join import knock
from d3bed.core.errors import ConfigError
from d3bed.core.joining import Machine
from d3bed.core.messages import CredentialKept, CutOff, NewCredential, Welcome, decode_to_agent, encode
from d3bed.core.protocol import PROTOCOL
from d3bed.server import ServerSettings
from d3bed.server import health as protocol_of_servers
from d3bed.server.door import GUESSES
from tests.server.conftest import EDGE_1, EDGE_2, Script
from tests.server.lab import ALL, Lab, StartLab

pytestmark = pytest.mark.sockets

TOKEN = "sesame-open-sesame"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
HERE, THERE = Machine("board", "system", ("card",)), Machine("another", "system", ("another",))
NODE = "ab" * 16


@pytest.fixture
async def lab(start_lab: StartLab, make_settings: Callable[..., ServerSettings]) -> Lab:
    return await start_lab(make_settings(token=TOKEN))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def invite(lab: Lab, **order: Any) -> str:
    made = await lab.post("api/invitations", order, headers=ADMIN)
    assert made["command"] == f"d3bed join {lab.address.rstrip('/')} --token {made['token']}"
    return str(made["token"])


def request(agent: str | None = "edge-1", node: str = NODE, machine: Machine = HERE, **more: Any) -> bytes:
    fields = {"agent": agent, "node": node, "machine": machine, "host": "pi", **more}
    return msgspec.json.encode(fields)


async def join(lab: Lab, agent: str = "edge-1", **more: Any) -> str:
    joined = await lab.post("api/join", request(agent, **more), headers=bearer(await invite(lab)))
    assert joined["agent"] == agent and joined["tier"] == "edge"
    return str(joined["credential"])


def control(lab: Lab, secret: str) -> websockets.connect:
    return websockets.connect(lab.ws("ws/agent"), additional_headers=bearer(secret))


def registration(agent: Any = EDGE_1, node: str = NODE, machine: Machine = HERE) -> str:
    return encode(msgspec.structs.replace(Script(agent).register, node=node, machine=machine))


async def hears(connection: ClientConnection, kind: type) -> Any:
    """The next message of a kind."""
    async with asyncio.timeout(60):
        while not isinstance(message := decode_to_agent(await connection.recv()), kind):
            pass
    return message


async def refusal(connection: ClientConnection) -> tuple[int, str]:
    """How the server closes it."""
    with pytest.raises(websockets.ConnectionClosed) as closed:
        async with asyncio.timeout(60):
            while True:
                await connection.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def audit(lab: Lab, needle: str) -> dict[str, Any]:
    """The newest row that says so, once it is stored."""
    async with asyncio.timeout(60):
        while True:
            rows = await lab.get("api/audit", headers=ADMIN)
            for row in rows:
                if needle in f"{row['what']} {row['detail']}":
                    assert isinstance(row, dict)
                    return row
            await asyncio.sleep(0.02)


async def test_a_joined_agent_comes_with_its_own_credential_and_no_other_name(lab: Lab) -> None:
    secret = await join(lab)
    async with control(lab, secret) as connection:
        await connection.send(registration())
        assert isinstance(decode_to_agent(await connection.recv()), Welcome)
        (row,) = await lab.get("api/credentials", headers=ADMIN)
        assert (row["agent"], row["state"]) == ("edge-1", "good") and row["used_s"] is not None
    async with control(lab, secret) as connection:
        await connection.send(registration(EDGE_2))
        assert await refusal(connection) == (4003, "this is the credential of edge-1, not of edge-2")
    assert (
        "credential" in (await lab.post("api/pipelines/demo/stop", {}, 403, headers=bearer(secret)))["error"]
    )
    row = await audit(lab, "joined")
    assert row["who"].startswith("join token ") and "edge-1 (edge)" in row["detail"]


async def test_a_copy_on_another_machine_is_refused_and_told(lab: Lab) -> None:
    secret = await join(lab)
    async with control(lab, secret) as board, control(lab, secret) as clone:
        await board.send(registration())
        await hears(board, Welcome)
        await clone.send(registration(machine=THERE))
        code, reason = await refusal(clone)
        assert code == 4003 and "a copy of edge-1 on another machine" in reason
        (agent,) = await lab.get("api/agents")
        assert agent["state"] == "connected", "the board itself is left alone"
    state = await lab.get("api/state")
    assert any("a copy of the identity of edge-1" in note["text"] for note in state["notes"])
    token = await invite(lab)
    for name in ("edge-1", "edge-2"):
        answer = await lab.post("api/join", request(name, machine=THERE), 403, headers=bearer(token))
        assert "a copy of edge-1" in answer["error"]
    assert (await audit(lab, "a copy of edge-1"))["status"] == 403
    await join(lab, "edge-2", node="cd" * 16, machine=THERE)


async def test_a_name_is_one_boards_until_it_is_revoked(lab: Lab) -> None:
    await join(lab)
    await join(lab)  # the same board again
    token = await invite(lab)
    other = request(node="cd" * 16, machine=THERE)
    answer = await lab.post("api/join", other, 409, headers=bearer(token))
    assert "d3bed agents revoke edge-1" in answer["error"]
    await lab.post("api/credentials/edge-1/revoke", {}, headers=ADMIN)
    await lab.post("api/join", other, headers=bearer(token))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (request(agent=None), 400, "does not name pi"),
        (request(agent="../etc"), 400, "not a name"),
        (request(tier="cloud"), 409, "configured as edge, not as cloud"),
        (request(node="short"), 400, "length >= 16"),
        (request(more=1), 400, "unknown field"),
    ],
)
async def test_what_cannot_join_is_told_why_and_spends_no_token(
    lab: Lab, body: bytes, status: int, words: str
) -> None:
    token = await invite(lab)
    assert words in (await lab.post("api/join", body, status, headers=bearer(token)))["error"]
    await lab.post("api/join", request(), headers=bearer(token))


async def test_a_token_for_one_name_gives_it(lab: Lab) -> None:
    token = await invite(lab, agent="edge-2")
    answer = await lab.post("api/join", request("edge-1"), 403, headers=bearer(token))
    assert "for edge-2, not for edge-1" in answer["error"]
    assert (await lab.post("api/join", request(agent=None), headers=bearer(token)))["agent"] == "edge-2"


async def test_wrong_expired_used_and_revoked_are_refused_at_once_with_a_reason(lab: Lab) -> None:
    expired = await invite(lab, for_s=0.001)
    used = await invite(lab)
    await lab.post("api/join", request(), headers=bearer(used))
    closed = await invite(lab, uses=None, for_s=None)
    (open_one,) = await lab.get("api/invitations", headers=ADMIN)
    await lab.post(f"api/invitations/{open_one['id']}/revoke", {}, headers=ADMIN)
    revoked = await join(lab, "edge-2", node="cd" * 16)
    await lab.post("api/credentials/edge-2/revoke", {}, headers=ADMIN)
    wrong = "d3j_00000000_" + "0" * 48
    cases = {wrong: "not known", expired: "has expired", used: "was used", closed: "was revoked"}
    for secret, words in cases.items():
        assert words in (await lab.post("api/join", request(), 401, headers=bearer(secret)))["error"]
        row = await audit(lab, words)
        assert row["status"] == 401 and secret.rpartition("_")[2] not in str(row)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await control(lab, revoked)
    body = refused.value.response.body
    assert body is not None and b"edge-2 was revoked" in body
    assert (await audit(lab, "edge-2 was revoked"))["what"] == "GET /ws/agent"
    with pytest.raises(ConfigError, match=r"HTTP 401\): the credential of edge-2 was revoked"):
        await asyncio.to_thread(knock, lab.address, revoked, "")
    await asyncio.to_thread(knock, lab.address, TOKEN, "")
    await asyncio.to_thread(knock, "http://127.0.0.1:9", revoked, "")  # nobody there yet: no reason to end


async def test_another_protocol_is_refused_before_an_agent_comes(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, token = await join(lab), await invite(lab)
    with monkeypatch.context() as another:
        another.setattr(protocol_of_agents, "PROTOCOL", PROTOCOL - 1)
        words = f"the agent speaks protocol {PROTOCOL - 1}, the server {PROTOCOL}: upgrade d3bed on the agent"
        with pytest.raises(ConfigError, match=words):
            await asyncio.to_thread(knock, lab.address, secret, "")
        row = await audit(lab, words)
        assert (row["who"], row["what"], row["status"]) == ("agent edge-1", "GET /healthz", 400)
        with pytest.raises(ConfigError, match=words):
            await asyncio.to_thread(
                ask_to_join, lab.address, token, tmp_path / "id", name="edge-2", tier=None
            )
        assert (await audit(lab, "POST /api/join"))["status"] == 400
    # A server that does not look at what the agent says tells its own.
    monkeypatch.setattr(protocol_of_servers, "PROTOCOL", PROTOCOL - 1)
    with pytest.raises(ConfigError, match="upgrade d3bed on the server"):
        await asyncio.to_thread(knock, lab.address, secret, "")
    await asyncio.to_thread(ask_to_join, lab.address, token, tmp_path / "id", name="edge-2", tier=None)
    with pytest.raises(ConfigError, match="is not https"):
        await asyncio.to_thread(
            ask_to_join, lab.address, token, tmp_path / "id", name=None, tier=None, pin="ab" * 32
        )


async def test_a_revoked_agent_is_cut_off_at_once_and_the_others_change_their_secret(
    lab: Lab,
) -> None:
    first = await join(lab)
    second = await join(lab, "edge-2", node="cd" * 16)
    async with control(lab, first) as one, control(lab, second) as two:
        await one.send(registration())
        await two.send(registration(EDGE_2, "cd" * 16))
        before = (await hears(one, Welcome)).link_secret
        assert (await hears(two, Welcome)).link_secret == before
        answering = asyncio.create_task(lab.post("api/credentials/edge-1/revoke", {}, headers=ADMIN))
        assert await refusal(one) == (4003, "the credential of edge-1 was revoked")
        told = await hears(two, CutOff)
        assert told.agent == EDGE_1 and told.link_secret != before
        await answering
    async with control(lab, second) as two:
        await two.send(registration(EDGE_2, "cd" * 16))
        welcome = await hears(two, Welcome)
        assert welcome.link_secret == told.link_secret and welcome.cut_off == (EDGE_1,)
    notes = [note["text"] for note in (await lab.get("api/state"))["notes"]]
    assert "edge-1 was revoked by token" in notes


async def test_a_rotated_credential_takes_over_when_the_agent_has_kept_it(lab: Lab) -> None:
    secret = await join(lab)
    assert (
        "not connected" in (await lab.post("api/credentials/edge-1/rotate", {}, 409, headers=ADMIN))["error"]
    )
    async with control(lab, secret) as connection:
        await connection.send(registration())
        await hears(connection, Welcome)
        await lab.post("api/credentials/edge-1/rotate", {}, headers=ADMIN)
        new = await hears(connection, NewCredential)
        states = {row["state"] for row in await lab.get("api/credentials", headers=ADMIN)}
        assert states == {"good", "rotating"}
        await connection.send(encode(CredentialKept("made up")))
        await connection.send(encode(CredentialKept(new.id)))
        assert new.id in (await audit(lab, "rotated"))["detail"]
    with pytest.raises(websockets.InvalidStatus):
        await control(lab, secret)
    async with control(lab, new.credential) as connection:
        await connection.send(registration())
        await hears(connection, Welcome)


async def test_guesses_are_limited(lab: Lab) -> None:
    for _ in range(GUESSES):
        await lab.post("api/pipelines/demo/stop", {}, 401, headers=bearer("wrong"))
    assert "wait" in (await lab.post("api/join", request(), 429, headers=bearer("wrong")))["error"]
    assert "wait" in (await lab.post("api/login", {"token": "wrong"}, 429))["error"]


async def test_a_page_logs_in_once_and_no_script_reads_its_session(lab: Lab) -> None:
    assert "login" in (await lab.post("api/pipelines/demo/rate", {"rate_per_s": 1}, 401))["error"]
    await lab.post("api/login", {"token": "wrong"}, 401)
    async with lab.http.post(lab.address + "api/login", json={"token": TOKEN}) as answer:
        assert answer.status == 200
        cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    await lab.post("api/pipelines/demo/rate", {"rate_per_s": 1}, headers=session)
    row = await audit(lab, "/api/pipelines/demo/rate")
    assert row["who"].startswith("page ") and row["detail"] == '{"rate_per_s": 1}'
    evil = session | {"Origin": "http://evil.org"}
    await lab.post("api/pipelines/demo/rate", {"rate_per_s": 2}, 403, headers=evil)
    await lab.post("api/logout", {}, 200, headers=session)
    await lab.post("api/pipelines/demo/rate", {"rate_per_s": 2}, 401, headers=session)


@pytest.mark.parametrize("path", ["api/audit", "api/credentials", "api/invitations"])
async def test_who_is_let_in_is_not_for_everyone_to_read(lab: Lab, path: str) -> None:
    await lab.get(path, 401)
    await lab.get(path, headers=ADMIN)


async def test_what_cannot_be_written_is_not_let_in(
    lab: Lab, make_settings: Callable[..., ServerSettings]
) -> None:
    (make_settings().data_dir / "credentials.json.new").mkdir()
    answer = await lab.post("api/invitations", {}, 503, headers=ADMIN)
    assert "cannot be written" in answer["error"]
    assert await lab.get("api/invitations", headers=ADMIN) == []


async def test_credentials_outlive_the_server(
    start_lab: StartLab, make_settings: Callable[..., ServerSettings]
) -> None:
    lab = await start_lab(make_settings(token=TOKEN))
    secret = await join(lab)
    await lab.close()
    lab = await start_lab(make_settings(token=TOKEN))
    async with control(lab, secret) as connection:
        await connection.send(registration())
        await hears(connection, Welcome)
    await audit(lab, "joined")


async def test_a_server_on_loopback_needs_no_token_but_knows_a_revoked_one(
    start_lab: StartLab, make_settings: Callable[..., ServerSettings]
) -> None:
    lab = await start_lab(make_settings())
    joined = await lab.post("api/join", request())
    await lab.post("api/credentials/edge-1/revoke", {})
    with pytest.raises(websockets.InvalidStatus):
        await control(lab, joined["credential"])
    await lab.join(*ALL)
    await lab.running()
