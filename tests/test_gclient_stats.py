"""`gclient.py HOST PORT stats` and `list`: tables for people that agree with the counters and the cache, `--json`
for programs, and what a terminal gets of it. Against the real server, and against servers that answer something
else."""

import copy
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.clients import BUFFERED, OnATerminal, address, command, error_line
from tests.misbehaving import GIVE_UP_S, Misbehaving, head, says
from tests.program import Program, gclient, sparse

NOT_COUNTERS = "the answer is not the counters of a gserver"
NOT_A_LIST = "the answer is not the list of a gserver"
NOT_JSON = "the answer is not JSON"
TOKEN = "mF_9.B5f-4.1JqM"

UNITS: dict[str, float] = {
    unit: 1 << 10 * power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
}
UNITS |= {"ms": 1e-3, "s": 1.0, "min": 60, "h": 3600}
PERCENTILES = ("p50", "p90", "p99", "p99.9")

Table = dict[str, str]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A server that has hit, missed, bypassed, evicted and said no, and is only asked about itself from now on."""
    folder = tmp_path_factory.mktemp("served")
    for number in range(8):
        sparse(folder / f"f{number}", 300_000)
    sparse(folder / "huge", 5 << 20)
    with Program(folder, "--cache", "1MiB") as server:
        for name in ["f0"] * 30 + [f"f{number}" for number in range(8)] + ["huge", "missing"]:
            server.get(f"/{name}")
        yield server


@pytest.fixture(scope="module")
def counters(busy: Program) -> dict[str, Any]:
    """What such a server says of itself."""
    return busy.stats()


def as_json(stats: object) -> bytes:
    """The whole answer of a server that says this."""
    content = json.dumps(stats).encode()
    return head(len(content), content_type="application/json") + content


def printed(*arguments: str) -> str:
    """What `stats` prints where all is well."""
    result = gclient(*arguments, "stats")
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode()


def shown(stats: object) -> tuple[Table, dict[str, list[str]]]:
    """The two tables that are printed of these counters."""
    with Misbehaving(says(as_json(stats))) as fake:
        return tables(printed(*fake.address))


def tables(text: str) -> tuple[Table, dict[str, list[str]]]:
    """The counters by name; and by class of answers, how many there were and their four percentiles."""
    assert text.endswith("\n")
    assert text.replace("\n", "").isprintable()
    upper, _, lower = text.removesuffix("\n").partition("\n\n")
    first = {line[:12].strip(): line[13:] for line in upper.split("\n")}
    assert len(first) == len(upper.split("\n"))
    second = {}
    if lower:
        heading, *lines = lower.split("\n")
        assert heading.split() == ["latency", "answers", *PERCENTILES]
        for line in lines:
            assert len(line) == len(heading)
            name = re.match(r"\w+(?: 1st byte)?(?= )", line)
            assert name is not None
            times = [line[-width : 10 - width or None].strip() for width in (40, 30, 20, 10)]
            second[name[0]] = [line[name.end() : -40].strip(), *times]
    return first, second


def value(text: str) -> float:
    """The number at the beginning of a text, commas left out, in bytes or seconds if it has a unit."""
    number, _, rest = text.partition(" ")
    unit = re.match(r"[A-Za-z]+", rest)
    return float(number.replace(",", "")) * (UNITS.get(unit[0], 1) if unit else 1)


def about(number: float) -> Any:
    """The same to three digits."""
    return pytest.approx(number, rel=6e-3)


# The table.


def test_the_table_says_what_the_counters_say(counters: dict[str, Any]) -> None:
    rows, _ = shown(counters)
    assert list(rows) == [
        "up for", "cached", "filling", "answers", "hits", "misses", "coalesced", "bypasses", "evictions",
        "disk reads", "connections", "memory", "loop",
    ]  # fmt: skip
    total = 30 + 8 + 1
    assert counters["file_answers"] == total
    assert (counters["hits"], counters["misses"], counters["bypasses"]) == (30, 8, 1)
    assert value(rows["up for"]) == about(counters["uptime_s"])
    assert value(rows["cached"]) == about(counters["cached"])
    assert rows["cached"].endswith(f" of 1 MiB in {counters['entries']} files")
    assert rows["filling"].startswith("0 B, peak of both ")
    assert value(rows["filling"].removeprefix("0 B, peak of both ")) == about(counters["peak"])
    assert rows["answers"].startswith(f"{total} with a file, ")
    assert rows["answers"].endswith(" sent")
    assert value(rows["answers"].removeprefix(f"{total} with a file, ")) == about(counters["bytes_sent"])
    assert rows["hits"] == "30 (76.9%)"
    assert rows["misses"] == "8 (20.5%)"
    assert rows["coalesced"] == "0 (0.0%)"
    assert rows["bypasses"] == "1 (2.6%)"
    assert rows["evictions"] == str(counters["evictions"]) != "0"
    reads = [counters["disk_reads_inline"], counters["disk_reads_pool"]]
    assert rows["disk reads"] == "{} inline, {} in threads".format(*reads)
    assert rows["connections"] == "1, 0 of them idle"
    assert value(rows["memory"]) == about(counters["rss_bytes"])
    late, _, stalls = rows["loop"].partition(" late at worst lately, ")
    assert value(late) == about(counters["loop_lag"]["worst_s"])
    assert stalls == f"{counters['loop_lag']['stalls']} stalls"


def test_the_table_has_the_percentiles_of_what_was_answered(counters: dict[str, Any]) -> None:
    _, latency = shown(counters)
    classes = [name for name, times in counters["latency"].items() if times["total_s"]["count"]]
    assert classes == ["hit", "miss", "bypass", "none"]
    assert list(latency) == [name + part for name in classes for part in ("", " 1st byte")]
    for name in classes:
        for part, key in (("", "total_s"), (" 1st byte", "first_byte_s")):
            times = counters["latency"][name][key]
            count, *percentiles = latency[name + part]
            assert int(count) == times["count"] > 0
            assert [value(each) for each in percentiles] == [about(times[name]) for name in PERCENTILES]


def test_the_table_of_a_real_server_agrees_with_its_json(busy: Program) -> None:
    before, (rows, latency), after = busy.stats(), tables(printed(*address(busy))), busy.stats()
    for key in ("hits", "misses", "coalesced", "bypasses"):
        assert value(rows[key]) == before[key] == after[key]
    assert value(rows["answers"]) == before["file_answers"]
    assert value(rows["cached"]) == about(before["cached"])
    assert value(rows["evictions"]) == before["evictions"]
    assert 0 < before["uptime_s"] <= value(rows["up for"]) * 1.006
    assert value(rows["up for"]) <= after["uptime_s"] * 1.006
    for name in ("hit", "miss", "bypass"):
        assert int(latency[name][0]) == before["latency"][name]["total_s"]["count"]
    counts = [each["latency"]["none"]["total_s"]["count"] for each in (before, after)]
    assert counts[0] < int(latency["none"][0]) < counts[1]


def test_without_traffic_there_are_no_shares_and_no_percentiles(folder: Path) -> None:
    with Program(folder) as server:
        rows, latency = tables(printed(*address(server)))
    assert rows["cached"] == "0 B of 64 MiB in 0 files"
    assert rows["answers"] == "0 with a file, 0 B sent"
    assert [rows[key] for key in ("hits", "misses", "coalesced", "bypasses", "evictions")] == ["0"] * 5
    assert latency == {}


def changed(stats: dict[str, Any], path: str, new: object) -> dict[str, Any]:
    """The counters with this one, `a.b.c`, replaced."""
    stats = copy.deepcopy(stats)
    *outer, last = path.split(".", 2)
    inner = stats
    for key in outer:
        inner = inner[key]
    inner[last] = new
    return stats


@pytest.mark.parametrize(
    ("path", "new", "row", "text"),
    [
        ("cached", 0, "cached", "0 B of "),
        ("cached", 999, "cached", "999 B of "),
        ("cached", 1023, "cached", "1023 B of "),
        ("cached", 1024, "cached", "1 KiB of "),
        ("cached", 1536, "cached", "1.5 KiB of "),
        ("cached", 1023 << 10, "cached", "0.999 MiB of "),
        ("cached", 64 << 20, "cached", "64 MiB of "),
        ("cached", 3 << 40, "cached", "3 TiB of "),
        ("entries", 65536, "cached", "65,536 files"),
        ("filling", 2048, "filling", "2 KiB, peak"),
        ("evictions", 1234567, "evictions", "1,234,567"),
        ("connections", 16384, "connections", "16,384, "),
        ("connections_idle", 16000, "connections", ", 16,000 of them idle"),
        ("disk_reads_inline", 1000, "disk reads", "1,000 inline, "),
        ("disk_reads_pool", 2000, "disk reads", ", 2,000 in threads"),
        ("rss_bytes", None, "memory", "unknown"),
        ("rss_bytes", 1 << 30, "memory", "1 GiB"),
        ("uptime_s", 0.25, "up for", "250 ms"),
        ("uptime_s", 1, "up for", "1 s"),
        ("uptime_s", 119, "up for", "119 s"),
        ("uptime_s", 120, "up for", "2 min"),
        ("uptime_s", 7199, "up for", "120 min"),
        ("uptime_s", 7200, "up for", "2 h"),
        ("uptime_s", 864000, "up for", "240 h"),
        ("uptime_s", None, "up for", "-"),
        ("loop_lag", {"worst_s": 1.5, "stalls": 1000}, "loop", "1.5 s late at worst lately, 1,000 stalls"),
    ],
)
def test_numbers_are_for_people(counters: dict[str, Any], path: str, new: object, row: str, text: str) -> None:
    assert text in shown(changed(counters, path, new))[0][row]


@pytest.mark.parametrize("size", [1 << exponent for exponent in range(5, 63, 10)])
def test_a_size_keeps_its_magnitude(counters: dict[str, Any], size: int) -> None:
    assert value(shown(changed(counters, "cached", size))[0]["cached"]) == about(size)


def test_the_columns_line_up_also_with_millions_of_answers(counters: dict[str, Any]) -> None:
    times = {"count": 123_456_789, "p50": 1e-06, "p90": 0.00063, "p99": 123.4, "p99.9": None}
    busy = changed(counters, "latency", {"coalesced": {"first_byte_s": times, "total_s": times}})
    expected = ["123,456,789", "0.001 ms", "0.63 ms", "2 min", "-"]
    assert shown(busy)[1] == {"coalesced": expected, "coalesced 1st byte": expected}


def test_what_an_older_server_does_not_count_is_left_out(counters: dict[str, Any]) -> None:
    new = {"latency", "uptime_s", "loop_lag"}
    rows, latency = shown({key: value for key, value in counters.items() if key not in new})
    assert rows["up for"] == "-"
    assert "loop" not in rows
    assert rows["hits"] == "30 (76.9%)"
    assert latency == {}
    oldest = {
        "cached", "capacity", "entries", "filling", "peak", "hits", "misses", "coalesced", "bypasses", "evictions",
        "disk_reads_inline", "disk_reads_pool", "connections", "connections_idle", "bytes_sent", "rss_bytes",
    }  # fmt: skip
    assert shown({key: counters[key] for key in oldest}) == (rows, latency)


def test_what_a_newer_server_counts_besides_changes_nothing(counters: dict[str, Any]) -> None:
    assert shown(counters | {"novel": {"\x1b[2J": "\x1b[31m"}, "schema": 2}) == shown(counters)


# For programs.


def test_json_is_all_that_the_server_says_in_ascii() -> None:
    content = '{"hits":  1,\r\n\t"ä\x9b": [null, 1e3, -0.5, "\\u001b[2J\\ud800"], "": {}}   \n\n'.encode()
    with Misbehaving(says(head(len(content), content_type="application/json") + content)) as fake:
        result = gclient(*fake.address, "stats", "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()
    assert result.stdout.decode().replace("\n", "").isprintable()
    assert json.loads(result.stdout) == json.loads(content)


def test_json_of_a_real_server_has_the_counters_at_rest(busy: Program) -> None:
    result = gclient(*address(busy), "stats", "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    said, now = json.loads(result.stdout), busy.stats()
    assert said.keys() == now.keys()
    moves = {
        "uptime_s", "bytes_sent", "requests", "latency", "loop_lag", "rss_bytes", "open_fds", "slowest_fills",
        "connections", "connections_idle", "connections_by_state",
    }  # fmt: skip
    assert {key: said[key] for key in said.keys() - moves} == {key: now[key] for key in said.keys() - moves}
    assert result.stdout == json.dumps(said, indent=2).encode() + b"\n"


# Strange answers.

TOO_LARGE_INT = 10**400
WRONG: list[object] = ["x", [], {}, "\x1b[31m"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"ok\n", NOT_JSON),
        (b"<!doctype html><title>Login</title>", NOT_JSON),
        (b"[]", NOT_COUNTERS),
        (b"{}", NOT_COUNTERS),
        (b"null", NOT_COUNTERS),
        (b"0", NOT_COUNTERS),
        (b'"hits"', NOT_COUNTERS),
        (b'[{"hits": 1}]', NOT_COUNTERS),
        (b'{"hits": 1', NOT_JSON),
        (b'{"hits": 1}', NOT_COUNTERS),
        (b'{"hits": 1} {"hits": 2}', NOT_JSON),
        (b"\xff\xfe\xfd", NOT_JSON),
        (b"\x00", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b'{"a":' * 100_000, NOT_JSON),
        (b"1" * 100_000, NOT_JSON),
        (b'{"hits": Infinity, "misses": 0, "coalesced": 0, "bypasses": 0}', NOT_COUNTERS),
    ],
    ids=range(18),
)
def test_what_are_no_counters_exits_8_in_one_line(content: bytes, message: str) -> None:
    with Misbehaving(says(head(len(content)) + content)) as fake:
        assert error_line(*fake.address, "stats") == (8, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"ok\n", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b"[]", NOT_COUNTERS),
        (b"1", NOT_COUNTERS),
    ],
    ids=range(5),
)
def test_json_of_what_are_no_counters_exits_8_too(content: bytes, message: str) -> None:
    with Misbehaving(says(head(len(content)) + content)) as fake:
        assert error_line(*fake.address, "stats", "--json") == (8, message)


@pytest.mark.parametrize(
    "key",
    ["hits", "misses", "coalesced", "bypasses", "cached", "capacity", "entries", "filling", "peak", "bytes_sent",
     "evictions", "disk_reads_inline", "disk_reads_pool", "connections", "connections_idle", "rss_bytes"],
)  # fmt: skip
def test_counters_without_one_that_every_server_has_are_none(counters: dict[str, Any], key: str) -> None:
    with Misbehaving(says(as_json({name: counters[name] for name in counters if name != key}))) as fake:
        assert error_line(*fake.address, "stats") == (8, NOT_COUNTERS)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        *((key, wrong) for key in ("hits", "cached", "rss_bytes") for wrong in WRONG),
        *((key, None) for key in ("hits", "capacity", "entries", "evictions", "connections")),
        *((key, TOO_LARGE_INT) for key in ("bytes_sent", "rss_bytes", "uptime_s")),
        ("entries", "many"),
        ("uptime_s", "long"),
        ("loop_lag", None),
        ("loop_lag", {}),
        ("loop_lag.stalls", "x"),
        ("latency", None),
        ("latency", []),
        ("latency", {"hit": None}),
        ("latency", {"hit": {}}),
        ("latency.hit.total_s", {"count": 1}),
        ("latency.hit.first_byte_s", {"count": 1, "p50": "x", "p90": 1, "p99": 1, "p99.9": 1}),
        ("latency.hit.first_byte_s", {"count": "x", "p50": 1, "p90": 1, "p99": 1, "p99.9": 1}),
        ("latency.hit.first_byte_s", {"count": 1, "p50": TOO_LARGE_INT, "p90": 1, "p99": 1, "p99.9": 1}),
    ],
    ids=lambda each: str(each)[:40].replace("\x1b", "ESC"),
)
def test_a_counter_of_another_kind_exits_8_in_one_line(counters: dict[str, Any], path: str, new: object) -> None:
    with Misbehaving(says(as_json(changed(counters, path, new)))) as fake:
        assert error_line(*fake.address, "stats") == (8, NOT_COUNTERS)


def test_an_answer_of_ten_megabytes_is_not_even_read() -> None:
    """The server promises them and sends none: who waits for them ends with 28."""

    def promise(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(10_000_000))
        gate.wait(GIVE_UP_S)

    with Misbehaving(promise) as fake:
        code, message = error_line(*fake.address, "stats", "--timeout", "5")
    assert (code, message) == (8, "the answer is longer than 1 MiB")


def test_an_answer_that_is_as_long_as_counters_can_be_is_read(counters: dict[str, Any]) -> None:
    content = json.dumps(counters).encode().ljust(1 << 20)
    with Misbehaving(says(head(len(content)) + content)) as fake:
        assert tables(printed(*fake.address)) == shown(counters)
    with Misbehaving(says(head(len(content) + 1) + content + b" ")) as fake:
        assert error_line(*fake.address, "stats") == (8, "the answer is longer than 1 MiB")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_counters_that_were_cut_exit_18(more: tuple[str, ...]) -> None:
    with Misbehaving(says(head(100) + b'{"hits": 1')) as fake:
        code, message = error_line(*fake.address, "stats", *more)
    assert (code, message) == (18, "the transfer was cut, 90 bytes are missing")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_server_that_says_no_is_quoted(more: tuple[str, ...]) -> None:
    words = "statistics are not for strangers (--admin)"
    with Misbehaving(says(head(len(words) + 1, "403 Forbidden") + words.encode() + b"\n")) as fake:
        assert error_line(*fake.address, "stats", *more) == (22, words)


# Where the table goes, and how it comes.


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_closed_standard_output_exits_23(busy: Program, more: tuple[str, ...]) -> None:
    words = command(*address(busy), "stats", *more)
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=BUFFERED,
        timeout=60,
        check=False,
    )
    assert (closed.returncode, closed.stderr) == (23, b"gclient: standard output is closed\n")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_has_left_and_a_full_disk_exit_23(busy: Program, more: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with open("/dev/full", "wb") as full:
            for output, says_why in ((writer, b"Broken pipe"), (full, b"No space left on device")):
                done = subprocess.run(
                    command(*address(busy), "stats", *more),
                    stdout=output,
                    stderr=subprocess.PIPE,
                    env=BUFFERED,
                    timeout=60,
                    check=False,
                )
                assert (done.returncode, done.stderr) == (23, b"gclient: cannot write: " + says_why + b"\n")
    finally:
        os.close(writer)


def test_stats_come_over_tls_and_with_a_token(folder: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    token = ("--token-file", str(tmp_path / "tokens"))
    tls = ("--tls", "--ca", str(tmp_path / "ca.pem"))
    with Program(folder, "--tls-cert", str(tmp_path / "server.pem"), *token) as server:
        assert tables(printed(*address(server), *tls, *token))[0]["answers"].startswith("0 with a file, ")
        said = gclient(*address(server), "stats", "--json", *tls, *token)
        assert json.loads(said.stdout)["capacity"] == 64 << 20
        for more in ((), ("--json",)):
            refused = error_line(*address(server), "stats", *more, *tls)
            assert refused == (22, "a valid token is needed")


# The list.


def entry(name: str = "x", **fields: object) -> dict[str, object]:
    """A file in the cache as a server says it."""
    return {"name": name, "size": 1, "hits": 0, "age_s": 0.5, "idle_s": 0.5, "readers": 0} | fields


def listed(*entries: object) -> bytes:
    """The whole answer of a server that lists these."""
    return as_json({"stats": {}, "entries": entries})


def test_the_list_of_a_real_server_is_told_in_three_ways(folder: Path) -> None:
    for number, name in enumerate(("one", "two words", "ü", "sub/low")):
        (folder / name).parent.mkdir(exist_ok=True)
        sparse(folder / name, number * 1024)
    with Program(folder) as server:
        for more in ((), ("--long",), ("--json",)):
            assert gclient(*address(server), "list", *more).stdout == b""
        for name in ("one", "two%20words", "two%20words", "sub/low", "%C3%BC", "two%20words"):
            assert server.get(f"/{name}")[0] == 200
        names, long, objects = (
            gclient(*address(server), "list", *more).stdout.decode() for more in ((), ("--long",), ("--json",))
        )
    expected = [("two words", 1024, 2), ("ü", 2048, 0), ("sub/low", 3072, 0), ("one", 0, 0)]
    assert names.splitlines() == [name for name, _, _ in expected]
    entries = [json.loads(line) for line in objects.splitlines()]
    assert [(each["name"], each["size"], each["hits"]) for each in entries] == expected
    assert all(0 <= each["idle_s"] <= each["age_s"] and each["readers"] == 0 for each in entries)
    assert [line.split()[:4] for line in long.splitlines()] == [
        ["1", "KiB", "2", "hits"],
        ["2", "KiB", "0", "hits"],
        ["3", "KiB", "0", "hits"],
        ["0", "B", "0", "hits"],
    ]
    assert [line.partition(" unused  ")[2] for line in long.splitlines()] == [name for name, _, _ in expected]


def test_a_long_list_has_sizes_uses_and_ages_in_columns() -> None:
    entries = [
        entry("a b", size=3 << 20, hits=1234567, age_s=7200, idle_s=0.0125, readers=3),
        entry("/ü", size=999, hits=1, age_s=119.4, idle_s=120),
    ]
    with Misbehaving(says(listed(*entries))) as fake:
        result = gclient(*fake.address, "list", "--long")
    assert fake.requests[0][""] == "GET /-/cache?format=json HTTP/1.1"
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == (
        "    3 MiB 1,234,567 hits      2 h old  12.5 ms unused  a b\n"
        "    999 B         1 hits    119 s old    2 min unused  /ü\n"
    )


def test_a_list_as_json_is_an_object_on_a_line_and_ascii() -> None:
    names = ["ü\x9b\u202e", "\x1b[2J\n", "\ud800", "plain"]
    entries = [entry(name, size=2, hits=3, age_s=4.5, idle_s=0, readers=1) for name in names]
    with Misbehaving(says(listed(*entries))) as fake:
        result = gclient(*fake.address, "list", "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()
    assert [json.loads(line) for line in result.stdout.splitlines()] == entries


@pytest.mark.parametrize("more", ["--long", "--json"])
@pytest.mark.parametrize(
    "said",
    [
        [],
        {},
        None,
        "entries",
        {"entries": None},
        {"entries": 1},
        {"entries": {"x": 1}},
        {"entries": "x"},
        {"entries": [None]},
        {"entries": [["name"]]},
        *(
            {"entries": [{key: value for key, value in entry().items() if key != left_out}]}
            for left_out in entry()
        ),
        *({"entries": [entry(), entry(size=wrong)]} for wrong in (*WRONG, None, float("inf"), float("nan"))),
        {"entries": [entry(hits={})]},
        {"entries": [entry(readers="x")]},
        {"entries": [entry(age_s="x")]},
        {"entries": [entry(age_s=TOO_LARGE_INT)]},
        {"entries": [entry(idle_s=None)]},
    ],
    ids=lambda each: str(each)[:60],
)
def test_what_is_no_list_exits_8_in_one_line(said: object, more: str) -> None:
    with Misbehaving(says(as_json(said))) as fake:
        assert error_line(*fake.address, "list", more) == (8, NOT_A_LIST)


@pytest.mark.parametrize("more", ["--long", "--json"])
def test_a_list_that_is_not_json_exits_8(more: str) -> None:
    for content in (b"", b"x\n", b"\xff"):
        with Misbehaving(says(head(len(content)) + content)) as fake:
            assert error_line(*fake.address, "list", more) == (8, NOT_JSON)


@pytest.mark.parametrize(
    "strange", [entry(size=TOO_LARGE_INT), entry(hits=TOO_LARGE_INT), entry("\ud800")], ids=range(3)
)
def test_a_long_list_that_cannot_be_told_is_no_list_or_told_otherwise(strange: dict[str, object]) -> None:
    with Misbehaving(says(listed(strange))) as fake:
        result = gclient(*fake.address, "list", "--long")
    assert result.returncode in (0, 8), result.stderr
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("more", [(), ("--long",), ("--json",)])
def test_a_list_longer_than_a_list_can_be_is_not_even_read(more: tuple[str, ...]) -> None:
    def promise(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head((256 << 20) + 1))
        gate.wait(GIVE_UP_S)

    with Misbehaving(promise) as fake:
        code, message = error_line(*fake.address, "list", *more, "--timeout", "5")
    assert (code, message) == (8, "the answer is longer than 256 MiB")


@pytest.mark.parametrize("more", [(), ("--long",), ("--json",)])
def test_a_list_that_was_cut_or_refused_prints_nothing(more: tuple[str, ...]) -> None:
    for content, code in ((head(100) + b"x\n", 18), (head(3, "403 Forbidden") + b"no\n", 22)):
        with Misbehaving(says(content)) as fake:
            result = gclient(*fake.address, "list", *more)
        assert (result.returncode, result.stdout) == (code, b"")


# What a terminal gets.

OBEYED = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\n"]
OBEYED += [chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)]
"""The control characters, those that turn the direction of what follows, other ends of lines."""


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code, and what a terminal shows that has standard output and standard error."""
    with OnATerminal(*arguments, shows_output=True) as client:
        code = client.finish()
    return code, client.screen.decode().replace("\r\n", "\n")


def test_names_are_raw_in_a_pipe_and_harmless_on_a_terminal() -> None:
    names = [f"a{sign}b" for sign in OBEYED] + ["plain ü 日本", "\x1b]0;title\x07\x1b[2J"]
    content = "\n".join(names).encode() + b"\nnot \xff\xc2\x00UTF-8\n"
    answer = head(len(content)) + content
    with Misbehaving(says(answer), says(answer)) as fake:
        piped = gclient(*fake.address, "list")
        code, screen = on_a_terminal(*fake.address, "list")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, content, b"")
    assert code == 0
    harmless = ["a?b"] * len(OBEYED) + ["plain ü 日本", "?]0;title??[2J", "not ???UTF-8"]
    assert screen.splitlines() == harmless


def test_names_of_a_long_list_are_raw_in_a_pipe_and_harmless_on_a_terminal() -> None:
    answer = listed(*(entry(f"a{sign}b") for sign in OBEYED))
    with Misbehaving(says(answer), says(answer)) as fake:
        piped = gclient(*fake.address, "list", "--long").stdout.decode()
        code, screen = on_a_terminal(*fake.address, "list", "--long")
    line = "      1 B         0 hits   500 ms old   500 ms unused  a{}b\n"
    assert piped == "".join(line.format(sign) for sign in OBEYED)
    assert (code, screen) == (0, line.format("?") * len(OBEYED))


def test_a_name_that_a_real_server_lists_cannot_turn_the_line_around(folder: Path) -> None:
    name = "a\u202eb\u2066c"
    (folder / name).write_text("x")
    with Program(folder) as server:
        assert server.get("/a%E2%80%AEb%E2%81%A6c")[0] == 200
        assert gclient(*address(server), "list").stdout.decode() == f"{name}\n"
        assert on_a_terminal(*address(server), "list") == (0, "a?b?c\n")


@pytest.mark.parametrize("name", ["\x1b[2J\x1b[31mhit", "\r\x07", "\u202e", "\x9b31m", "\x85", "a\nb"])
def test_the_words_of_a_server_in_its_counters_are_raw_in_a_pipe_and_harmless_on_a_terminal(
    counters: dict[str, Any], name: str
) -> None:
    strange = as_json(changed(counters, "latency", {name: counters["latency"]["hit"]}))
    with Misbehaving(says(strange), says(strange)) as fake:
        code, screen = on_a_terminal(*fake.address, "stats")
        piped = gclient(*fake.address, "stats")
    assert (code, piped.returncode, piped.stderr) == (0, 0, b"")
    assert screen.replace("\n", "").isprintable()
    assert f"\n{name:<18} " in piped.stdout.decode()
    harmless = "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in name)
    assert f"\n{harmless:<18} " in screen


def test_words_that_are_no_unicode_are_refused_or_shown_otherwise(counters: dict[str, Any]) -> None:
    strange = as_json(changed(counters, "latency", {"\ud800": counters["latency"]["hit"]}))
    with Misbehaving(says(strange), says(strange)) as fake:
        code, screen = on_a_terminal(*fake.address, "stats")
        piped = gclient(*fake.address, "stats")
    assert code in (0, 8)
    assert piped.returncode in (0, 8)
    assert "Traceback" not in screen + piped.stderr.decode()
    assert screen.replace("\n", "").isprintable()


def test_a_terminal_gets_the_same_table_as_a_pipe(counters: dict[str, Any]) -> None:
    with Misbehaving(says(as_json(counters))) as fake:
        code, screen = on_a_terminal(*fake.address, "stats")
    assert code == 0
    assert tables(screen) == shown(counters)


def test_health_and_a_refusal_are_printed_safely_also_in_a_pipe() -> None:
    words = "up \x1b[2J\x9b\u202e ü"
    with Misbehaving(says(head(len(words.encode())) + words.encode())) as fake:
        result = gclient(*fake.address, "health")
    assert (result.returncode, result.stdout.decode()) == (0, "up ?[2J?? ü\n")
