"""Files of models go to boards by hash: in pieces, to those with the token; what is on its way is told."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from d3bed.core.ids import AgentId
from d3bed.core.messages import Fetching, LoadModel, ModelFile, ModelSpec
from d3bed.server.world import LOAD_S
from tests.server.conftest import MakeStage, Stage
from tests.server.lab import ALL, CLOUD, DEVICE, EDGE_1, EDGE_2, MakeSettings, StartLab

CONTENT = os.urandom(100_000)
FILE = ModelFile("trained.safetensors", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.mark.sockets
@pytest.mark.parametrize("whole", [False, True], ids=["weights", "network"])
async def test_a_models_file_of_the_server_is_there_for_agents_by_its_hash(
    start_lab: StartLab, make_settings: MakeSettings, tmp_path: Path, whole: bool
) -> None:
    path = tmp_path / "trained.safetensors"
    path.write_bytes(CONTENT)
    settings = make_settings(model=ModelSpec(str(path)) if whole else ModelSpec("alexnet", str(path)))
    settings = msgspec.structs.replace(settings, token="s3cret-s3cret-s3cret")
    lab = await start_lab(settings)
    scripts = await lab.join(*ALL, token=settings.token)
    await lab.running()
    orders = [order for order in scripts[0].heard if isinstance(order, LoadModel)]
    assert orders[0].model.files == (ModelFile(str(path), FILE.sha256, FILE.size),)

    there, bearer = f"{lab.address}api/files/{FILE.sha256}", {"Authorization": f"Bearer {settings.token}"}
    async with lab.http.get(there, headers=bearer) as answer:
        assert (answer.status, await answer.read()) == (200, CONTENT)
    async with lab.http.get(there, headers=bearer | {"Range": "bytes=99000-"}) as answer:
        assert (answer.status, await answer.read()) == (206, CONTENT[99_000:])
    for wanted, headers, status in (
        (there, {}, 401),
        (f"{lab.address}api/files/{'0' * 64}", bearer, 404),
        (f"{lab.address}api/files/..%2fd3bed.db", bearer, 404),
        (there, bearer | {"Range": "bytes=100000-"}, 416),
    ):
        async with lab.http.get(wanted, headers=headers) as answer:
            assert answer.status == status


def test_another_content_is_another_model() -> None:
    one = ModelSpec("alexnet", FILE.path, files=(FILE,))
    other = ModelSpec("alexnet", FILE.path, files=(ModelFile(FILE.path, "0" * 64, 1),))
    assert len({one.key, other.key, ModelSpec("alexnet", FILE.path).key}) == 3


def test_what_is_on_its_way_is_told_and_waited_for(make_stage: MakeStage) -> None:
    stage: Stage = make_stage()
    stage.join(DEVICE, silent=LoadModel)
    stage.join(*(agent for agent in ALL if agent != DEVICE))
    model = stage.coordinator.pipelines[stage.pipeline].settings.model
    for share in (0.25, 0.5, 0.75):
        stage.tick(LOAD_S / 2)
        stage.say(DEVICE, Fetching(model, round(share * 80e6), 80_000_000))
    phase, text = stage.coordinator.pipelines[stage.pipeline].phase
    assert (phase, text) == ("loading", f"{DEVICE} (60 of 80 MB) load {model.name}")
    stage.tick(LOAD_S + 1)  # nothing more is heard of it
    assert stage.coordinator.pipelines[stage.pipeline].phase[0] == "failed"


def test_who_has_the_files_nearby_is_asked_before_the_server(make_stage: MakeStage) -> None:
    stage: Stage = make_stage(model=ModelSpec("alexnet", FILE.path, files=(FILE,)))
    stage.join(EDGE_1, EDGE_2, DEVICE, CLOUD, silent=LoadModel)

    def told(agent: AgentId) -> list[AgentId]:
        return [peer.agent for peer in stage.heard(agent, LoadModel)[-1].peers]

    asked = [told(agent) for agent in (EDGE_1, EDGE_2)]
    assert sorted(map(len, asked)) == [0, 1]  # the second is sent to the first, which is getting them
    assert told(DEVICE) == told(CLOUD) == []  # alone in their tiers
