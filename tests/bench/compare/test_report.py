"""The files that a comparison leaves."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from d3bed.bench.compare import report
from d3bed.bench.compare.readme import BEGIN, END, put_into
from d3bed.bench.compare.show import summary
from d3bed.core.errors import ConfigError
from tests.bench.compare.made import results


@pytest.mark.parametrize("measured", [True, False])
def test_all_files_are_written_and_read_again(tmp_path: Path, measured: bool) -> None:
    made = results(measured=measured)
    report.write(tmp_path, made)
    assert {path.name for path in tmp_path.iterdir()} == {*report.FILES, "plots"}
    drawn = {path.stem: ElementTree.parse(path).getroot() for path in (tmp_path / "plots").iterdir()}
    assert {"speed_ups", "stacks", "backbone", "regret", "sustained"} <= drawn.keys()
    assert ("predictions" in drawn) is measured
    assert all(root.tag == "{http://www.w3.org/2000/svg}svg" for root in drawn.values())
    assert report.read(tmp_path) == made
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(lines) == len(made.rows) == 18
    tiles = next(line for line in lines if line["way"] == "optimal+vsm" and line["network"] == "wifi")
    assert (float(tiles["predicted_s"]), tiles["median_s"]) == (0.4, "0.4" if measured else "")
    table = (tmp_path / "table.md").read_text()
    assert "| latency of one frame | optimal+vsm | better rival | 2 | 2.00 (alexnet wifi) | 1.41 |" in table
    assert "alexnet over optical (1.00×): all of it on the cloud" in table
    assert ("nothing ran" in table) is not measured
    assert ("18 of 18" not in table) and (("36 of 36 measurements" in table) is measured)


def test_the_page_carries_all_of_itself() -> None:
    page = report.as_html(results())
    assert not re.search(r'(src|href)="', page) and "<script" not in page
    assert page.count('<svg class="plot"') == 6
    assert "&lt;made&gt;" in page and "<made>" not in page
    assert "1 cells" not in page and "Not complete" not in page
    half = msgspec.structs.replace(results(), complete=False, rows=results().rows[:9])
    assert "1 of 2 cells" in report.as_html(half)


def test_a_grid_of_streams_alone_has_a_page_too() -> None:
    rows = tuple(msgspec.structs.replace(row, single=None) for row in results().rows)
    page = report.as_html(msgspec.structs.replace(results(), rows=rows))
    assert page.count('<svg class="plot"') == 1


def test_the_summary_names_what_was_not_reached(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=200).print(summary(results()))
    shown = capsys.readouterr().out
    assert "✗ one frame, optimal+vsm, over the better rival with our input, 4 edges: best case: 2.00" in shown
    assert "not faster than the better rival in 1 of 2 cells" in shown


def test_a_readme_gets_table_and_plots_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    (tmp_path / "docs").mkdir()
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(readme, results(), results(edges=8))
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"\n{END}\nafter\n") and "old" not in text
    assert "| alexnet | 2.00 | 1.00 |" in text and "On 8 edge boxes (`d3bed compare`" in text
    assert "2.00 at best, 1.41 on geometric average, 1.00 at least" in text
    # 1.5 MB of DADS, and 1.1 of ours: 600 + 900 bytes over 200 + 900.
    assert "1.36 times fewer than DADS" in text and "without tiles 2.00 at best" in text
    for shown in re.findall(r"!\[.*\]\((.*)\)", text):
        assert ElementTree.parse(tmp_path / shown).getroot().tag.endswith("svg")
    put_into(readme, results(measured=False))
    assert "On 8 edge boxes" not in readme.read_text() and "**predicted**" in readme.read_text()
    readme.write_text("no marks")
    with pytest.raises(ConfigError, match="no place"):
        put_into(readme, results())


def test_foreign_results_are_refused(tmp_path: Path) -> None:
    assert report.read(tmp_path) is None
    (tmp_path / "results.json").write_text('{"format": 1}')
    with pytest.raises(ConfigError, match="choose another --out"):
        report.read(tmp_path)
