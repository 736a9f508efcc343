"""The examples that Python and JavaScript share are what the server tells."""

from __future__ import annotations

import msgspec

from d3bed.server import feed
from tests import examples


async def test_file_is_what_the_feed_makes_of_the_types() -> None:
    """Where a view changed: `python -m tests.examples`, and see what the page makes of it."""
    assert msgspec.json.decode(examples.FILE.read_bytes()) == await examples.messages()


def test_every_kind_of_event_that_the_feed_documents_is_an_example() -> None:
    kinds = {kind for kind, _ in examples.events()}
    documented = feed.__doc__.partition("by `kind`:")[2].partition("\n\n")[0] if feed.__doc__ else ""
    assert kinds == {
        line.split()[0] for line in documented.splitlines() if line.startswith("    ") and line[4] != " "
    }
