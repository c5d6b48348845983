"""`gclient.py HOST PORT stats`: a table for people that agrees with the counters, and `--json` as the server says
them. Against the real server, and against servers that answer something else."""

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

from tests.program import Program, gclient, sparse
from tests.test_gclient import BUFFERED, FakeServer, address, command, error_line, head, says

NOT_COUNTERS = "the answer is not the counters of a gserver"
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
    with FakeServer(says(as_json(stats))) as fake:
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


# As the server says it.


def test_json_is_what_the_server_says_byte_for_byte() -> None:
    content = b'{"hits":  1,\r\n\t"\xc3\xa4": [null, 1e3]}   \n\n'
    with FakeServer(says(head(len(content), content_type="application/json") + content)) as fake:
        result = gclient(*fake.address, "stats", "--json")
    assert (result.returncode, result.stdout, result.stderr) == (0, content, b"")


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


@pytest.mark.parametrize(
    "words",
    [["list"], ["health"], ["file", "."], ["get", "file"], ["get", "file", "-d", "."], ["stats", "."]],
    ids=" ".join,
)
def test_json_is_for_stats_only(words: list[str]) -> None:
    assert error_line("localhost", "80", *words, "--json") == (2, "--json is for stats (see --help)")


# Strange answers.

TOO_LARGE_INT = 10**400
WRONG: list[object] = ["x", [], {}, "\x1b[31m"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ok\n",
        b"<!doctype html><title>Login</title>",
        b"[]",
        b"{}",
        b"null",
        b"0",
        b'"hits"',
        b'[{"hits": 1}]',
        b'{"hits": 1',
        b'{"hits": 1}',
        b'{"hits": 1} {"hits": 2}',
        b"\xff\xfe\xfd",
        b"\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 100_000,
        b'{"hits": Infinity, "misses": 0, "coalesced": 0, "bypasses": 0}',
    ],
    ids=range(18),
)
def test_what_are_no_counters_exits_8_in_one_line(content: bytes) -> None:
    with FakeServer(says(head(len(content)) + content)) as fake:
        assert error_line(*fake.address, "stats") == (8, NOT_COUNTERS)


@pytest.mark.parametrize(
    "key",
    ["hits", "misses", "coalesced", "bypasses", "cached", "capacity", "entries", "filling", "peak", "bytes_sent",
     "evictions", "disk_reads_inline", "disk_reads_pool", "connections", "connections_idle", "rss_bytes"],
)  # fmt: skip
def test_counters_without_one_that_every_server_has_are_none(counters: dict[str, Any], key: str) -> None:
    with FakeServer(says(as_json({name: counters[name] for name in counters if name != key}))) as fake:
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
    with FakeServer(says(as_json(changed(counters, path, new)))) as fake:
        assert error_line(*fake.address, "stats") == (8, NOT_COUNTERS)


@pytest.mark.parametrize("name", ["\x1b[2J\x1b[31mhit", "\r\x07", "a\nb", "\u202e", "\x9b31m", "\ud800"])
def test_nothing_that_a_terminal_obeys_is_printed(counters: dict[str, Any], name: str) -> None:
    """A class of answers is a word of the server's; it may be refused or shown otherwise, never as it came."""
    strange = changed(counters, "latency", {name: counters["latency"]["hit"]})
    with FakeServer(says(as_json(strange))) as fake:
        result = gclient(*fake.address, "stats")
    assert result.returncode in (0, 8)
    assert b"Traceback" not in result.stderr
    assert (result.stdout + result.stderr).decode().replace("\n", "").isprintable()
    assert (result.returncode == 0) == (result.stderr == b"") == (result.stdout.count(b"\n") == 17)


def test_an_answer_of_ten_megabytes_is_not_even_read() -> None:
    """The server promises them and sends none: who waits for them ends with 28."""

    def promise(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(10_000_000))
        gate.wait(20)

    with FakeServer(promise) as fake:
        code, message = error_line(*fake.address, "stats", "--timeout", "5")
    assert (code, message) == (8, "the answer is too long for counters")


def test_an_answer_that_is_as_long_as_counters_can_be_is_read(counters: dict[str, Any]) -> None:
    content = json.dumps(counters).encode().ljust(1 << 20)
    with FakeServer(says(head(len(content)) + content)) as fake:
        assert tables(printed(*fake.address)) == shown(counters)
    with FakeServer(says(head(len(content) + 1) + content + b" ")) as fake:
        assert error_line(*fake.address, "stats") == (8, "the answer is too long for counters")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_counters_that_were_cut_exit_18(more: tuple[str, ...]) -> None:
    with FakeServer(says(head(100) + b'{"hits": 1')) as fake:
        code, message = error_line(*fake.address, "stats", *more)
    assert (code, message) == (18, "the transfer was cut, 90 bytes are missing")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_server_that_says_no_is_quoted(more: tuple[str, ...]) -> None:
    words = "statistics are not for strangers (--admin)"
    with FakeServer(says(head(len(words) + 1, "403 Forbidden") + words.encode() + b"\n")) as fake:
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
