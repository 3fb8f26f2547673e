import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.report import verdict, wording
from compress.report.compression import Metric, read_report
from compress.report.folder import report_files, require_report_folder, write_report
from compress.report.model_card import NOT_STATED, render_card
from compress.report.page import render_html
from hlserve.errors import ConfigError, DataError
from tests.compress import report_samples as samples
from tests.report.test_page import EVIL, Page


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(samples.report())


def without_plots(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """The page as an install without matplotlib makes it."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "matplotlib", None)
        return render_html(report)


def optional_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of the report, however deep; of a list the first entry stands for all."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from optional_paths(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from optional_paths(value[0], (*path, 0))


def test_the_page_holds_every_section_in_order(html: str) -> None:
    wanted = ["verdict", "pareto", "comparison", "steps", "tried", "layers", "sensitivity"]
    wanted += ["calibration", "classes", "judged", "reproduce"]
    assert re.findall(r'<section id="(\w+)">', html) == wanted
    assert Page(html).tags["svg"] == 3 + 1 + 2 + 1 + 1


def test_the_page_needs_nothing_from_outside_and_runs_no_script(html: str) -> None:
    page = Page(html)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert all(url.startswith("#") for url in page.urls)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)


def test_the_same_report_gives_the_same_bytes(html: str) -> None:
    assert render_html(samples.report()) == html


def test_every_number_of_a_model_stands_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    report = samples.report()
    told = Page(without_plots(report, monkeypatch)).text
    for row in (report["original"], report["best"]):
        for key in ("parameters", "macs", "size_bytes", "packed_bytes", "memory_bytes"):
            assert f"{row[key]:,}" in told
        for latency in row["latency_s"].values():
            assert all(wording.duration(value) in told for value in latency.values())
        for gain in row["speed_up"].values():
            assert all(wording.ratio(value) in told for value in gain.values())
    for row in (report["original"], *report["tried"]):
        for value in (row["value"], row["int8_share"], *row["interval"]):
            assert f"{100 * value:.2f} %" in told
        for value in (row["drop"], row["drop_upper"]):
            assert wording.drop(value, Metric()) in told
        for step in row["steps"]:
            assert all(f"{step[k]:,}" in told for k in ("parameters", "macs", "size_bytes"))
        assert (row["refusal"] or "") in told
    facts = (*report["rows"].values(), report["comparisons"])
    assert all(f"{value:,}" in told for value in facts)
    wanted = ("4711", "4 min", "0.50 pp", "0.04 pp", "4.56 µs", "Imaginary Xeon 9000", "1.31.1")
    assert all(word in told for word in wanted if word != "4 min")
    assert all(f"{100 * report['test'][k]:.2f} %" in told for k in ("original", "best"))


def test_numbers_of_layers_and_classes_stand_in_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    report = samples.report()
    told = Page(without_plots(report, monkeypatch)).text
    for layer in report["layers"]:
        assert layer["why"] in told
        assert f"{layer['after']['parameters']:,}" in told
    for histogram in report["calibration"]:
        assert f"{sum(histogram['counts']):,}" in told
    for change in report["classes"]["changes"]:
        assert all(f"{100 * change[key]:.2f} %" in told for key in ("original", "best"))
        assert wording.p_value(change["p"]) in told
    for loss in (v for g in report["sensitivity"]["pruning"] for _, v in g["losses"]):
        assert f"{loss:.4g}" in told
    assert all(warning in told for warning in report["warnings"])


def test_without_matplotlib_there_are_tables_and_a_line_that_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    html = without_plots(samples.report(), monkeypatch)
    page = Page(html)
    assert page.tags["svg"] == 0
    assert page.tags["table"] >= 8
    assert 'pip install "hlserve[report]"' in page.text


def test_text_from_the_data_is_never_markup() -> None:
    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hostile(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [hostile(inner) for inner in value]
        return f"{EVIL}$x^{{|`\n# {value}" if isinstance(value, str) else value

    report = hostile(samples.report())
    html = render_html(report)
    assert Page(html).tags["script"] == 0
    card = render_card(report)
    assert "<script" not in card.replace("\\<script", "")
    assert all(line.startswith(("# ", "## ")) for line in card.splitlines() if line[:1] == "#")


def test_every_key_but_the_name_may_be_missing_or_null(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = samples.report(n_candidates=2, n_layers=1)
    required = {"name", "technique", "group", "layer", "label", "rows", "original"}
    for path in optional_paths(whole):
        if path[-1] in required and path != ("rows",) and path[:1] != ("test",):
            continue
        if path[0] in ("speed_up",):
            continue
        for is_null in (False, True):
            report = copy.deepcopy(whole)
            inner = report
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = None
            if not is_null:
                del inner[path[-1]]
            if path[:2] == ("classes", "changes") and path[-1] in ("best",):
                continue
            Page(without_plots(report, monkeypatch))
            assert render_card(report).startswith("# ")


@pytest.mark.parametrize(
    "report",
    [
        samples.bare(),
        samples.kept(),
        samples.report(60, 100, 40, is_proven=False),
        samples.report(2, 1, 1),
        {**samples.report(3), "metric": {"name": "mse", "is_share": False}, "max_drop": None},
        {**samples.report(3), "max_drop": 0.0, "sensitivity": {"pruning": [{"group": "a"}]}},
        {**samples.report(3), "calibration": [{"name": "empty"}, {"name": "one", "counts": [3]}]},
        {**samples.report(3), "best": {"name": "nothing measured"}},
    ],
    ids=["bare", "kept", "many", "one class", "mse", "no drop", "no histogram", "unmeasured"],
)
def test_odd_reports_give_a_whole_page_and_card(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    assert "nan" not in page.text.lower().split()
    assert render_card(report).endswith("\n")
    assert verdict.short_form(read_report(report))


def test_the_verdict_says_what_is_proven_and_what_is_not() -> None:
    def told(report: dict[str, Any]) -> str:
        return "\n".join(verdict.short_form(read_report(report)))

    assert "falls by 0.08 pp" in told(samples.report())
    assert "(allowed: 0.50 pp, proven)" in told(samples.report())
    assert "estimated, not proven" in told(samples.report(is_proven=False))
    assert "None of 12 candidates passed; nearest: prune" in told(samples.kept())
    slower = samples.report()
    slower["best"]["speed_up"]["1"] |= {"ratio": 0.8, "lower": 0.625}
    assert f"; at most {wording.ratio(1.6)} slower)" in told(slower)
    assert f"{wording.ratio(1.25)} slower (batch 1)" in told(slower)
    assert f"{wording.ratio(1.25)} slower, batch 1" in told(slower)
    error = samples.report() | {
        "metric": {"name": "mse", "is_share": False, "higher_is_better": False}
    }
    assert "mse rises by" in told(error)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2.0, f"{wording.ratio(2)} faster"),
        (0.5, f"{wording.ratio(2)} slower"),
        (0.0, ""),
        (None, ""),
    ],
)
def test_a_gain_below_one_is_said_as_the_loss_that_it_is(value: float | None, told: str) -> None:
    assert wording.gain(value, "faster", "slower") == told


def test_paper_is_white_whatever_the_screen_is(html: str) -> None:
    dark = [m.start() for m in re.finditer(r"prefers-color-scheme: dark", html)]
    assert dark
    assert all(html[:at].endswith("@media screen and (") for at in dark)
    assert "@media print" in html


def test_the_card_says_how_much_runs_in_integers() -> None:
    assert "| MACs that run in int8 | 0.00 % | 98.70 % |" in render_card(samples.report())


def test_the_card_knows_licences_of_embedded_sets_and_guesses_no_other() -> None:
    assert "licence: MIT" in render_card(samples.report())
    assert f"licence: {NOT_STATED}" in render_card(samples.report() | {"data": "mnist"})
    told = samples.report() | {"data": "own.npz", "licence": "CC0-1.0"}
    assert "licence: CC0-1.0" in render_card(told)


def test_values_of_the_wrong_kind_are_refused_with_their_place() -> None:
    with pytest.raises(DataError, match=r"expected.*int.*\$\.original\.parameters|Expected `int"):
        render_html({"original": {"name": "original", "parameters": "many"}})


def test_the_folder_holds_page_numbers_and_card_and_is_replaced_whole(tmp_path: Path) -> None:
    report = samples.report() | {"own": np.float32(0.5), "bad": float("nan")}
    assert write_report(report_files(samples.bare()), tmp_path / "out").exists()
    page = write_report(report_files(report), tmp_path / "out")
    names = sorted(p.name for p in page.parent.iterdir())
    assert names == ["MODEL_CARD.md", "report.html", "report.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    read = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert read["own"] == 0.5
    assert read["bad"] is None
    assert read["classes"] == report["classes"]
    assert {n: (page.parent / n).read_bytes() for n in names} == report_files(report)


def test_a_folder_with_other_files_is_refused_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(ConfigError, match=r"holds other files \(thesis.doc\)"):
        require_report_folder(tmp_path)
