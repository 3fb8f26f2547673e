import base64
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from PIL import Image

from hlserve.errors import MissingDependencyError
from hlserve.report.drawing import require_matplotlib
from hlserve.report.learning import (
    Baseline,
    Calibration,
    CurvePoint,
    Example,
    Interval,
    LearningCurve,
    LearningReport,
    Picture,
    Regression,
    WorstExamples,
)
from hlserve.report.markup import element, picture, text
from hlserve.report.outcomes import calibration, class_scores, confusion
from hlserve.report.page import as_html
from tests.report.samples import epochs, report

EVIL = "<script>alert('x')</script>\"&"
_VOID = {"meta", "img", "br", "path", "use", "rect", "circle", "line"}


class Page(HTMLParser):
    """What tags and attributes a page has, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href"):
                self.urls.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def full(n_classes: int = 3) -> LearningReport:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, n_classes, (2, 200))
    matrix = confusion(truth, predicted, [f"class {i}" for i in range(n_classes)])
    stated = rng.random(200)
    return report(
        confusion=matrix,
        class_scores=class_scores(matrix),
        calibration=calibration(stated, rng.random(200) < stated),
    )


@pytest.fixture(scope="module")
def html() -> str:
    return as_html(full())


def test_the_page_holds_every_section_in_order(html: str) -> None:
    wanted = ["summary", "verdict", "curves", "layers", "classes", "calibration", "worst"]
    assert re.findall(r'<section id="(\w+)">', html) == wanted
    assert Page(html).tags["svg"] == 6


def test_the_page_needs_nothing_from_outside_and_runs_no_script(html: str) -> None:
    page = Page(html)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert all(url.startswith(("#", "data:image/png;base64,")) for url in page.urls)


def test_ids_are_unique_and_references_find_theirs(html: str) -> None:
    page = Page(html)
    assert [name for name, n in Counter(page.ids).items() if n > 1] == []
    wanted = [url[1:] for url in page.urls if url.startswith("#")]
    assert {*wanted, *re.findall(r"url\(#(\w+)\)", html)} <= set(page.ids)


def test_plots_are_well_formed_and_take_the_pages_colours(html: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(svg)
        assert "var(--ink)" in svg
        assert not re.search(r"#0\d0\d0\d", svg)  # a mark that was not replaced


def test_the_same_report_gives_the_same_bytes(html: str) -> None:
    assert as_html(full()) == html
    assert not re.search(r"20\d\d-\d\d-\d\d", html)  # no date


def test_text_from_the_data_is_never_markup() -> None:
    rows = report(title=EVIL, architecture=EVIL, settings={EVIL: EVIL})
    matrix = confusion(np.array([0, 1]), np.array([1, 0]), [EVIL, "b"])
    worst = WorstExamples((Example(1, EVIL, EVIL, None, 2.0, None, (1.0,)),), (EVIL,))
    data = msgspec.structs.replace(rows.data, name=EVIL, source=EVIL, licence=EVIL)
    evil = msgspec.structs.replace(
        rows,
        data=data,
        confusion=matrix,
        class_scores=class_scores(matrix),
        worst=worst,
        baseline=Baseline(EVIL, 1.0, 0.1, None),
        regression=(Regression(EVIL, (1.0, 2.0), (1.0, 2.5), 0.5, 0.1),),
    )
    html = as_html(evil)
    page = Page(html)
    assert page.tags["script"] == 0
    assert page.text.count(EVIL) >= 12  # and it is all there to read


def test_many_classes_are_told_as_pairs_instead_of_a_matrix() -> None:
    assert 'class="heat"' in as_html(full(30))
    crowded = as_html(full(31))
    assert 'class="heat"' not in crowded
    assert "Most confused pairs" in crowded


def test_a_single_epoch_and_no_curve_make_a_page() -> None:
    page = Page(as_html(report(epochs=epochs([0.5]), curve=None, best_epoch=None)))
    assert "0.5" in page.text


def test_a_task_without_a_metric_makes_a_page() -> None:
    made = report(
        metric=None,
        parts=tuple(msgspec.structs.replace(p, metric=None) for p in report().parts),
        baseline=Baseline("none", None, None, None),
    )
    assert Page(as_html(made)).tags["svg"] == 4


def test_intervals_without_ends_do_not_break_the_plots() -> None:
    endless = Interval(0.5, -np.inf, np.inf)
    points = tuple(CurvePoint(s, n, 1, endless, endless) for s, n in ((0.5, 1), (1.0, 2)))
    page = Page(as_html(report(curve=LearningCurve(3, 0.1, points))))
    assert page.tags["svg"] == 5


def test_an_empty_calibration_makes_a_page() -> None:
    empty = Calibration(calibration(np.array([1.0]), np.array([True])).bins[:3], 0.0)
    assert "Expected calibration error" in as_html(report(calibration=empty))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
    img = picture(Picture(5, 4, channels, pixels.tobytes()), 'a "quote"')
    assert 'alt="a &quot;quote&quot;"' in img
    encoded = re.findall(r"base64,([^\"]+)", img)[0]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    np.testing.assert_array_equal(decoded.reshape(5, 4, channels), pixels)


def test_markup_is_escaped_once() -> None:
    assert text("a < b & c") == "a &lt; b &amp; c"
    assert element("p", element("b", "<"), "<") == "<p><b>&lt;</b>&lt;</p>"


def test_without_matplotlib_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r'type: pip install "hlserve\[report\]"'):
        require_matplotlib()
