"""What a stream's rate is said to be."""

from __future__ import annotations

import pytest

from d3bed.bench.streams import answers_per_s


def test_the_rate_is_that_of_a_full_pipeline() -> None:
    started_s = [0.0, 0.0, 0.0, *(0.1 * n for n in range(4, 40))]
    answered_s = [0.4 + 0.1 * n for n in range(len(started_s))]
    series = {
        "started_s": started_s,
        "latency_s": [end - start for start, end in zip(started_s, answered_s, strict=True)],
    }
    assert answers_per_s(series) == pytest.approx(10.0), "neither filling it nor draining it counts"


def test_of_few_frames_all_count() -> None:
    assert answers_per_s({"started_s": [0.0, 0.1], "latency_s": [0.5, 0.6]}) == pytest.approx(5.0)
    assert answers_per_s({"started_s": [0.0], "latency_s": [0.5]}) == pytest.approx(2.0)
    assert answers_per_s({"started_s": [], "latency_s": []}) == 0.0
