"""Values that fit a type, more or less: what a broken or hostile peer might say.

Drawn from the types themselves, so that a new field is met without a word here. Most values fit, so that they
get past the door and into what handles them; some have a field too many, too few, or of another type.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["Nonsense"]

_NUMBERS = (0, 1, -1, 2, 3, 255, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63))
_REALS = (0.0, -0.0, 1.0, -1.0, 1e-9, 0.25, 1e308, -1e308, 5e-324, 1e18, 1754000000.0)
_WORDS = ("", "x", "\x00", "../../etc/passwd", "é" * 40, "device", "' OR 1=1 --", "{}", "a" * 3000, "0" * 64)
_DEPTH = 9


class Nonsense:
    """`known` are words that mean something to the receiver, such as names of agents, by the field or type
    that they are for; other strings are drawn from those and from trouble. `wrong`: how often a value has
    another type than it should."""

    def __init__(
        self, dice: random.Random, known: Mapping[str, Sequence[Any]] | None = None, wrong: float = 0.01
    ) -> None:
        self._dice, self._known, self._wrong = dice, dict(known or {}), wrong
        self._all = [word for words in self._known.values() for word in words if isinstance(word, str)]

    def of(self, kind: Any) -> Any:
        """Something like a `kind`, as JSON has it."""
        return self._value(inspect.type_info(kind), "", 0)

    def _value(self, info: inspect.Type, field: str, depth: int) -> Any:
        dice = self._dice
        if dice.random() < self._wrong:
            return dice.choice((None, True, 1, -1.5, "wrong", [], {}, [[]], {"x": 1}))
        if field in self._known and dice.random() < 0.9:
            return dice.choice(self._known[field])
        match info:
            case inspect.StructType():
                return self._struct(info, depth)
            case inspect.UnionType(types=types):
                scalar = [t for t in types if not isinstance(t, inspect.StructType)]
                return self._value(
                    dice.choice(scalar if depth > _DEPTH and scalar else types), field, depth + 1
                )
            case inspect.IntType():
                return dice.choice(_NUMBERS) if dice.random() < 0.1 else dice.randrange(8)
            case inspect.FloatType():
                return dice.choice(_REALS) if dice.random() < 0.1 else dice.random()
            case inspect.BoolType():
                return dice.random() < 0.5
            case inspect.NoneType():
                return None
            case inspect.StrType():
                return dice.choice((dice.choice(_WORDS), dice.choice(self._all or ["x"])))
            case inspect.EnumType(cls=cls):
                return dice.choice(list(cls)).value
            case inspect.LiteralType(values=values):
                return dice.choice(values)
            case inspect.DictType(key_type=key, value_type=value):
                return {
                    str(self._value(key, "", depth + 1)): self._value(value, "", depth + 1)
                    for _ in self._some()
                }
            case inspect.TupleType(item_types=items):
                return [self._value(item, "", depth + 1) for item in items]
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return [self._value(item, field, depth + 1) for _ in self._some() if depth < _DEPTH]
            case _:
                return dice.choice((None, 1, "x"))

    def _some(self) -> range:
        return range(self._dice.choice((0, 1, 1, 2, 3, 5)))

    def _struct(self, info: inspect.StructType, depth: int) -> Any:
        dice = self._dice
        if info.cls.__name__ in self._known and dice.random() < 0.9:
            return msgspec.to_builtins(dice.choice(self._known[info.cls.__name__]))
        made: dict[str, Any] = {}
        if info.tag_field is not None:
            made[info.tag_field] = info.tag
        for field in info.fields:
            if field.required or dice.random() < 0.7:
                made[field.encode_name] = self._value(field.type, field.encode_name, depth + 1)
        if made and dice.random() < self._wrong:
            made.pop(dice.choice(list(made)))
        if dice.random() < self._wrong:
            made["unheard_of"] = 1
        return list(made.values()) if info.array_like else made
