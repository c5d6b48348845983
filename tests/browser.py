"""The dashboard in a real browser: `python -m tests.browser CHECK URL [ARGUMENT]`.

A process of its own, because Playwright and gevent must not meet in pytest's. A check opens the page, looks at it
and ends with 0, or with a traceback. Where the test has something to do, it says a word and waits for a line.

Whatever the check, the page may have no error, write nothing to the console and ask no other origin.
"""

import itertools
import json
import math
import re
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, sync_playwright

from fileserver.rendering import size_text

PATIENCE_MS = 30_000
NOTHING = "\N{EN DASH}"
"""What stands for a number that is not known."""
ROWS = "#files tbody tr"
SORTS = ("name", "size", "hits", "age_s", "idle_s", "readers")
FIRST_ROWS = 100
IN_THE_MAP = 1000
AT_REST = (
    "hits", "misses", "coalesced", "bypasses", "evictions", "entries", "cached", "filling", "fills_in_flight",
    "capacity", "peak", "disk_reads_inline", "disk_reads_pool",
)  # fmt: skip
"""What does not move while nobody asks for a file."""

Entry = dict[str, Any]


# The page, and what is heard of it.


class Visit:
    """One visit to the dashboard. `complaints` are what must not be, unless it matches `allowed`."""

    def __init__(self, page: Page, url: str, allowed: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self._allowed: Final = allowed
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complain(f"error: {error}"))
        page.on("dialog", lambda dialog: self._complain(f"dialog: {dialog.message}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        self._complain(f"console {message.type}: {message.text}")

    def _complain(self, text: str) -> None:
        if not (self._allowed and re.search(self._allowed, text)):
            self.complaints.append(text)

    def _request(self, request: Request) -> None:
        self.asked.append((request.resource_type, urlsplit(request.url).path))
        if not request.url.startswith((self.url + "/", "data:", f"blob:{self.url}/")):
            self._complain(f"another origin: {request.url}")

    def all(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def run(self, script: str, argument: object = None) -> Any:
        return self.page.evaluate(script, argument)

    def wait(self, condition: str, argument: object = None) -> None:
        """Until `condition`, a function in JavaScript, holds in the page."""
        self.page.wait_for_function(condition, arg=argument, timeout=PATIENCE_MS)

    def wait_to_be(self, live: str) -> None:
        self.wait("(live) => document.getElementById('state').dataset.live === live", live)

    def value(self, stat: str) -> str:
        found: str = self.run("(stat) => document.querySelector(`[data-stat='${stat}']`).dataset.value", stat)
        return found

    def text(self, selector: str) -> str:
        return self.all(selector).inner_text().strip()

    def wait_for_news(self) -> None:
        """Until the next snapshot has been drawn."""
        before = self.value("uptime_s")
        self.wait("(before) => document.querySelector('[data-stat=uptime_s]').dataset.value !== before", before)

    def settle(self) -> None:
        """Until a snapshot is shown that was made after what the server has answered by now."""
        uptime_s = stats(self.url)["uptime_s"]
        self.wait("(now) => document.querySelector('[data-stat=uptime_s]').dataset.value > now", uptime_s)


@contextmanager
def visit(url: str, *, allowed: str = "", wait_to_be: str = "live", **options: Any) -> Iterator[Visit]:
    """The dashboard in a window of its own, once it has drawn something."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        seen = Visit(page, url, allowed)
        page.goto(f"{url}/-/")
        seen.wait_to_be(wait_to_be)
        yield seen
        browser.close()
    same(seen.complaints, [])


def tell(word: str) -> None:
    """Have the test do what belongs here."""
    print(word, flush=True)
    assert sys.stdin.readline(), "the test has gone"


def fetch(url: str) -> Any:
    """JSON from the server, not by way of the browser."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def stats(url: str) -> dict[str, Any]:
    found: dict[str, Any] = fetch(f"{url}/-/stats")
    return found


def listed(url: str) -> list[Entry]:
    """LIST, the largest first."""
    entries: list[Entry] = fetch(f"{url}/-/cache?format=json")["entries"]
    return sorted(entries, key=lambda entry: -entry["size"])


def same(found: object, expected: object) -> None:
    """What pytest says of `==` (its rewriting is not here)."""
    assert found == expected, f"found {found!r}, expected {expected!r}"


def name_of(link: str) -> str:
    return unquote(urlsplit(link).path)[1:]


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def seconds_text(seconds: float) -> str:
    """As the page says it, below two minutes."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1000) if seconds >= 0.001 else ("µs", 1_000_000)
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def rows(seen: Visit, table: str) -> list[list[str]]:
    """The body of a table as it is read."""
    script = (
        "(table) => Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => cell.innerText))"
    )
    found: list[list[str]] = seen.all(table).evaluate(script)
    return found


# The map.

BOXES = """
() => Array.from(document.querySelectorAll("#map a"), (box) => {
  const { x, y, width, height } = box.getBoundingClientRect();
  const under = document.elementFromPoint(x + width / 2, y + height / 2);
  return { link: box.getAttribute("href"), download: box.download, text: box.textContent, x, y, width, height,
    found: under === box };
})
"""


def look_at_the_map(seen: Visit) -> None:
    """A box for each of the largest files, one for all others, each as large as what it stands for."""
    entries = [entry for entry in listed(seen.url) if entry["size"] > 0]
    shown, others = entries[:IN_THE_MAP], entries[IN_THE_MAP:]
    sizes = {entry["name"]: entry["size"] for entry in shown}
    if others:
        sizes["-/cache"] = sum(entry["size"] for entry in others)
    seen.all("#map").scroll_into_view_if_needed()
    boxes = seen.run(BOXES)
    frame = seen.all("#map").bounding_box()
    assert frame is not None
    same(sorted(name_of(box["link"]) for box in boxes), sorted(sizes))
    scale = frame["width"] * frame["height"] / sum(sizes.values())
    covered = 0.0
    for box in boxes:
        name, width, height = name_of(box["link"]), box["width"], box["height"]
        assert abs(width * height - scale * sizes[name]) <= 1 + (width + height) / 10, (name, sizes[name], box)
        assert box["x"] > frame["x"] - 1
        assert box["y"] > frame["y"] - 1
        assert box["x"] + width < frame["x"] + frame["width"] + 1
        assert box["y"] + height < frame["y"] + frame["height"] + 1
        assert box["found"] or min(width, height) < 3, ("something lies on it", box)
        if name in sizes and box["text"]:
            last = name.split("/")[-1]
            same(box["text"], (last if box["download"] else f"{len(others):,} others"))
            same(box["download"], (last if box["download"] else ""))
        covered += width * height
    assert abs(covered / (frame["width"] * frame["height"]) - 1) < 0.01
    large = [box for box in boxes if box["width"] > 40 and box["height"] > 20]
    assert large
    assert all(box["text"] for box in large)


def check_map(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        look_at_the_map(seen)
        entries, said = listed(url), seen.text("#map-said")
        same(said, f"{len(entries):,} files in {size_text(sum(entry['size'] for entry in entries))}.")
        seen.page.set_viewport_size({"width": 700, "height": 500})
        seen.wait_for_news()
        look_at_the_map(seen)
        look_at_the_heat(seen, entries)


def look_at_the_heat(seen: Visit, entries: list[Entry]) -> None:
    """The hotter the more often, or the later, asked for; the coolest and the hottest at the ends of the scale."""
    script = "() => Array.from(document.querySelectorAll('#map a'), (box) => [box.getAttribute('href'), "
    script += "parseFloat(box.style.getPropertyValue('--heat'))])"
    entries = [entry for entry in entries if entry["size"] > 0]
    for choice, key, sign in (("hits", "hits", 1), ("recency", "idle_s", -1)):
        seen.all(f"input[value={choice}]").check()
        heats = {name_of(link): heat for link, heat in seen.run(script)}
        by_heat = sorted(entries, key=lambda entry: sign * entry[key])
        found = [heats[entry["name"]] for entry in by_heat]
        assert all(one <= other + 2 for one, other in itertools.pairwise(found)), (choice, found)
        assert (min(found), max(found)) == (0, 100)
        assert len(set(found)) > 3


def check_hover_and_download(url: str, folder: str) -> None:
    with visit(url) as seen:
        seen.settle()
        seen.all("#map").scroll_into_view_if_needed()
        tip = seen.all("#tip")
        assert not tip.is_visible()
        for entry in listed(url)[:3]:
            box = seen.all(f'#map a[href="/{quote(entry["name"])}"]')
            box.hover()
            name, size, age, readers = tip.inner_text().split("\n")
            same([name, size], [entry["name"], f"{size_text(entry['size'])}, {counted(entry['hits'], 'hit')}"])
            assert re.fullmatch(r"cached for [\d.]+ \S+, unused for [\d.]+ \S+", age), age
            same(readers, counted(entry["readers"], "reader"))
            place, window = tip.bounding_box(), seen.page.viewport_size
            assert place is not None
            assert window is not None
            assert place["x"] >= 0 <= place["y"]
            assert place["x"] + place["width"] <= window["width"]
            assert place["y"] + place["height"] <= window["height"]
            with seen.page.expect_download() as downloading:
                box.click()
            download = downloading.value
            same(download.suggested_filename, entry["name"].split("/")[-1])
            same(download.path().read_bytes(), (Path(folder) / entry["name"]).read_bytes())
        seen.wait("(before) => document.getElementById('tip').innerText !== before", tip.inner_text())
        seen.page.keyboard.press("Escape")
        assert not tip.is_visible()
        seen.all("#map a").first.hover()
        assert tip.is_visible()
        seen.all("h1").hover()
        assert not tip.is_visible()
        same(seen.page.url, f"{url}/-/")


# Numbers.

LABELS = {
    "Hits": "hits", "Misses": "misses", "Coalesced": "coalesced", "Bypasses": "bypasses",
    "Bytes sent": "bytes_sent", "Evictions": "evictions", "Connections": "connections",
    "of them idle": "connections_idle", "of them slow to take": "connections_by_state.writing",
    "Reads inline": "disk_reads_inline", "Reads in threads": "disk_reads_pool",
    "Loop late, at worst": "loop_lag.worst_s", "Loop stalls": "loop_lag.stalls", "Viewers": "viewers",
    "Up for": "uptime_s",
}  # fmt: skip


def check_numbers(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        expected, snapshot = stats(url), fetch(f"{url}/-/snapshot")
        for stat in AT_REST:
            for node in seen.all(f'[data-stat="{stat}"]').all():
                assert node.get_attribute("data-value") == str(expected[stat]), stat
                as_bytes = node.get_attribute("data-as") == "bytes"
                same(node.inner_text(), (size_text(expected[stat]) if as_bytes else f"{expected[stat]:,}"))
        shown = {node.get_attribute("data-stat") for node in seen.all("[data-stat]").all()}
        assert {*AT_REST, "bytes_sent", "connections", "rss_bytes", "viewers", "loop_lag.worst_s"} <= shown
        labels = seen.run(
            "() => Array.from(document.querySelectorAll('dl > div'), "
            "(pair) => [pair.querySelector('dt').innerText, pair.querySelector('dd').dataset.stat])"
        )
        same(dict(labels), LABELS)
        assert int(seen.value("viewers")) >= 1
        look_at_the_budget(seen, expected)
        look_at_the_charts(seen, snapshot["rates"])
        look_at_the_tables(seen, expected, snapshot)


def look_at_the_budget(seen: Visit, expected: dict[str, Any]) -> None:
    free = expected["capacity"] - expected["cached"]
    capacity = size_text(expected["capacity"])
    said = f"{size_text(expected['cached'])} cached, 0 B filling, {size_text(free)} free of {capacity}"
    same(seen.all("#budget").get_attribute("aria-label"), said)
    same(seen.text("#free"), size_text(free))
    bar, cached = seen.all("#budget").bounding_box(), seen.all("#cached").bounding_box()
    assert bar is not None
    assert cached is not None
    assert abs(cached["width"] - bar["width"] * expected["cached"] / expected["capacity"]) < 1
    assert seen.run("() => document.getElementById('filling').getBoundingClientRect().width") == 0


def look_at_the_charts(seen: Visit, rates: list[list[float | None]]) -> None:
    """Each has a line, says the most there was, and has nothing to say of a ratio without an answer."""
    for chart, column, title in (("requests", 1, "Requests a second"), ("evictions", 3, "Evictions a second")):
        most = max(row[column] or 0 for row in rates)
        label = seen.all(f"#chart-{chart} svg").get_attribute("aria-label")
        assert re.fullmatch(rf"{title}: now \d+, at most {most:,.0f} in the last [\d minutes]+", label or ""), (
            label
        )
    ratios = [row[4] for row in rates if row[4] is not None]
    label = seen.all("#chart-ratio svg").get_attribute("aria-label")
    minutes = max(1, math.ceil(((rates[-1][0] or 0) - (rates[0][0] or 0)) / 60))
    lately = "the last minute" if minutes == 1 else f"the last {minutes} minutes"
    same(label, f"Hit ratio: now {NOTHING}, at most {max(ratios):.1%} in {lately}".replace("%", " %"))
    same(seen.text("#rates-title").lower(), lately)
    same(seen.text("#chart-ratio b"), NOTHING)
    for chart, least in (("requests", len(rates)), ("bytes", len(rates)), ("ratio", len(ratios))):
        points = re.findall(r"[ML][\d.]+ ([\d.]+)", seen.all(f"#chart-{chart} path").get_attribute("d") or "")
        assert len(points) >= least
        heights = [float(point) for point in points]
        assert all(3 <= height <= 97 for height in heights)
        assert chart == "ratio" or min(heights) == 3


def look_at_the_tables(seen: Visit, expected: dict[str, Any], snapshot: dict[str, Any]) -> None:
    """Evictions, slowest fills, latency, what-if and files, cell by cell as far as nothing moves."""
    gone = snapshot["evictions"]
    assert gone
    assert [[row[0], row[1], row[2], row[4], row[5]] for row in rows(seen, "#evictions")] == [
        [one["name"], size_text(one["size"]), f"{one['hits']:,}", one["newcomer"], one["rule"]] for one in gone
    ]
    slow = expected["slowest_fills"]
    assert slow
    assert [row[:3] for row in rows(seen, "#slowest")] == [
        [one["name"], size_text(one["size"]), seconds_text(one["seconds"])] for one in slow
    ]
    times = {row[0]: row[1:] for row in rows(seen, "#latency")}
    for name in ("hit", "miss", "bypass"):
        for key, title in (("first_byte_s", "first byte"), ("total_s", "all of it")):
            summary = expected["latency"][name][key]
            assert summary["count"] > 0
            assert times[f"{name.title()}: {title}"] == [
                f"{summary['count']:,}",
                *(seconds_text(summary[at]) for at in ("p50", "p90", "p99", "p99.9")),
            ]
    assert times["Coalesced: all of it"] == ["0", *[NOTHING] * 4]
    assert seen.all("#what-if-section").is_visible()
    what_if = expected["what_if"]
    right_to = f"{what_if['expected_error']:.1%}".replace("%", " %")
    same(seen.text("#what-if-said"), f"Of {what_if['requests']:,} requests, right to {right_to} or so.")
    assert rows(seen, "#what-if") == [
        [name, *(f"{ratios[key]:.1%}".replace("%", " %") for key in ("object_hit_ratio", "byte_hit_ratio"))]
        for name, ratios in what_if["policies"].items()
    ]
    entries = {entry["name"]: entry for entry in listed(seen.url)}
    shown = rows(seen, "#files")
    same(len(shown), min(FIRST_ROWS, len(entries)))
    for name, size, hits, _, _, readers in shown:
        entry = entries[name]
        same([name, size, hits, readers], [name, size_text(entry["size"]), f"{entry['hits']:,}", "0"])


def check_without_what_if(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        assert not seen.all("#what-if-section").is_visible()
        assert "policies" not in seen.all("body").inner_text()
        same(seen.text("#map-said"), "Nothing is cached yet.")
        assert seen.run("() => document.querySelectorAll('#map a').length") == 0
        same(seen.all("#chart-ratio svg").get_attribute("aria-label"), "Hit ratio: nothing yet")
        same(seen.all("h1").inner_text(), f"gserver {urlsplit(url).netloc}")


# Live.


def check_live(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        seen.run("() => { window.isTheSame = true; }")
        before = {stat: int(seen.value(stat)) for stat in ("hits", "misses", "entries")}
        tell("ask for a new file, twice")
        seen.wait("(hits) => document.querySelector('[data-stat=hits]').dataset.value > hits", before["hits"])
        same({stat: int(seen.value(stat)) for stat in before}, {stat: 1 + was for stat, was in before.items()})
        assert seen.all('#map a[href="/new%20one"]').count() == 1
        assert seen.all(ROWS).filter(has_text="new one").count() == 1
        assert seen.run("() => window.isTheSame"), "the page was loaded again"
        assert [path for kind, path in seen.asked if kind == "eventsource"] == ["/-/events"]
        assert "/-/snapshot" not in [path for _, path in seen.asked]
        same(seen.text("#state"), "live")


def wait_for_viewers(url: str, count: int) -> None:
    """Until so many are watching. Who goes is noticed when the next event cannot be sent."""
    deadline_s = time.monotonic() + 20
    while (viewers := stats(url)["viewers"]) != count:
        assert time.monotonic() < deadline_s, f"{viewers} are watching"
        time.sleep(0.1)


def check_pause(url: str) -> None:
    """Paused, nothing moves and nobody is watching; pressed again, it goes on."""
    with visit(url) as seen:
        wait_for_viewers(url, 1)
        seen.page.click("#pause")
        same(seen.text("#state"), "paused")
        same(seen.page.get_attribute("#pause", "aria-pressed"), "true")
        before = seen.value("uptime_s")
        wait_for_viewers(url, 0)
        time.sleep(2.5)  # longer than a poll takes to come
        same(seen.value("uptime_s"), before)
        seen.page.click("#pause")
        seen.wait_to_be("live")
        seen.wait_for_news()


def check_load(url: str) -> None:
    """Under load everything goes on, and what is shown at one moment fits together."""
    with visit(url) as seen:
        seen.wait("() => document.querySelector('[data-stat=evictions]').dataset.value > 0")
        for _ in range(4):
            hits = seen.value("hits")
            seen.wait("(hits) => document.querySelector('[data-stat=hits]').dataset.value > Number(hits)", hits)
            shown = seen.run(
                "() => ({ cached: document.querySelector('[data-stat=cached]').dataset.value,"
                " entries: document.querySelector('[data-stat=entries]').dataset.value,"
                " boxes: document.querySelectorAll('#map a').length,"
                " said: document.getElementById('map-said').textContent })"
            )
            files = int(shown["entries"])
            assert shown["said"].startswith(f"{counted(files, 'file')} in {size_text(int(shown['cached']))}")
            same(shown["boxes"], min(files, IN_THE_MAP + 1))
        assert rows(seen, "#evictions")
        same(seen.text("#state"), "live")


def check_polling(url: str) -> None:
    with visit(url, allowed="status of 503|Failed to load resource: net::ERR_", wait_to_be="polling") as seen:
        seen.settle()
        hits = int(seen.value("hits"))
        tell("ask for it, twice")
        seen.wait("(hits) => document.querySelector('[data-stat=hits]').dataset.value > hits", hits)
        same(seen.all("#state").get_attribute("data-live"), "polling")
        same(seen.text("#state"), "asking every 2 s")
        assert len([path for _, path in seen.asked if path == "/-/snapshot"]) >= 2
        tell("stop")
        seen.wait_to_be("offline")


def check_offline(url: str) -> None:
    refused = "Failed to load resource: net::ERR_"
    with visit(url, allowed=refused) as seen:
        uptime_s = float(seen.value("uptime_s"))
        tell("stop")
        seen.wait_to_be("offline")
        same(seen.text("#state"), "no answer, trying again")
        assert float(seen.value("uptime_s")) >= uptime_s, "what was known last is still shown"
        tell("start")
        seen.wait_to_be("live")
        seen.wait_for_news()
        seen.wait("() => document.getElementById('state').dataset.live === 'live'")
        same(seen.value("entries"), "0")
        same(seen.text("#map-said"), "Nothing is cached yet.")
        same(seen.all("#map a").count(), 0)
        same(rows(seen, "#files"), [])


# The files.


def names_shown(seen: Visit) -> list[str]:
    return [row[0] for row in rows(seen, "#files")]


def check_table(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        entries = {entry["name"]: entry for entry in listed(url)}
        number = len(entries)
        assert number > FIRST_ROWS
        same(seen.text("#files-said"), f"{number} in the cache")
        for key in SORTS:
            look_at_the_order(seen, key, entries)
        same(seen.text("#more"), f"Show all {number}")
        seen.all("#more").click()
        same(sorted(names_shown(seen)), sorted(entries))
        assert not seen.all("#more").is_visible()

        for wanted in ("2", "Photos/", "pHOTOS/2", "no such file", "%", ""):
            seen.all("#search").fill(wanted)
            found = sorted(name for name in entries if wanted.lower() in name.lower())
            same(sorted(names_shown(seen)), found)
            said = f"{len(found)} of {number}" if wanted else f"{number}"
            same(seen.text("#files-said"), f"{said} in the cache")
        script = "(node) => { node.dispatchEvent(new Event('input')); "
        script += "return document.getElementById('files-said').ariaLive; }"
        same(seen.all("#search").evaluate(script), "polite")
        seen.all("#search").fill("photos/")
        seen.all("[data-sort=name]").click()
        before = names_shown(seen)
        same(before, sorted(before))
        assert len(before) > 3
        seen.wait_for_news()
        same(names_shown(seen), before)  # news change nothing of what was chosen
        same(seen.all("#files-said").get_attribute("aria-live"), "off")  # nor does a screen reader tell of them
        links = seen.run(
            "(rows) => Array.from(document.querySelectorAll(rows), (row) => row.querySelector('a').href)", ROWS
        )
        same([name_of(link) for link in links], before)


def look_at_the_order(seen: Visit, key: str, entries: dict[str, Entry]) -> None:
    """One way, then the other; only this column says that it is the one."""
    first = "ascending" if key == "name" else "descending"
    second = "descending" if key == "name" else "ascending"
    button = seen.all(f"[data-sort={key}]")
    if key == "size":  # as it was at the beginning: the next click would turn it
        seen.all("[data-sort=name]").click()
    for direction in (first, second):
        button.click()
        values = [entries[name][key] for name in names_shown(seen)]
        same(len(values), FIRST_ROWS)
        in_order = sorted(entries.values(), key=lambda entry: entry[key], reverse=direction == "descending")
        expected = [entry[key] for entry in in_order[:FIRST_ROWS]]
        if key in ("age_s", "idle_s"):  # rounded at another moment
            gaps = [abs(value - right) for value, right in zip(values, expected, strict=True)]
            assert max(gaps) < 0.1
        else:
            assert values == expected, (key, direction)
        said = seen.run(
            "() => Array.from(document.querySelectorAll('#files th'), "
            "(head) => [head.querySelector('button').dataset.sort, head.ariaSort])"
        )
        same({name: order for name, order in said if order != "none"}, {key: direction})


# By keyboard, and by ear.

FOCUSABLE = """
() => Array.from(document.querySelectorAll("a[href], button, input, [tabindex]"))
  .filter((node) => node.tabIndex >= 0 && node.checkVisibility() && (node.type !== "radio" || node.checked))
"""
FOCUSED = """
() => {
  const node = document.activeElement;
  if (node === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(node);
  const { top, bottom, left } = node.getBoundingClientRect();
  const under = document.elementFromPoint(left + 2, Math.max(top, 0) + Math.min(8, (bottom - top) / 2));
  const named = node.dataset.sort ?? (node.id || node.value || node.getAttribute("aria-labelledby"));
  return { name: named || node.innerText,
    map: node.closest("#map") !== null, outline: outlineStyle === "none" ? 0 : parseFloat(outlineWidth),
    seen: top < innerHeight && bottom > 0 && (under === node || node.contains(under)) };
}
"""


def tab_through(seen: Visit, key: str, number: int) -> list[dict[str, Any]]:
    """Press `key` so often; who had the focus."""
    stops = []
    for _ in range(number):
        seen.page.keyboard.press(key)
        stops.append(seen.run(FOCUSED))
    assert all(stops), "the focus has left the page"
    return stops


def check_keyboard(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        number = seen.run(f"() => ({FOCUSABLE})().length")
        names = [*names_shown(seen), "more"]
        gone, slow = ([row[0] for row in rows(seen, table)] for table in ("#evictions", "#slowest"))
        stops = tab_through(seen, "Tab", number)
        seen.page.keyboard.press("Tab")
        assert seen.run(FOCUSED) is None, "behind the last one the page ends"
        expected = [
            "pause", "hits", "search", "files-title", *SORTS, *names, "latency-title", "slowest-title", *slow,
            "evictions-title", *gone, "cache", "statistics", "evictions", "metrics", "OpenAPI", "files",
        ]  # fmt: skip
        same([stop["name"] for stop in stops], expected)
        assert not any(stop["map"] for stop in stops)
        assert all(stop["outline"] >= 2 for stop in stops), "who has the focus shows it"
        assert all(stop["seen"] for stop in stops), [stop for stop in stops if not stop["seen"]]
        back = tab_through(seen, "Shift+Tab", number)
        same([stop["name"] for stop in back], expected[::-1])
        assert all(stop["seen"] for stop in back), [stop for stop in back if not stop["seen"]]

        seen.all("[data-sort=name]").focus()
        seen.page.keyboard.press("Enter")
        shown = names_shown(seen)
        same(shown, sorted(shown))
        seen.page.keyboard.press("Space")
        assert names_shown(seen) != shown
        assert seen.all("th[aria-sort=descending] button").get_attribute("data-sort") == "name"
        seen.all("input[value=hits]").focus()
        seen.page.keyboard.press("ArrowRight")
        assert seen.all("input[value=recency]").is_checked()
        seen.all("#more").focus()
        seen.page.keyboard.press("Enter")
        same(len(names_shown(seen)), len(listed(url)))


def check_focus_stays(url: str) -> None:
    """Whoever is at a file's link stays there while other files come and go."""
    with visit(url) as seen:
        seen.settle()
        link = seen.all(f"{ROWS} a").nth(5)
        link.focus()
        name = link.inner_text()
        tell("ask for a larger file")
        seen.wait_for_news()
        seen.settle()
        assert int(seen.value("entries")) > 0
        same(seen.run("() => document.activeElement.innerText"), name)
        seen.all("#search").focus()
        seen.wait_for_news()
        same(seen.all(f"{ROWS} a").first.inner_text(), "larger")


def accessible(seen: Visit) -> list[tuple[str, str, str]]:
    """What a screen reader gets: (role, name, description) of everything."""
    tree = seen.page.context.new_cdp_session(seen.page).send("Accessibility.getFullAXTree")
    return [
        tuple(node.get(part, {}).get("value", "") for part in ("role", "name", "description"))
        for node in tree["nodes"]
        if not node["ignored"]
    ]


def check_accessibility(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        nodes = accessible(seen)
        for role, name, _ in nodes:
            if role in {"button", "link", "columnheader", "image", "searchbox", "radio", "region", "table"}:
                assert name, (role, [node for node in nodes if node[0] == role])
        entries = listed(url)
        total = size_text(sum(entry["size"] for entry in entries))
        assert ("image", "The cache", f"{len(entries)} files in {total}.") in nodes
        assert sum(role == "image" for role, *_ in nodes) == 6  # budget, map, four charts
        links = [name for role, name, _ in nodes if role == "link"]
        in_tables = [row[0] for table in ("#files", "#slowest", "#evictions") for row in rows(seen, table)]
        footer = ["cache", "statistics", "evictions", "metrics", "OpenAPI", "files"]
        same(sorted(links), sorted(in_tables + footer))  # none for the boxes of the map
        assert {name for role, name, _ in nodes if role == "radio"} == {"hits", "last use"}
        assert ("searchbox", "Search", "") in nodes
        assert ("group", "Colour by", "") in nodes
        assert sum(role == "table" for role, *_ in nodes) == len(seen.all("table:visible").all())
        headings = [name for role, name, _ in nodes if role == "heading"]
        assert headings[:2] == [f"gserver {urlsplit(url).netloc}", "Memory"]
        regions = [name for role, name, _ in nodes if role == "region"]
        same(sorted(regions), sorted(headings[1:]))
        same(sum(role in {"main", "banner", "contentinfo"} for role, *_ in nodes), 3)
        state = seen.all("#state")
        assert (state.get_attribute("role"), state.inner_text()) == ("status", "live")
        assert sum(role == "status" for role, *_ in nodes) >= 1
        assert seen.run("() => document.documentElement.lang") == "en"
        same(seen.page.title(), f"gserver {urlsplit(url).netloc}")


# How it looks.

LIGHT = """
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [red, green, blue] = rgba(colour).slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
"""
"""WCAG 2.2: how much lighter one colour is than another."""

EDGES = f"""
() => {{{LIGHT}
  const page = getComputedStyle(document.body).backgroundColor;
  const nodes = Array.from(document.querySelectorAll("#search, #more"));
  return nodes.map((node) => contrast(getComputedStyle(node).borderColor, page));
}}
"""

CONTRASTS = (
    "() => {"
    + LIGHT
    + """
  const backgrounds = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const { backgroundColor, backgroundImage } = getComputedStyle(at);
      if (backgroundImage !== "none") return backgroundImage.match(/(rgb|color|oklab)a?\\([^)]*\\)/g);
      if (rgba(backgroundColor)[3] === 255) return [backgroundColor];
    }
    return ["white"];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const says = Array.from(node.childNodes).some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!says || !node.checkVisibility() || node.closest("script, style, noscript")) continue;
    const { id = "" } = node.closest("[id]") ?? {};
    for (const background of backgrounds(node)) {
      found.push([contrast(getComputedStyle(node).color, background), id, node.innerText.slice(0, 40)]);
    }
  }
  return found;
}
"""
)


def check_colours(url: str) -> None:
    backgrounds, hottest = set(), set()
    for scheme in ("light", "dark"):
        with visit(url, color_scheme=scheme) as seen:
            seen.settle()
            seen.page.click("#pause")  # the next snapshot would set the colours again
            seen.all("#map a").first.hover()
            assert min(seen.run(EDGES)) >= 3
            backgrounds.add(seen.run("() => getComputedStyle(document.body).backgroundColor"))
            for choice in ("hits", "recency"):
                seen.all(f"input[value={choice}]").check()
                # The lightest and the darkest of the map must be readable whatever is in them.
                for heat in (0, 25, 50, 75, 100):
                    box = seen.all("#map a:not(.others)").first
                    box.evaluate("(box, heat) => box.style.setProperty('--heat', `${heat}%`)", heat)
                    hottest.add(
                        seen.run("() => getComputedStyle(document.querySelector('#map a')).backgroundColor")
                    )
                    found = seen.run(CONTRASTS)
                    places = {place for _, place, _ in found}
                    assert {"map", "state", "files", "evictions", "map-said", "what-if"} <= places
                    bad = [one for one in found if one[0] < 4.5]
                    assert not bad, (scheme, bad[:5])
    same(len(backgrounds), 2)
    same(len(hottest), 10)


def check_phone(url: str) -> None:
    for width in (360, 320):
        with visit(url, viewport={"width": width, "height": 740}, is_mobile=True, has_touch=True) as seen:
            seen.settle()
            for _ in range(2):
                assert seen.run("() => [document.documentElement.scrollWidth, innerWidth]") == [width, width]
                seen.all("#more").click() if seen.all("#more").is_visible() else None
                seen.all("#search").fill("x")
            boxes = seen.run(BOXES)
            assert boxes
            assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)


def check_touch(url: str) -> None:
    """A finger cannot hover: its first tap tells, the second one downloads."""
    with visit(url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True) as seen:
        seen.settle()
        seen.page.on("download", lambda download: downloads.append(download.suggested_filename))
        downloads: list[str] = []
        box = seen.all("#map a").first
        name = name_of(box.get_attribute("href") or "")
        box.tap()
        same(seen.text("#tip").split("\n")[0], name)
        seen.wait_for_news()
        assert not downloads
        with seen.page.expect_download() as downloading:
            box.tap()
        same(downloading.value.suggested_filename, name.split("/")[-1])
        seen.all("h1").tap()
        assert not seen.all("#tip").is_visible()


# What must not happen.


def as_read(name: str) -> str:
    """A name without what would move a terminal or turn the direction of writing."""
    return re.sub("[\u0080-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "\ufffd", name)


def check_hostile(url: str) -> None:
    with visit(url) as seen:
        seen.settle()
        entries = {as_read(entry["name"]) for entry in listed(url)}
        shown = names_shown(seen)
        same(sorted(shown), sorted(entries))
        gone = [row[0] for row in rows(seen, "#evictions")]
        assert {row[4] for row in rows(seen, "#evictions")} & entries
        script = (
            "(where) => Promise.all(Array.from(document.querySelectorAll(where + ' a'), async (link) => "
            "[link.textContent, await (await fetch(link.href)).text()]))"
        )
        for where in ("#files tbody", "#evictions tbody"):
            found = seen.run(script, where)
            assert found
            assert [text for text, _ in found] == (shown if "files" in where else gone)
            assert all(as_read(content).startswith(f"{text}\n") for text, content in found)
        seen.settle()
        for box in seen.all("#map a").all():
            link = box.get_attribute("href") or ""
            same(
                seen.run("async (link) => (await (await fetch(link)).text()).split('\\n')[0]", link), name_of(link)
            )
            box.hover()
            same(seen.text("#tip").split("\n")[0], as_read(name_of(link)))
        same(seen.all("script").count(), 1)
        same(seen.all("style").count(), 1)
        attributes = seen.run(
            "() => [...new Set([...document.querySelectorAll('*')].flatMap((node) => node.getAttributeNames()))]"
        )
        assert not [name for name in attributes if name.startswith("on")]
        tags = set(seen.run("() => [...document.querySelectorAll('body *')].map((node) => node.localName)"))
        assert not tags & {"img", "iframe", "object", "embed", "form", "base", "meta"}


VIOLATIONS = """
async (elsewhere) => {
  const found = [];
  document.addEventListener("securitypolicyviolation", (event) => found.push(event.effectiveDirective));
  const make = (tag, properties) => document.body.append(Object.assign(document.createElement(tag), properties));
  make("script", { textContent: "window.ran = 'inline'" });
  make("script", { src: "/script.js" });
  make("style", { textContent: "body { display: none }" });
  make("img", { src: elsewhere });
  make("iframe", { src: "/" });
  make("link", { rel: "stylesheet", href: "/style.css" });
  const button = document.createElement("button");
  button.setAttribute("onclick", "window.ran = 'handler'");
  document.body.append(button);
  button.click();
  try { setTimeout("window.ran = 'string'"); } catch { }
  await fetch(elsewhere).catch(() => found.push("no fetch"));
  await new Promise((done) => setTimeout(done, 300));
  return { found: found.sort(), ran: window.ran ?? null, shown: document.body.checkVisibility() };
}
"""


def check_policy(url: str, elsewhere: str) -> None:
    allowed = f"Content Security Policy|Fetch API cannot load|another origin: {elsewhere}"
    with visit(url, allowed=allowed) as seen:
        happened = seen.run(VIOLATIONS, f"{elsewhere}/")
        same([happened["ran"], happened["shown"]], [None, True])
        assert set(happened["found"]) == {
            "connect-src", "frame-src", "img-src", "no fetch",
            "script-src", "script-src-attr", "script-src-elem", "style-src-elem",
        }  # fmt: skip
        same([each for each in stats(url)["requests"] if each["status"] == 404 and each["count"] > 0], [])
        policy = seen.run("async () => (await fetch('/-/')).headers.get('content-security-policy')")
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


# Sixty thousand.


def check_many(url: str, picture: str) -> None:
    with visit(url) as seen:
        seen.settle()
        entries = listed(url)
        others = entries[IN_THE_MAP:]
        total, rest = (size_text(sum(entry["size"] for entry in some)) for some in (entries, others))
        assert len(others) > 50_000
        same(seen.value("entries"), str(len(entries)))
        largest, count = f"the {IN_THE_MAP:,} largest", f"{len(others):,} others"
        assert seen.text("#map-said") == f"{len(entries):,} files in {total}: {largest}, and {count} together."
        same(seen.text("#files-said"), f"{largest}; {count}, {rest}, are only in the list as text")
        look_at_the_map(seen)
        seen.all("#map a.others").hover()
        same(seen.text("#tip").split("\n"), [count, rest])
        seen.all("h1").hover()
        for scheme in ("dark", "light"):
            seen.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            assert min(contrast for contrast, _, _ in seen.run(CONTRASTS)) >= 4.5, scheme
        seen.all("#more").click()
        same(names_shown(seen), [entry["name"] for entry in entries[:IN_THE_MAP]])
        seen.all("#search").fill("large")
        seen.wait_for_news()
        assert seen.run("() => 6 * 7") == 42
        seen.all("#search").fill("")
        seen.run("() => scrollTo(0, 0)")
        seen.page.screenshot(path=picture)
        same(seen.text("#state"), "live")


# Pictures.


def check_pictures(url: str, folder: str) -> None:
    """Of a server under load: as the README shows it, and the whole page for those who look after it."""
    for name, options in (
        ("dashboard", {"color_scheme": "light"}),
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}),
    ):
        with visit(url, **options) as seen:
            seen.wait("() => Number(document.querySelector('[data-stat=uptime_s]').dataset.value) >= 20")
            seen.wait("(nothing) => document.querySelector('#chart-ratio b').innerText !== nothing", NOTHING)
            seen.page.screenshot(path=f"{folder}/{name}.png", full_page=name != "dashboard")


def check_empty_picture(url: str, folder: str) -> None:
    with visit(url) as seen:
        seen.settle()
        seen.page.screenshot(path=f"{folder}/empty.png", full_page=True)


CHECKS: dict[str, Callable[..., None]] = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
