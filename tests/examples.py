"""Example messages of the feed, made of the server's own types: `python -m tests.examples` writes the file.

`feed_examples.json` is what Python and JavaScript share: `tests/server/test_feed_examples.py` holds it to the
types, `tests/browser/test_modules.py` has the page's reducer read it. Every field of every type is in it.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from d3bed.server.feed import Feed
from d3bed.server.seconds import SecondView
from d3bed.server.views import (
    AgentView,
    ConditionView,
    DecisionView,
    EpochView,
    FrameView,
    LinkView,
    NoteView,
    OrderView,
    SceneView,
    StateView,
)

FILE = Path(__file__).with_name("feed_examples.json")


def example(kind: Any, name: str, n: int) -> Any:
    """A value of this type, all fields filled, told apart by `n`."""
    return msgspec.convert(_of(msgspec.inspect.type_info(kind), name, n), kind)


def _of(kind: msgspec.inspect.Type, name: str, n: int) -> Any:
    match kind:
        case msgspec.inspect.StructType():
            return {field.encode_name: _of(field.type, field.encode_name, n) for field in kind.fields}
        case msgspec.inspect.UnionType():
            return _of(next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType)), name, n)
        case msgspec.inspect.VarTupleType() | msgspec.inspect.ListType():
            return [_of(kind.item_type, name, n)]
        case msgspec.inspect.TupleType():
            return [_of(item, name, n) for item in kind.item_types]
        case msgspec.inspect.DictType():
            return {_of(kind.key_type, name, n): _of(kind.value_type, name, n)}
        case msgspec.inspect.EnumType():
            members: list[Enum] = list(kind.cls)
            return members[n % len(members)].value
        case msgspec.inspect.LiteralType():
            return kind.values[n % len(kind.values)]
        case msgspec.inspect.StrType():
            return f"{name}-{n}"
        case msgspec.inspect.BoolType():
            return n % 2 == 0
        case msgspec.inspect.IntType():
            return n
        case msgspec.inspect.FloatType():
            return n + 0.5
        case msgspec.inspect.AnyType():
            return None
    raise TypeError(f"{name}: no example of {kind}")


def before() -> StateView:
    """One of everything."""
    return example(StateView, "state", 1)  # type: ignore[no-any-return]


def events() -> list[tuple[str, object]]:
    """One of every kind; what is known already is told anew with other values."""
    state = before()
    agent = msgspec.structs.replace(example(AgentView, "agent", 2), agent=state.agents[0].agent)
    link, pipeline, epoch = state.links[0], state.pipelines[0], state.epochs[0]
    return [
        ("agent", agent),
        ("agent", example(AgentView, "agent", 3)),
        (
            "link",
            msgspec.structs.replace(example(LinkView, "link", 2), source=link.source, target=link.target),
        ),
        ("pipeline", {"id": pipeline.id, "phase": "running", "epoch": 7}),
        (
            "epoch",
            msgspec.structs.replace(
                example(EpochView, "epoch", 2), pipeline=epoch.pipeline, epoch=epoch.epoch
            ),
        ),
        (
            "order",
            msgspec.structs.replace(example(OrderView, "order", 2), id=state.orders[0].id),
        ),
        ("decision", example(DecisionView, "decision", 2)),
        ("scene", example(SceneView, "scene", 2)),
        ("conditions", [example(ConditionView, "condition", 2)]),
        ("unstored", "unstored-2"),
        ("frame", example(FrameView, "frame", 2)),
        ("note", example(NoteView, "note", 2)),
        ("second", example(SecondView, "second", 2)),
    ]


def after() -> StateView:
    """What the events make of it, by the rules in `d3bed/server/feed.py`."""
    state, told = before(), events()
    one = dict(told)
    agents = tuple(value for kind, value in told if kind == "agent")
    pipeline = msgspec.structs.replace(state.pipelines[0], phase="running", epoch=7)
    return msgspec.convert(
        msgspec.to_builtins(state)
        | {
            "agents": msgspec.to_builtins(agents),
            "links": msgspec.to_builtins([one["link"]]),
            "pipelines": msgspec.to_builtins([pipeline]),
            "epochs": msgspec.to_builtins([one["epoch"]]),
            "orders": msgspec.to_builtins([one["order"]]),
            "decisions": msgspec.to_builtins([*state.decisions, one["decision"]]),
            "frames": msgspec.to_builtins([*state.frames, one["frame"]]),
            "notes": msgspec.to_builtins([*state.notes, one["note"]]),
            "scene": msgspec.to_builtins(one["scene"]),
            "conditions": msgspec.to_builtins(one["conditions"]),
            "unstored": one["unstored"],
        },
        StateView,
    )


async def messages() -> list[dict[str, Any]]:
    """What the feed tells: a snapshot, then a batch of all kinds of events."""
    feed = Feed(before, lambda: 1.0)
    told = feed.subscribe(None)
    for kind, data in events():
        feed.publish(kind, data)
    feed.flush()
    return [msgspec.json.decode(await told.next()) for _ in range(2)]


if __name__ == "__main__":
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(asyncio.run(messages())), indent=1) + b"\n")
