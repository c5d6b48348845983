"""`/-/evictions`: who went for whom, and why; and that every policy starts, serves and evicts."""

import hashlib
import http.client
import json
import random
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fileserver.about import documents
from fileserver.replies import Reply
from fileserver.tokens import Tokens
from fileserver.wire import Request, RequestReader
from lrucache import POLICIES, Eviction
from lrucache.cache import EVICTIONS_KEPT
from tests.house import House, pattern
from tests.program import Program
from tests.test_cache import RULES
from tests.test_pages import NASTY

KEYS = ["name", "size", "hits", "age_s", "ago_s", "newcomer", "rule"]


def eviction(
    name: str = "a", *, size: int = 7, hits: int = 0, age_s: float = 1.0, when_s: float = 100.0
) -> Eviction:
    return Eviction(name, size, hits, age_s, "new", "least recently used", when_s)


def in_json(evictions: list[Eviction], now_s: float) -> list[dict[str, Any]]:
    document = json.loads(b"".join(documents.evictions_json(evictions, now_s)))
    assert list(document) == ["evictions"]
    listed: list[dict[str, Any]] = document["evictions"]
    return listed


def in_text(evictions: list[Eviction], now_s: float) -> list[str]:
    text = b"".join(documents.evictions_text(evictions, now_s)).decode()
    assert text.endswith("\n") or not text
    return text.split("\n")[:-1]


# The pages, pure.


def test_in_json_an_eviction_has_the_documented_keys() -> None:
    listed = in_json([Eviction("a", 7, 3, 10.12345, "new", "large enough", 98.0)], 100.00049)
    assert listed == [
        {
            "name": "a",
            "size": 7,
            "hits": 3,
            "age_s": 10.123,
            "ago_s": 2.0,
            "newcomer": "new",
            "rule": "large enough",
        }
    ]
    assert list(listed[0]) == KEYS


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (eviction(), "0.5 s ago: a (7 B, 0 hits in 1.0 s) for new: least recently used"),
        (eviction(hits=1), "0.5 s ago: a (7 B, 1 hit in 1.0 s) for new: least recently used"),
        (eviction(hits=2), "0.5 s ago: a (7 B, 2 hits in 1.0 s) for new: least recently used"),
        (eviction(size=3 << 20), "0.5 s ago: a (3 MiB, 0 hits in 1.0 s) for new: least recently used"),
        (eviction(age_s=3600.04), "0.5 s ago: a (7 B, 0 hits in 3600.0 s) for new: least recently used"),
        (eviction(when_s=0), "100.5 s ago: a (7 B, 0 hits in 1.0 s) for new: least recently used"),
    ],
)
def test_in_text_an_eviction_is_a_line(given: Eviction, line: str) -> None:
    assert in_text([given], 100.5) == [line]


def test_nothing_was_evicted() -> None:
    assert in_json([], 0.0) == []
    assert in_text([], 0.0) == []


@pytest.mark.parametrize("name", NASTY)
def test_nasty_names_are_said_as_they_are(name: str) -> None:
    evictions = [Eviction(name, 7, 0, 1.0, f"new {name}", "worth least", 99.0), eviction()]
    assert [(one["name"], one["newcomer"]) for one in in_json(evictions, 100.0)] == [
        (name, f"new {name}"),
        ("a", "new"),
    ]
    assert in_text(evictions, 100.0)[0] == f"1.0 s ago: {name} (7 B, 0 hits in 1.0 s) for new {name}: worth least"


def test_both_pages_keep_the_order_they_are_given() -> None:
    evictions = [eviction(str(at)) for at in range(EVICTIONS_KEPT)]
    names = [one.name for one in evictions]
    assert [one["name"] for one in in_json(evictions, 100.0)] == names
    assert [line.split()[3] for line in in_text(evictions, 100.0)] == names


# The pages, asked for.


def answer(house: House, first_line: bytes, *lines: bytes) -> Reply:
    """The site's answer to a request as it comes off the wire."""
    reader = RequestReader()
    reader.feed(b"\r\n".join((first_line + b" HTTP/1.1", b"Host: x", *lines, b"", b"")))
    request = reader.next()
    assert isinstance(request, Request)
    reader.close()
    return house.site.answer(request)


def listed(house: House) -> list[dict[str, Any]]:
    """The page in JSON."""
    document = json.loads(answer(house, b"GET /-/evictions?format=json").content)
    evictions: list[dict[str, Any]] = document["evictions"]
    return evictions


@pytest.fixture
def house_folder(folder: Path) -> Path:
    """Three files: a cache of 100 bytes has to let one go for the next."""
    for name, size in (("small", 20), ("large", 80), ("new", 30), ("whole", 100)):
        (folder / name).write_bytes(pattern(size))
    return folder


def test_the_page_tells_what_happened(house_folder: Path, io: str) -> None:
    with House(house_folder, io=io, capacity=100) as house:
        assert listed(house) == []
        assert answer(house, b"GET /-/evictions").content == b""
        house.fetch("small")
        house.clock.now_s += 0.25
        house.fetch("large")
        house.fetch("large")
        house.clock.now_s += 0.5
        house.fetch("new")
        house.clock.now_s += 0.125
        house.fetch("whole")
        house.clock.now_s += 8
        common = {"hits": 0, "newcomer": "whole", "ago_s": 8.0, "rule": "least recently used"}
        assert listed(house) == [
            {"name": "new", "size": 30, "age_s": 0.125, **common},
            {"name": "small", "size": 20, "age_s": 0.875, **common},
            {
                "name": "large",
                "size": 80,
                "hits": 1,
                "age_s": 0.5,
                "ago_s": 8.125,
                "newcomer": "new",
                "rule": "large enough",
            },
        ]
        assert answer(house, b"GET /-/evictions").content.decode().splitlines() == [
            "8.0 s ago: new (30 B, 0 hits in 0.1 s) for whole: least recently used",
            "8.0 s ago: small (20 B, 0 hits in 0.9 s) for whole: least recently used",
            "8.1 s ago: large (80 B, 1 hit in 0.5 s) for new: large enough",
        ]


@pytest.mark.parametrize(
    ("target", "accept", "is_json"),
    [
        (b"/-/evictions", b"", False),
        (b"/-/evictions", b"Accept: */*", False),
        (b"/-/evictions", b"Accept: text/html,application/xhtml+xml,*/*;q=0.8", False),
        (b"/-/evictions", b"Accept: application/json", True),
        (b"/-/evictions?format=json", b"", True),
        (b"/-/evictions?x=y&format=json", b"Accept: text/plain", True),
        (b"/-/evictions?format=text", b"", False),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_the_page_is_text_unless_json_is_wanted(
    house_folder: Path, method: bytes, target: bytes, accept: bytes, is_json: bool
) -> None:
    with House(house_folder, capacity=100) as house:
        house.fetch("whole")
        house.fetch("new")
        reply = answer(house, method + b" " + target, *([accept] if accept else []))
        assert reply.status == 200
        assert (b"Content-Type: application/json" in reply.fields) is is_json
        assert (b"Content-Type: text/plain; charset=utf-8" in reply.fields) is not is_json
        assert b"Vary: Accept\r\n" in reply.fields
        assert reply.content.startswith(b'{"evictions": [{"name": "whole"') is is_json


def test_a_page_about_evictions_counts_as_no_answer_and_changes_nothing(house_folder: Path) -> None:
    with House(house_folder, capacity=100) as house:
        house.fetch("whole")
        house.fetch("new")
        before = house.cache.stats()
        for _ in range(3):
            assert len(listed(house)) == 1
        assert house.cache.stats() == before
        assert house.site.traffic.file_answers == 0


@pytest.mark.parametrize("target", [b"/-/evictions/", b"/-/eviction", b"/-/evictions/a", b"/-/Evictions"])
def test_nothing_beside_it_is_the_page(house_folder: Path, target: bytes) -> None:
    with House(house_folder) as house:
        assert answer(house, b"GET " + target).status == 404


@pytest.mark.parametrize("target", [b"/-/evictions", b"/-/evictions?format=json"])
def test_where_tokens_are_asked_for_the_page_needs_one(house_folder: Path, target: bytes) -> None:
    with House(house_folder, capacity=100, tokens=Tokens([b"secret"])) as house:
        house.fetch("whole")
        house.fetch("new")
        refused = answer(house, b"GET " + target)
        assert (refused.status, b"whole" in refused.content) == (401, False)
        assert answer(house, b"GET " + target, b"Authorization: Bearer other").status == 401
        shown = answer(house, b"GET " + target, b"Authorization: Bearer secret")
        assert (shown.status, b"whole" in shown.content) == (200, True)


def test_the_page_shows_the_latest_thousand(house_folder: Path) -> None:
    with House(house_folder, capacity=1) as house:
        for at in range(EVICTIONS_KEPT + 50):
            house.cache.put(str(at), b"x", None)
        evictions = listed(house)
        assert [one["name"] for one in evictions] == [str(at) for at in range(EVICTIONS_KEPT + 48, 48, -1)]
        lines = answer(house, b"GET /-/evictions").content.decode().splitlines()
        assert [line.split()[3] for line in lines] == [one["name"] for one in evictions]


def test_no_time_in_json_is_negative() -> None:
    (one,) = in_json([eviction(when_s=100.001)], 100.0)
    assert one["ago_s"] == 0


def test_an_invalidated_file_is_not_on_the_page(house_folder: Path) -> None:
    with House(house_folder) as house:
        house.fetch("small")
        house.replace("small", b"another")
        house.clock.now_s += 5
        assert house.fetch("small") == ("miss", b"another")
        assert listed(house) == []


@pytest.mark.parametrize("name", ["a b", "ä€😀", "100%", "<b>", 'quo"te', "back\\slash", "a:b (c) for d"])
def test_odd_names_come_through_whole(folder: Path, name: str) -> None:
    with House(folder, capacity=10) as house:
        house.write(name, bytes(10))
        house.write("new", bytes(9))
        house.fetch(name)
        house.fetch("new")
        assert listed(house)[0]["name"] == name
        text = answer(house, b"GET /-/evictions").content.decode()
        assert text == f"0.0 s ago: {name} (10 B, 0 hits in 0.0 s) for new: large enough\n"


# Whole program: every policy starts, serves and evicts.


class Files:
    """Many small files and some larger ones, more than twice what the cache holds, and their digests."""

    CAPACITY = 512 * 1024

    def __init__(self, folder: Path) -> None:
        chance = random.Random(11)
        self.digests: dict[str, bytes] = {}
        for at in range(120):
            name, size = f"f {at}%", chance.choice([0, 1, 700, 5000, 9000, 20_000, 60_000])
            content = pattern(size, seed=at)
            (folder / name).write_bytes(content)
            self.digests[name] = hashlib.sha256(content).digest()

    def asked(self, requests: int, seed: int) -> list[str]:
        """Names, the first of them more often than the last."""
        chance = random.Random(seed)
        names = list(self.digests)
        return [names[int(len(names) * chance.random() ** 2)] for _ in range(requests)]


def keep_asking(server: Program, names: list[str], right: dict[str, bytes], wrong: list[str]) -> None:
    """GET one after the other on one connection; who comes with other bytes is noted in `wrong`."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        for name in names:
            connection.request("GET", "/" + quote(name))
            response = connection.getresponse()
            if hashlib.sha256(response.read()).digest() != right[name] or response.status != 200:
                wrong.append(name)
    finally:
        connection.close()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_starts_serves_and_evicts_within_the_budget(folder: Path, policy: str) -> None:
    files = Files(folder)
    wrong: list[str] = []
    with Program(folder, "--policy", policy, "--cache", str(files.CAPACITY), "--revalidate", "60") as server:
        assert f"512 KiB cache, {policy};" in server.start_line
        clients = [
            threading.Thread(target=keep_asking, args=(server, files.asked(250, seed), files.digests, wrong))
            for seed in range(4)
        ]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            stats = server.stats()
            assert stats["cached"] + stats["filling"] <= stats["capacity"] == files.CAPACITY
        for client in clients:
            client.join()
        assert wrong == []
        stats = server.stats()
        evictions = json.loads(server.get("/-/evictions?format=json")[2])["evictions"]
        lines = server.get("/-/evictions")[2].decode().splitlines()
    assert (stats["violations"], stats["filling"]) == (0, 0)
    assert stats["cached"] <= stats["peak"] <= files.CAPACITY
    assert stats["hits"] + stats["misses"] + stats["coalesced"] + stats["bypasses"] == 1000
    assert stats["hits"] > 100
    assert stats["evictions"] > 20
    assert len(evictions) == len(lines) == min(stats["evictions"], EVICTIONS_KEPT)
    rules = RULES[policy] | ({"least recently used"} if policy == "relocate" else set())
    assert {one["rule"] for one in evictions} <= rules
    for one in evictions:
        assert one["size"] == (folder / one["name"]).stat().st_size
        assert one["newcomer"] in files.digests
    agos = [one["ago_s"] for one in evictions]
    assert agos == sorted(agos)


def test_relocate_is_what_a_server_without_the_option_runs(folder: Path) -> None:
    for name, size in (("small", 20), ("large", 80), ("new", 30)):
        (folder / name).write_bytes(bytes(size))
    with Program(folder, "--cache", "100") as server:
        for name in ("small", "large", "new"):
            assert server.get(f"/{name}")[0] == 200
        (one,) = json.loads(server.get("/-/evictions", Accept="application/json")[2])["evictions"]
        assert server.get("/-/evictions", "HEAD")[0] == 200
        assert server.get("/-/evictions", "HEAD")[2] == b""
        assert server.get("/-/evictions", "POST")[0] == 405
    assert (one["name"], one["newcomer"], one["rule"]) == ("large", "new", "large enough")
