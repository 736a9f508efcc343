"""`/healthz` is 200 while the server does its work, and says why it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import websockets

import d3bed
from d3bed.core.messages import Register, decode_from_agent, encode
from d3bed.core.protocol import PROTOCOL, spoken
from d3bed.server.coordinator import REFUSED
from tests.server.lab import ALL, DEVICE, Lab, MakeScript

pytestmark = pytest.mark.sockets


async def test_a_server_that_works_says_so_without_a_token(lab: Lab) -> None:
    await lab.join(*ALL)
    await lab.running()
    found = await lab.get("healthz")
    assert found == {
        "status": "ok", "problems": [], "version": d3bed.__version__, "protocol": PROTOCOL, "agents": 4,
        "pipelines": {"demo": "running"},
    }  # fmt: skip


async def test_a_disk_that_takes_nothing_is_a_reason_to_call_somebody(lab: Lab, tmp_path: Path) -> None:
    (database,) = tmp_path.rglob("d3bed.sqlite3")  # noqa: ASYNC240
    folder = database.parent
    folder.rename(folder.with_name("gone"))
    try:
        async with asyncio.timeout(60):
            while True:
                async with lab.http.get(lab.address + "healthz") as answer:
                    if answer.status == 503:
                        found = await answer.json()
                        break
                await asyncio.sleep(0.05)
    finally:
        folder.with_name("gone").rename(folder)
    assert found["status"] == "failing" and "store cannot be written" in found["problems"][0]


# ── versions that do not understand each other ────────────────────────────────────────────────────


@pytest.mark.parametrize(("protocol", "who"), [(PROTOCOL + 1, "server"), (0, "agent")])
async def test_another_protocol_is_refused_for_good_with_what_to_upgrade(
    lab: Lab, make_script: MakeScript, protocol: int, who: str
) -> None:
    register = msgspec.to_builtins(make_script(DEVICE).register)
    register |= {"protocol": protocol, "field_of_the_future": {"a": 1}}
    async with websockets.connect(lab.ws("ws/agent")) as connection:
        await connection.send(msgspec.json.encode(register).decode())
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == REFUSED
    assert f"upgrade d3bed on the {who}" in closed.value.rcvd.reason
    rows = await lab.until(bool, "api/audit")
    assert [(row["what"], row["detail"]) for row in rows] == [("refused", closed.value.rcvd.reason)]


def test_an_agent_of_before_there_was_a_number_speaks_the_first(make_script: MakeScript) -> None:
    register = make_script(DEVICE).register
    plain = msgspec.to_builtins(register)
    del plain["protocol"]
    text = msgspec.json.encode(plain)
    assert spoken(text) == 1
    assert isinstance(decode_from_agent(text), Register)
    assert spoken(encode(register)) == PROTOCOL
