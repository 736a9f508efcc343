"""TOML in, settings out: the only place (beside the CLI) that reads configuration files.

Every mistake is one `ConfigError` line that names file, key and remedy. Files are decoded into frozen
structs that forbid unknown keys; what needs knowledge of other keys is checked after that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tomllib
import typing
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from d3bed.agent.identity import find_identity
from d3bed.agent.settings import AgentSettings
from d3bed.core.errors import ConfigError, near
from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.core.joining import AGENT_NAME
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import ModelSpec
from d3bed.core.models import ENGINES, TORCH, ZOO
from d3bed.plan import STRATEGIES, Pin
from d3bed.server.schema import Retention
from d3bed.server.settings import TILINGS, PipelineSettings

__all__ = [
    "AgentConfig",
    "Config",
    "DEFAULT_SERVER",
    "agent_settings",
    "data_dir",
    "decoded",
    "input_size",
    "networks",
    "override",
    "read_config",
    "read_network",
    "read_toml",
]


#: Where a server listens unless it is told otherwise.
DEFAULT_SERVER = "http://127.0.0.1:8333"


def data_dir(name: str) -> Path:
    """`web` or `configs`: inside the installed package, else beside it in the checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "_data" / name
    return installed if installed.is_dir() else here.parent / name


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[agents]]`: one agent process."""

    name: AgentId
    tier: Tier
    speed: float = 1.0
    host: str = "127.0.0.1"
    port: int = 0
    address: str | None = None
    photos: str | None = None
    engine: str = TORCH
    models_mb: float = 4000.0
    weights_mb: float | None = None


class _PinConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    vertices: str
    tiers: list[Tier]


class _PipelineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: AgentId
    edges: list[AgentId] = []
    cloud: AgentId | None = None
    model: str = "alexnet"
    weights: str = "random:0"
    input: str | None = None
    encoded_kb: int = 0
    floats: bool = False
    strategy: str = "optimal"
    network: str | None = None
    threads: int = 1
    in_flight: int | None = None
    rate_per_s: float | None = None
    frames: int | None = None
    autostart: bool = True
    adapt: bool = True
    tiling: str = "vsm"
    tolerance: float = 0.0
    pins: dict[str, list[_PinConfig]] = {}


class _ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8333
    keep_days: float = 30.0
    keep_mb: float = 512.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    server: _ServerConfig = _ServerConfig()
    agents: list[AgentConfig] = []
    pipelines: dict[PipelineId, _PipelineConfig] = {}


class _LinkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mbit_per_s: float
    latency_ms: float = 0.0


class _NetworkFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str
    links: dict[str, _LinkConfig]


class Config(msgspec.Struct, frozen=True):
    """A checked configuration file."""

    path: str
    host: str
    port: int
    agents: tuple[AgentConfig, ...]
    pipelines: tuple[PipelineSettings, ...]
    retention: Retention = Retention()

    def agent(self, name: str) -> AgentConfig:
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise ConfigError(
            self.path, "agents", f"no agent named {name!r}", near(name, [a.name for a in self.agents])
        )


#: Edge agents that `--edges` may start: each is a process with a model of its own.
MOST_EDGES = 16
MOST_PER_S = 1000.0

#: Tiles that are farther off than this are wrong, not rounded.
MOST_TOLERANCE = 1e-3

#: Files of 4 MiB at most may be frames.
MOST_ENCODED_KB = 4194

_PAIRS = (
    *("device-edge", "edge-cloud", "device-cloud", "edge-device", "cloud-edge", "cloud-device"),
    "edge-edge",
)


def read_config(path: Path) -> Config:
    """Read and check a whole file. Raises `ConfigError`."""
    where = str(path)
    file = _decode(path, _File)
    if not 0 <= file.server.port <= 65535:
        raise ConfigError(where, "server.port", f"{file.server.port} is not a port", "use 0 to 65535")
    for key, value in (("keep_days", file.server.keep_days), ("keep_mb", file.server.keep_mb)):
        if not 0 < value < float("inf"):
            raise ConfigError(where, f"server.{key}", f"{value} is out of range", "use more than 0")
    seen: set[str] = set()
    for number, agent in enumerate(file.agents):
        key = f"agents[{number}]"
        if agent.name in seen:
            raise ConfigError(where, f"{key}.name", f"two agents are named {agent.name!r}", "rename one")
        seen.add(agent.name)
        if not AGENT_NAME.fullmatch(agent.name):
            raise ConfigError(
                where, f"{key}.name", f"{agent.name!r} is not a name", "use letters, digits, - and _"
            )
        if agent.address is not None and not re.fullmatch(r"\S+:\d{1,5}", agent.address):
            problem = f"{agent.address!r} is no address"
            raise ConfigError(where, f"{key}.address", problem, "write it as 203.0.113.5:4750")
        if not 0 < agent.speed <= 1:
            raise ConfigError(
                where, f"{key}.speed", f"{agent.speed} is out of range", "use more than 0, at most 1"
            )
        check_engine(agent.engine, where, f"{key}.engine")
        for name, mb in (("models_mb", agent.models_mb), ("weights_mb", agent.weights_mb)):
            if mb is not None and not 0 <= mb < float("inf"):
                raise ConfigError(where, f"{key}.{name}", f"{mb} is out of range", "use 0 or more")
    tiers = {agent.name: agent.tier for agent in file.agents}
    pipelines = tuple(_pipeline(where, name, p, tiers) for name, p in file.pipelines.items())
    retention = Retention(file.server.keep_days, round(file.server.keep_mb * 1e6))
    return Config(where, file.server.host, file.server.port, tuple(file.agents), pipelines, retention)


def _pipeline(
    where: str, name: PipelineId, pipeline: _PipelineConfig, tiers: dict[AgentId, Tier]
) -> PipelineSettings:
    key = f"pipelines.{name}"
    wanted = [(pipeline.device, Tier.DEVICE, "device"), *((e, Tier.EDGE, "edges") for e in pipeline.edges)]
    if pipeline.cloud is not None:
        wanted.append((pipeline.cloud, Tier.CLOUD, "cloud"))
    for agent, tier, field in wanted:
        if agent not in tiers:
            raise ConfigError(where, f"{key}.{field}", f"no agent named {agent!r}", near(agent, list(tiers)))
        if tiers[agent] is not tier:
            raise ConfigError(
                where, f"{key}.{field}", f"agent {agent!r} is on tier {tiers[agent]}", f"need {tier}"
            )
    for field, value in (("threads", pipeline.threads), ("in_flight", pipeline.in_flight)):
        if value is not None and not 1 <= value <= 64:
            raise ConfigError(where, f"{key}.{field}", f"{value} is out of range", "use 1 to 64")
    check_rate(pipeline.rate_per_s, where, f"{key}.rate_per_s")
    if pipeline.frames is not None and pipeline.frames < 1:
        raise ConfigError(where, f"{key}.frames", f"{pipeline.frames} is out of range", "use 1 or more")
    if pipeline.floats and pipeline.encoded_kb:
        problem = "image files have no float32 pixels"
        raise ConfigError(where, f"{key}.floats", problem, "leave it or encoded_kb out")
    check_model(pipeline.model, where, f"{key}.model")
    check_weights(pipeline.weights, where, f"{key}.weights")
    check_strategy(pipeline.strategy, where, f"{key}.strategy")
    pins = tuple(
        (model, tuple(Pin(p.vertices, tuple(p.tiers)) for p in listed))
        for model, listed in pipeline.pins.items()
    )
    return PipelineSettings(
        id=name,
        device=pipeline.device,
        edges=tuple(pipeline.edges),
        cloud=pipeline.cloud,
        model=ModelSpec(
            pipeline.model,
            pipeline.weights,
            input_size(pipeline.input, where, f"{key}.input"),
            encoded_bytes(pipeline.encoded_kb, where, f"{key}.encoded_kb"),
            pipeline.floats,
        ),
        strategy=pipeline.strategy,
        network=pipeline.network or "unshaped",
        shapes=read_network(pipeline.network, where, f"{key}.network") if pipeline.network else {},
        pins=dict(pins),
        threads=pipeline.threads,
        in_flight=pipeline.in_flight,
        rate_per_s=pipeline.rate_per_s,
        frames=pipeline.frames,
        autostart=pipeline.autostart,
        adapt=pipeline.adapt,
        tiling=check_tiling(pipeline.tiling, where, f"{key}.tiling"),
        tolerance=check_tolerance(pipeline.tolerance, where, f"{key}.tolerance"),
    )


def agent_settings(
    *,
    name: str | None,
    server: str | None,
    config: Path | None,
    identity: Path,
    tier: str | None,
    host: str | None,
    port: int | None,
    speed: float | None,
    photos: Path | None,
    token: str | None,
    cache_dir: Path,
    shaped: bool = False,
    tc: bool = False,
    cpus: float | None = None,
    engine: str | None = None,
) -> AgentSettings:
    """An agent from its command line, with what is missing there from a config file, or from the identity of
    a board that joined. That counts only for its own server and name, and where no token is given."""
    joined = find_identity(identity) if token is None else None
    if joined is not None and server is not None and server.rstrip("/") != joined.server:
        joined = None
    if name is None and joined is None:
        raise ConfigError("--name", "", "is needed", "give it, or join first: d3bed join SERVER --token …")
    if joined is not None and name not in (None, joined.agent):
        joined = None  # another agent of this machine
    name = name or str(joined and joined.agent)
    base = AgentConfig(AgentId(name), joined.tier if joined is not None else Tier.DEVICE)
    server = server or (joined.server if joined is not None else DEFAULT_SERVER)
    if config is not None:
        file = read_config(config)
        base, shaped = file.agent(name), shaped or any(pipeline.shapes for pipeline in file.pipelines)
        if base.photos is not None and photos is None:
            photos = config.parent / base.photos
    elif tier is None and joined is None:
        raise ConfigError("--tier", "", "is needed without --config", "use device, edge or cloud")
    if tier is not None and tier not in set(Tier):
        raise ConfigError("--tier", "", f"no tier named {tier!r}", "use device, edge or cloud")
    if speed is not None and not 0 < speed <= 1:
        raise ConfigError("--speed", "", f"{speed} is out of range", "use more than 0, at most 1")
    if engine is not None:
        check_engine(engine, "--engine", "")
    if not re.match(r"https?://", server):
        raise ConfigError("--server", "", f"{server!r} is not an address", "write it as http://host:port")
    return AgentSettings(
        agent=base.name,
        tier=base.tier if tier is None else Tier(tier),
        server=server,
        listen_host=base.host if host is None else host,
        listen_port=base.port if port is None else port,
        speed=base.speed if speed is None else speed,
        token=joined.credential if joined is not None else token,
        photos=photos,
        cache_dir=cache_dir,
        shaped=shaped,
        tc=tc,
        cpus=cpus,
        address=base.address,
        identity=identity if joined is not None else None,
        engine=base.engine if engine is None else engine,
        models_bytes=round(base.models_mb * 1e6),
        weights_bytes=None if base.weights_mb is None else round(base.weights_mb * 1e6),
        authority=joined.authority if joined is not None else "",
    )


def override(
    config: Config,
    *,
    model: str | None = None,
    weights: str | None = None,
    input: str | None = None,
    encoded_kb: int | None = None,
    network: str | None = None,
    strategy: str | None = None,
    tiling: str | None = None,
    tolerance: float | None = None,
    edges: int | None = None,
    frames: int | None = None,
    rate_per_s: float | None = None,
    port: int | None = None,
    host: str | None = None,
    idle: bool = False,
    fixed: bool = False,
    engine: str | None = None,
) -> Config:
    """The same configuration with what the command line says instead, in every pipeline.

    `edges` equal agents, edge-1 and so on, take the place of the edge agents and share their speed.
    """
    if edges is not None:
        config = _with_edges(config, edges)
    if engine is not None:
        check_engine(engine, "--engine", "")
        agents = tuple(msgspec.structs.replace(agent, engine=engine) for agent in config.agents)
        config = msgspec.structs.replace(config, agents=agents)
    if model is not None:
        check_model(model, "--model", "")
    if weights is not None:
        check_weights(weights, "--weights", "")
    if strategy is not None:
        check_strategy(strategy, "--strategy", "")
    if tiling is not None:
        check_tiling(tiling, "--tiling", "")
    if tolerance is not None:
        check_tolerance(tolerance, "--tolerance", "")
    if frames is not None and frames < 1:
        raise ConfigError("--frames", "", f"{frames} is out of range", "use 1 or more")
    check_rate(rate_per_s, "--rate", "")
    shapes = None if network is None else read_network(network, "--network", "")
    size = input_size(input, "--input", "")
    pipelines = []
    for pipeline in config.pipelines:
        spec = pipeline.model
        if model is not None:
            spec = msgspec.structs.replace(spec, name=model, input=size)
        if encoded_kb is not None:
            spec = msgspec.structs.replace(spec, encoded=encoded_bytes(encoded_kb, "--encoded", ""))
        spec = msgspec.structs.replace(spec, weights=weights or spec.weights, input=size or spec.input)
        changes: dict[str, object] = {"model": spec}
        if shapes is not None:
            changes |= {"network": network, "shapes": shapes}
        if strategy is not None:
            changes["strategy"] = strategy
        if tiling is not None:
            changes["tiling"] = tiling
        if tolerance is not None:
            changes["tolerance"] = tolerance
        if frames is not None:
            changes["frames"] = frames
        if rate_per_s is not None:
            changes["rate_per_s"] = rate_per_s
        if idle:
            changes["autostart"] = False
        if fixed:
            changes["adapt"] = False
        pipelines.append(msgspec.structs.replace(pipeline, **changes))
    return msgspec.structs.replace(
        config,
        pipelines=tuple(pipelines),
        port=config.port if port is None else port,
        host=config.host if host is None else host,
    )


def check_rate(rate_per_s: float | None, where: str, key: str) -> None:
    """Raise `ConfigError` for a frame rate that no camera has."""
    if rate_per_s is not None and not 0 < rate_per_s <= MOST_PER_S:
        problem = f"{rate_per_s} is out of range"
        raise ConfigError(where, key, problem, f"use frames a second, at most {MOST_PER_S:g}")


def _with_edges(config: Config, count: int) -> Config:
    if not 1 <= count <= MOST_EDGES:
        raise ConfigError("--edges", "", f"{count} is out of range", f"use 1 to {MOST_EDGES}")
    old = [agent for agent in config.agents if agent.tier is Tier.EDGE]
    speed = sum(agent.speed for agent in old) / count
    if not old or speed > 1:
        raise ConfigError(
            "--edges", "", "there is no edge agent's speed to share out", "use another --config"
        )
    names = [AgentId(f"edge-{number}") for number in range(1, count + 1)]
    kept = [agent for agent in config.agents if agent.tier is not Tier.EDGE]
    if taken := [agent.name for agent in kept if agent.name in names]:
        raise ConfigError("--edges", "", f"another agent is named {taken[0]}", "use another --config")
    agents = (*kept, *(AgentConfig(name, Tier.EDGE, speed) for name in names))
    pipelines = tuple(msgspec.structs.replace(p, edges=tuple(names)) for p in config.pipelines)
    return msgspec.structs.replace(config, agents=agents, pipelines=pipelines)


# ── networks, strategies, sizes ───────────────────────────────────────────────────────────────────


def networks() -> dict[str, str]:
    """Preset name → its one-line description."""
    folder = data_dir("configs") / "networks"
    return {path.stem: _decode(path, _NetworkFile).description for path in sorted(folder.glob("*.toml"))}


def read_network(name: str, where: str, key: str) -> dict[str, LinkShape]:
    """A preset by name, or a file by path, as shapes per directed tier pair.

    A direction that the file leaves out is like its opposite. Raises `ConfigError`.
    """
    path = Path(name) if name.endswith(".toml") else data_dir("configs") / "networks" / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(where, key, f"no network preset named {name!r}", near(name, list(networks())))
    shapes: dict[str, LinkShape] = {}
    for pair, link in _decode(path, _NetworkFile).links.items():
        place = f"links.{pair}"
        if pair not in _PAIRS:
            raise ConfigError(str(path), place, "not a pair of tiers", near(pair, list(_PAIRS)))
        if not 0.01 <= link.mbit_per_s <= 100_000:
            raise ConfigError(
                str(path), f"{place}.mbit_per_s", f"{link.mbit_per_s} is out of range", "use 0.01 to 100000"
            )
        if not 0 <= link.latency_ms <= 10_000:
            raise ConfigError(
                str(path), f"{place}.latency_ms", f"{link.latency_ms} is out of range", "use 0 to 10000"
            )
        shapes[pair] = LinkShape(link.mbit_per_s * 1e6 / 8, link.latency_ms / 1e3)
    for pair, shape in list(shapes.items()):
        here, _, there = pair.partition("-")
        shapes.setdefault(f"{there}-{here}", shape)
    return shapes


def check_model(name: str, where: str, key: str) -> None:
    """Whether a model of this name can exist; that it loads is for the agents to find out."""
    if name.endswith(".pt2"):
        if not zipfile.is_zipfile(name):
            problem = "no such file" if not Path(name).exists() else "not an archive of torch.export.save"
            raise ConfigError(where, key, f"{name}: {problem}", "give a file that torch.export.save wrote")
    elif name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise ConfigError(where, key, f"{name}: no such file", "write it with d3bed export")
    elif ":" in name:
        module = name.partition(":")[0]
        with contextlib.suppress(ImportError, ValueError):
            if _spec_here(module) is not None:
                return
        raise ConfigError(where, key, f"{name}: no module named {module}", "run where it can be imported")
    elif name not in ZOO:
        remedy = f"{near(name, list(ZOO))}; or package.module:factory, a .pt2 file, or one of d3bed export"
        raise ConfigError(where, key, f"no model named {name!r}", remedy)


def check_weights(weights: str, where: str, key: str) -> None:
    if weights.endswith(".safetensors"):
        if not Path(weights).is_file():
            raise ConfigError(where, key, f"{weights}: no such file", "give the path of a .safetensors file")
    elif weights != "pretrained" and not re.fullmatch(r"random:\d+", weights):
        remedy = "use random:SEED (a whole number), pretrained, or a .safetensors file"
        raise ConfigError(where, key, f"{weights!r} is not understood", remedy)


def _spec_here(module: str) -> object:
    """Find a module the way an agent started in this folder will."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.util.find_spec(module)
    finally:
        sys.path[:] = before


def check_strategy(name: str, where: str, key: str) -> None:
    if name not in STRATEGIES:
        raise ConfigError(where, key, f"no strategy named {name!r}", near(name, list(STRATEGIES)))


def check_engine(name: str, where: str, key: str) -> None:
    if name not in ENGINES:
        raise ConfigError(where, key, f"no engine named {name!r}", near(name, list(ENGINES)))


def check_tiling(name: str, where: str, key: str) -> str:
    if name not in TILINGS:
        raise ConfigError(where, key, f"no way of tiling named {name!r}", near(name, list(TILINGS)))
    return name


def check_tolerance(tolerance: float, where: str, key: str) -> float:
    if not 0 <= tolerance <= MOST_TOLERANCE:
        raise ConfigError(
            where, key, f"{tolerance} is out of range", f"use 0 (bit-identical) to {MOST_TOLERANCE:g}"
        )
    return tolerance


def input_size(text: str | None, where: str, key: str) -> tuple[int, int, int] | None:
    """`3x224x224` → (3, 224, 224): channels, height, width."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})x(\d{1,5})", text)
    if match is None or 0 in (size := tuple(int(part) for part in match.groups())):
        raise ConfigError(
            where, key, f"{text!r} is not an input size", "write channels x height x width, as 3x224x224"
        )
    return (size[0], size[1], size[2])


def encoded_bytes(kb: int, where: str, key: str) -> int:
    """What a usual image file has, 0 where frames are pixels; at most what `model.images` lets pass."""
    if not 0 <= kb <= MOST_ENCODED_KB:
        remedy = f"use the kB of a usual image file, 1 to {MOST_ENCODED_KB}; 0 for pixels"
        raise ConfigError(where, key, f"{kb} is out of range", remedy)
    return 1000 * kb


# ── decoding ──────────────────────────────────────────────────────────────────────────────────────

_T = TypeVar("_T")


def _decode(path: Path, kind: type[_T]) -> _T:
    return decoded(read_toml(path)[1], kind, str(path))


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """A file's text, and what it says. Raises `ConfigError` if it cannot be read, or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(str(path), "", "no such file", "give the path of a TOML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(path), "", f"cannot be read: {error}", "check the path and its rights"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), "", f"not valid TOML: {error}", "mend the line named") from error


def decoded(raw: object, kind: type[_T], where: str, within: str = "") -> _T:
    """A part of a file, found at the key `within`, as a `kind`. Raises `ConfigError`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
    key = place.strip("`").removeprefix("$").removeprefix(".").replace("[...]", "[]")
    unknown = re.match(r"Object contains unknown field `(.+)`", problem)
    missing = re.match(r"Object missing required field `(.+)`", problem)
    field = next((found[1] for found in (unknown, missing) if found), "")
    key = ".".join(part for part in (within, key, field) if part)
    if unknown:
        raise ConfigError(where, key, "no such key", near(field, sorted(_field_names(kind))))
    if missing:
        raise ConfigError(where, key, "is missing", "add it; docs/operations.md has the keys")
    raise ConfigError(where, key, problem, "see docs/operations.md for the keys and their types")


def _field_names(kind: object) -> set[str]:
    """All keys of a struct and of the structs in its fields."""
    names: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            names |= {field.encode_name} | _field_names(field.type)
    for argument in typing.get_args(kind):
        names |= _field_names(argument)
    return names
