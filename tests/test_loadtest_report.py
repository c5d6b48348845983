"""The load test's page: whole, needing nothing from elsewhere, and its plots right to the pixel."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from loadtest import _report
from loadtest._invariants import Snapshot
from loadtest._report import HEIGHT, MIB, WIDTH, Points, Sample, hit_ratio, latency, page, panel, plots, rate
from loadtest._verdict import Line, State, Verdict

SVG = "{http://www.w3.org/2000/svg}"
CAPACITY = 64 * MIB
NASTY = "<script>alert('x')</script> & \"more\" é日"

VERDICT = Verdict(
    (
        Line("one", State.HELD, "2 times"),
        Line("two", State.BROKEN, "seen"),
        Line("three", State.NOT_SEEN),
        Line("four", State.NOT_CHECKED, "no corpus"),
    )
)


def sample(
    at_s: float, users: int = 5, latency_ms: dict[str, tuple[float, float]] | None = None, **counters: int
) -> Sample:
    """A look at a server that has done nothing but this."""
    stats = {"cached": 0, "filling": 0, "hits": 0, "file_answers": 0, "evictions": 0, **counters}
    return Sample(at_s, users, Snapshot(stats, ()), latency_ms or {})


SAMPLES = [
    sample(1000.0, 0, cached=0),
    sample(1001.0, 10, {"GET hit small": (1.0, 9.0)}, cached=16 * MIB, hits=10, file_answers=40, evictions=0),
    sample(1003.0, 20, {"GET hit small": (2.0, 99.0)}, cached=48 * MIB, hits=70, file_answers=120, evictions=8),
    sample(1004.0, 20, {NASTY: (2.0, 99.0)}, cached=32 * MIB, filling=MIB, hits=70, file_answers=120, evictions=9),
]


class Tags(HTMLParser):
    """All that a browser would see: tags that were opened and closed, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.classes: list[tuple[str | None, str]] = []
        self._class: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += attrs
        self._class = dict(attrs).get("class")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self.closed.append(tag)
        self._class = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        self.classes.append((self._class, data))


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def panels(svg: str) -> dict[str, ET.Element]:
    """The panels by their titles."""
    found = {}
    for group in drawn(svg).findall(f"{SVG}g"):
        title = group.find(f"{SVG}text[@class='t']")
        assert title is not None
        assert title.text is not None
        found[title.text] = group
    return found


def one(text: str) -> ET.Element:
    """A panel by itself."""
    return ET.fromstring(f'<g xmlns="http://www.w3.org/2000/svg">{text}</g>')


def line(group: ET.Element, name: str) -> list[tuple[float, float]]:
    """The points of the line with that name."""
    for polyline in group.findall(f"{SVG}polyline"):
        if polyline.findtext(f"{SVG}title") == name:
            pairs = (point.split(",") for point in polyline.attrib["points"].split())
            return [(float(x), float(y)) for x, y in pairs]
    raise AssertionError(f"no line {name}")


def mark(group: ET.Element) -> float | None:
    """Where the line of the capacity is; None if there is none."""
    path = group.find(f"{SVG}path[@class='c']")
    if path is None:
        return None
    found = re.fullmatch(rf"M0 ([0-9.]+)H{WIDTH}", path.attrib["d"])
    assert found
    return float(found[1])


# The page


def test_the_page_is_whole() -> None:
    text = page(VERDICT, SAMPLES, CAPACITY, ["a note"])
    tags = Tags(text)
    assert text.startswith("<!doctype html>\n")
    assert '<meta charset="utf-8">' in text
    left_open = list(tags.opened)
    for tag in tags.closed:
        left_open.remove(tag)
    assert left_open == ["meta", "meta"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(VERDICT, SAMPLES, CAPACITY, ["a note"])
    tags = Tags(text)
    assert not {"script", "link", "img", "image", "iframe", "object", "use", "base", "form"} & set(tags.opened)
    assert not {"src", "href", "xlink:href", "srcset", "data", "action"} & {name for name, _ in tags.attributes}
    assert "@import" not in text
    assert "url(" not in text
    assert [value for _, value in tags.attributes if value and "//" in value] == ["http://www.w3.org/2000/svg"]


def test_the_page_says_the_verdict_and_each_of_its_lines() -> None:
    tags = Tags(page(VERDICT, SAMPLES, CAPACITY))
    assert "FAILED: two" in tags.text
    cells = re.findall(r"<td.*?>(.*?)</td>", page(VERDICT, SAMPLES, CAPACITY))
    assert cells == [
        "held",
        "one",
        "2 times",
        "BROKEN",
        "two",
        "seen",
        "NOT SEEN",
        "three",
        "",
        "not checked",
        "four",
        "no corpus",
    ]
    assert {text for kind, text in tags.classes if kind == "bad"} == {"BROKEN", "NOT SEEN"}
    assert "PASSED" in Tags(page(Verdict(VERDICT.lines[:1]), SAMPLES, CAPACITY)).text


def test_notes_stand_on_the_page_each_in_a_paragraph() -> None:
    text = page(VERDICT, SAMPLES, CAPACITY, ["the knee is at 64 users", NASTY])
    assert "<p>the knee is at 64 users</p>" in text
    assert Tags(text).opened.count("p") == 2
    assert "<p>" not in page(VERDICT, SAMPLES, CAPACITY)


def test_names_of_others_are_text_wherever_they_come_from() -> None:
    """File names, header fields and errors of the server stand in details, notes and rows."""
    verdict = Verdict((Line(NASTY, State.BROKEN, NASTY),))
    samples = [sample(t, latency_ms={NASTY: (1, 2), "other " + NASTY: (1, 2)}) for t in (0, 1)]
    text = page(verdict, samples, CAPACITY, [NASTY])
    tags = Tags(text)
    assert "script" not in tags.opened
    assert "".join(tags.text).count(NASTY) == 1 + 2 + 1 + 2 * (2 + 2)  # headline, cells, note; two panels
    drawn(plots(samples, CAPACITY))


def test_a_title_is_text() -> None:
    assert one(panel(NASTY, 1, {})).findtext(f"{SVG}text") == NASTY


@pytest.mark.parametrize("samples", [[], SAMPLES[:1], SAMPLES[:1] * 2], ids=["none", "one", "one moment"])
def test_of_no_sample_or_one_there_is_a_page_without_plots(samples: list[Sample]) -> None:
    text = page(VERDICT, samples, CAPACITY)
    assert "Too few samples to plot." in text
    assert "<svg" not in text
    assert "FAILED: two" in text


def test_two_samples_are_plotted() -> None:
    assert len(panels(plots(SAMPLES[:2], CAPACITY))) == 6


# The panels


def test_the_panels_say_what_they_show() -> None:
    titles = list(panels(plots(SAMPLES, CAPACITY)))
    assert [re.split("[,(]", title)[0].strip() for title in titles] == [
        "users",
        "hit ratio",
        "MiB in the cache",
        "evictions a second",
        "p50",
        "p99",
    ]
    assert "64" in titles[2]
    assert "1.5" in list(panels(plots(SAMPLES, 3 * MIB // 2)))[2]


def test_panels_stand_below_each_other_within_the_picture() -> None:
    svg = drawn(plots(SAMPLES, CAPACITY))
    left, top, width, height = map(int, svg.attrib["viewBox"].split())
    places = [tuple(map(int, re.findall(r"\d+", group.attrib["transform"]))) for group in svg.findall(f"{SVG}g")]
    assert (left, top) == (0, 0)
    assert all(0 < x <= width - WIDTH for x, _ in places)
    assert all(second - first >= HEIGHT + 14 + 12 for (_, first), (_, second) in pairwise(places))
    assert places[0][1] >= 12
    assert places[-1][1] + HEIGHT + 14 <= height


def test_time_goes_from_the_first_sample_to_the_last() -> None:
    groups = panels(plots(SAMPLES, CAPACITY))
    for group in groups.values():
        assert any(text.text == "4 s" for text in group.findall(f"{SVG}text"))
    assert [x for x, _ in line(groups["users"], "users")] == [0, WIDTH / 4, WIDTH * 3 / 4, WIDTH]
    assert 'aria-label="what the watch saw over 4 seconds"' in plots(SAMPLES, CAPACITY)


def test_every_line_is_at_its_height() -> None:
    groups = list(panels(plots(SAMPLES, CAPACITY)).values())
    assert [y for _, y in line(groups[0], "users")] == [HEIGHT, HEIGHT / 2, 0, 0]
    assert line(groups[1], "hits") == [(225, 90), (675, 30)]
    assert [y for _, y in line(groups[2], "cached")] == [HEIGHT, HEIGHT * 3 / 4, HEIGHT / 4, HEIGHT / 2]
    assert [y for _, y in line(groups[2], "filling")] == [
        HEIGHT,
        HEIGHT,
        HEIGHT,
        pytest.approx(HEIGHT * 63 / 64, abs=0.06),
    ]
    assert line(groups[3], "evictions") == [(225, HEIGHT), (675, 0), (900, HEIGHT * 3 / 4)]


def test_the_capacity_is_marked_at_its_height_and_nowhere_else() -> None:
    groups = panels(plots(SAMPLES, CAPACITY))
    assert [mark(group) for group in groups.values()] == [None, None, 0.0, None, None, None]
    lower = list(panels(plots(SAMPLES, 24 * MIB)).values())[2]
    assert mark(lower) == HEIGHT / 2
    assert min(y for _, y in line(lower, "cached")) == 0


def test_a_scale_ends_at_what_is_highest() -> None:
    for lines, options, says in [
        ({"a": [(0, 5), (1, 2500)]}, {}, "2,500"),
        ({"a": [(0, 5)], "b": [(1, 9)]}, {}, "9"),
        ({"a": [(0, 5)]}, {"top": 100}, "100"),
        ({"a": [(0, 500)]}, {"top": 100}, "500"),
        ({"a": [(0, 5)]}, {"line": 64}, "64"),
        ({}, {}, "1"),
        ({"a": []}, {}, "1"),
        ({"a": [(0, 0)]}, {}, "1"),
    ]:
        group = one(panel("title", 1, lines, **options))  # type: ignore[arg-type]
        texts = [text.text for text in group.findall(f"{SVG}text")]
        assert texts[:4] == ["title", says, "0", "1 s"]


def test_a_logarithmic_panel_shows_small_values_beside_large_ones() -> None:
    """0 is at the bottom, the highest at the top, and each power of ten takes about as much room."""
    group = one(panel("p99", 4, {"a": [(0, 0), (1, 9), (2, 99), (3, 999), (4, -5)]}, logarithmic=True))
    assert [y for _, y in line(group, "a")] == [HEIGHT, HEIGHT * 2 / 3, HEIGHT / 3, 0, HEIGHT]


def test_latencies_are_logarithmic_and_the_rest_is_not() -> None:
    samples = [sample(t, latency_ms={"a": (value, value)}) for t, value in enumerate((0.0, 9.0, 99.0))]
    groups = list(panels(plots(samples, CAPACITY)).values())
    assert [line(group, "a")[1][1] for group in groups[4:]] == [HEIGHT / 2, HEIGHT / 2]


def test_lines_have_colours_of_their_own_and_a_key_where_there_are_several() -> None:
    many: dict[str, Points] = {f"row {i}": [(0.0, 1.0)] for i in range(_report.ROWS_MAX)}
    group = one(panel("p99", 1, many))
    colours = [polyline.attrib["stroke"] for polyline in group.findall(f"{SVG}polyline")]
    assert len(set(colours)) == len(many)
    keys = {
        element.text: element.attrib["style"]
        for element in group.iter()
        if element.attrib.get("style", "").startswith("fill:")
    }
    assert keys == {name: f"fill:{colour}" for name, colour in zip(many, colours, strict=True)}
    alone = one(panel("p99", 1, {"row": [(0, 1)]}))
    assert not [element for element in alone.iter() if "style" in element.attrib]


def test_where_a_phase_begins_it_is_marked_with_its_name() -> None:
    named = [replace(sample(10 + t), phase=phase) for t, phase in enumerate(["warm", "warm", "scan", NASTY, ""])]
    groups = list(panels(plots(named, CAPACITY)).values())
    begins = [path.attrib["d"] for path in groups[0].findall(f"{SVG}path[@class='a']")][1:]
    assert begins == [f"M{x:.1f} 0V{HEIGHT}" for x in (0, WIDTH / 2, WIDTH * 3 / 4)]
    said = [text.text for text in groups[0].findall(f"{SVG}text")]
    assert said[-3:] == ["warm", "scan", NASTY]
    assert not any("scan" in (text.text or "") for group in groups[1:] for text in group.iter())


# What is plotted


def test_the_hit_ratio_is_of_the_answers_since_the_sample_before() -> None:
    times = [0.0, 1.0, 3.0, 4.0]
    assert hit_ratio(times, SAMPLES) == [(1.0, 25.0), (3.0, 75.0)]


def test_the_hit_ratio_has_no_point_where_nobody_asked() -> None:
    idle = [sample(t, hits=5, file_answers=9) for t in range(4)]
    assert hit_ratio([0.0, 1.0, 2.0, 3.0], idle) == []
    assert len(panels(plots(idle, CAPACITY))) == 6


def test_what_was_there_before_the_first_sample_is_not_counted() -> None:
    old = [
        sample(0, hits=1000, file_answers=1000, evictions=500),
        sample(2, hits=1000, file_answers=1010, evictions=503),
    ]
    assert hit_ratio([0.0, 2.0], old) == [(2.0, 0.0)]
    assert rate([0.0, 2.0], old, "evictions") == [(2.0, 1.5)]


def test_a_rate_is_by_the_second_that_passed() -> None:
    assert rate([0.0, 1.0, 3.0, 4.0], SAMPLES, "evictions") == [(1.0, 0.0), (3.0, 4.0), (4.0, 1.0)]
    assert rate([0.0, 0.5], [sample(0), sample(0.5, evictions=10)], "evictions") == [(0.5, 20.0)]


def test_two_samples_of_one_moment_have_no_rate() -> None:
    samples = [sample(0), sample(1), sample(1, evictions=5), sample(2, evictions=7)]
    assert rate([0.0, 1.0, 1.0, 2.0], samples, "evictions") == [(1.0, 0.0), (2.0, 2.0)]
    assert len(panels(plots(samples, CAPACITY))) == 6


def test_latency_has_a_line_for_each_row_with_a_point_where_it_was_seen() -> None:
    samples = [
        sample(0, latency_ms={"GET": (1, 10)}),
        sample(1, latency_ms={"GET": (2, 20), "LIST": (3, 30)}),
        sample(2, latency_ms={"LIST": (4, 40)}),
        sample(3),
    ]
    times = [0.0, 1.0, 2.0, 3.0]
    assert latency(times, samples, 0) == {"GET": [(0.0, 1), (1.0, 2)], "LIST": [(1.0, 3), (2.0, 4)]}
    assert latency(times, samples, 1) == {"GET": [(0.0, 10), (1.0, 20)], "LIST": [(1.0, 30), (2.0, 40)]}


def test_latency_is_of_the_rows_that_were_seen_most() -> None:
    samples = [sample(t, latency_ms={f"row {i}": (1, 2) for i in range(20) if i >= t}) for t in range(20)]
    found: dict[str, Points] = latency([float(t) for t in range(20)], samples, 0)
    assert list(found) == [f"row {i}" for i in (19, 18, 17, 16, 15, 14)]
    assert [len(points) for points in found.values()] == [20, 19, 18, 17, 16, 15]
    assert _report.ROWS_MAX == 6
