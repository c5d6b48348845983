"""`POST /-/purge` and `/-/warm`: who may, what is said, and that no answer after a purge is older than that."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gevent
import pytest

from fileserver import warming
from fileserver.replies import Reply
from fileserver.root import DiskFailure
from fileserver.tokens import Tokens, is_cross_site
from fileserver.wire import Request, RequestReader
from lrucache import CHUNK_BYTES
from tests.exchange import split
from tests.house import Gate, House, connect, outcome, pattern, read_body, receive_all, wait_for
from tests.program import Program
from tests.test_admin import NEIGHBOURS, NO_TOKEN, PERMITTED, REFUSED, STRANGERS, TOKEN, own_address
from tests.test_openapi import validator

BOTH = ["/-/purge", "/-/warm"]
STRANGE = b"this is not for strangers: ask from the server's machine, or with a token\n"
FOREIGN = b"this is not for web pages from elsewhere\n"


def post(
    house: House,
    path: str,
    *lines: bytes,
    address: str = "127.0.0.1",
    method: str = "POST",
    host: str = "localhost",
) -> Reply:
    """The site's answer to who changes something, by default from this machine."""
    reader = RequestReader()
    reader.feed(b"\r\n".join((f"{method} {path} HTTP/1.1".encode(), f"Host: {host}".encode(), *lines, b"", b"")))
    request = reader.next()
    assert isinstance(request, Request)
    reader.close()
    return house.site.answer(request, address.encode())


def post_json(house: House, path: str) -> dict[str, Any]:
    """The same in JSON, which must be as `/-/openapi.json` describes it."""
    reply = post(house, path + "&format=json")
    document: dict[str, Any] = json.loads(reply.content)
    schema = "Purged" if path.startswith("/-/purge") else "Warmed" if reply.status != 202 else "Reading"
    validator({"$ref": f"#/components/schemas/{schema}"}).validate(document)
    return document


def listed(house: House) -> list[str]:
    return [entry.name for entry in house.cache.snapshot()[1]]


# Who may.


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("admin", [None, "open", "loopback"])
def test_without_tokens_only_who_asks_on_this_machine_may(folder: Path, path: str, admin: Any) -> None:
    """Also where the statistics are open to everybody."""
    with House(folder, admin=admin) as house:
        house.write("a", b"content")
        for address in STRANGERS:
            reply = post(house, f"{path}?name=a", address=address)
            assert (reply.status, reply.content, listed(house)) == (403, STRANGE, [])
        for address in NEIGHBOURS:
            assert post(house, f"{path}?name=a", address=address).status == 200


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "a"])
def test_a_page_whose_own_name_leads_here_is_a_stranger(folder: Path, path: str, host: str) -> None:
    with House(folder) as house:
        reply = post(house, f"{path}?name=a", f"Origin: http://{host}".encode(), host=host)
        assert (reply.status, reply.content) == (403, STRANGE)


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("admin", [None, "open", "token"])
def test_with_tokens_a_valid_one_is_needed_wherever_one_asks_from(folder: Path, path: str, admin: Any) -> None:
    with House(folder, tokens=Tokens([TOKEN.encode()]), admin=admin) as house:
        house.write("a", b"content")
        for address in ("192.0.2.1", "127.0.0.1"):
            for refused in REFUSED:
                lines = [] if refused is None else [b"Authorization: " + refused]
                reply = post(house, f"{path}?name=a", *lines, address=address)
                assert (reply.status, reply.content, listed(house)) == (401, NO_TOKEN, [])
        for permitted in PERMITTED:
            reply = post(
                house, f"{path}?name=a", b"Authorization: " + permitted, address="192.0.2.1", host="x.org"
            )
            assert reply.status == 200


@pytest.mark.parametrize("path", BOTH)
def test_with_tokens_and_for_this_machine_only_both_are_needed(folder: Path, path: str) -> None:
    with House(folder, tokens=Tokens([TOKEN.encode()]), admin="loopback") as house:
        house.write("a", b"content")
        token = b"Authorization: " + PERMITTED[0]
        assert post(house, f"{path}?name=a").status == 401
        assert post(house, f"{path}?name=a", token, address="192.0.2.1").status == 403
        assert post(house, f"{path}?name=a", token).status == 200


FROM_ELSEWHERE = [
    [b"Origin: http://evil.example"],
    [b"Origin: null"],
    [b"Origin: "],
    [b"Origin: localhost"],
    [b"Origin: http://localhost:81"],
    [b"Origin: http://localhost.evil.example"],
    [b"Origin: http://localhost", b"Origin: http://localhost"],
    [b"Sec-Fetch-Site: cross-site"],
    [b"Sec-Fetch-Site: same-site"],
    [b"Sec-Fetch-Site: "],
    [b"Origin: http://localhost", b"Sec-Fetch-Site: cross-site"],
    [b"Origin: http://evil.example", b"Sec-Fetch-Site: same-origin"],
]


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("lines", FROM_ELSEWHERE)
@pytest.mark.parametrize("with_tokens", [False, True], ids=["loopback", "token"])
def test_a_web_page_from_elsewhere_may_not(folder: Path, path: str, lines: list[bytes], with_tokens: bool) -> None:
    """Also with the password that the browser kept."""
    with House(folder, tokens=Tokens([TOKEN.encode()]) if with_tokens else None, cors="*") as house:
        house.write("a", b"content")
        reply = post(house, f"{path}?name=a", *lines, b"Authorization: " + PERMITTED[1])
        assert (reply.status, reply.content, listed(house)) == (403, FOREIGN, [])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Origin: http://localhost"],
        [b"Origin: HTTPS://LOCALHOST"],
        [b"Sec-Fetch-Site: none"],
        [b"Origin: http://localhost", b"Sec-Fetch-Site: same-origin"],
    ],
)
def test_a_page_of_this_server_and_other_programs_may(folder: Path, lines: list[bytes]) -> None:
    with House(folder) as house:
        for path in BOTH:
            house.write("a", b"content")
            assert post(house, f"{path}?name=a", *lines).status == 200


def test_an_origin_is_compared_with_its_port() -> None:
    assert not is_cross_site({b"host": b"[::1]:8080", b"origin": b"http://[::1]:8080"})
    assert is_cross_site({b"host": b"[::1]:8080", b"origin": b"http://[::1]"})
    assert is_cross_site({b"origin": b"http://a"})


@pytest.mark.parametrize("path", BOTH)
def test_other_origins_are_told_nothing(folder: Path, path: str) -> None:
    """With --cors, which is for what is read: neither the answer nor the preflight says they may."""
    with House(folder, cors="*") as house:
        house.write("a", b"content")
        assert b"Access-Control" in post(house, "/a", method="GET")._replace(body=None).fields
        for method in ("POST", "GET", "OPTIONS"):
            assert b"Access-Control" not in post(house, f"{path}?name=a", method=method).fields
        preflight = post(house, path, b"Origin: http://x", method="OPTIONS")
        assert (preflight.status, preflight.fields) == (204, b"Allow: OPTIONS, POST\r\n")


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PURGE"])
def test_only_post_changes_something(folder: Path, path: str, method: str) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        house.fetch("a")
        reply = post(house, f"{path}?name=a", method=method)
        assert reply.status == 405
        assert b"\r\nAllow: OPTIONS, POST\r\n" in reply.fields
        assert listed(house) == ["a"]


@pytest.mark.parametrize("path", ["/", "/a", "/-/", "/-/stats", "/-/purge/", "/-/purges", "/x/-/purge", "/-/%zz"])
def test_everywhere_else_post_is_refused_as_ever(folder: Path, path: str) -> None:
    with House(folder) as house:
        reply = post(house, f"{path}?name=a")
        assert reply.status == 405
        assert b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in reply.fields


def test_a_stranger_and_a_page_from_elsewhere_meet_a_real_server(folder: Path) -> None:
    (folder / "a").write_bytes(b"content")
    stranger = own_address()
    with Program(folder, "--host", "0.0.0.0", "--admin", "open") as server:
        server.host = stranger
        assert server.get("/-/stats")[0] == 200
        assert server.get("/-/warm?name=a", "POST")[::2] == (403, STRANGE)
        server.host = "127.0.0.1"
        assert server.get("/-/warm?name=a", "POST", Origin="http://evil")[::2] == (403, FOREIGN)
        assert server.names() == []
        assert server.get("/-/warm?name=a", "POST")[::2] == (200, b"stored: a (7 B)\nevicted: nothing\n")
        assert server.names() == ["a"]


# What is asked.


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?", 400),
        ("?nam=a", 400),
        ("?name=a&dryrun=1", 400),
        ("?name=a&dry-run=yes", 400),
        ("?name=a&dry-run", 400),
        ("?name=a&name=a", 400),
        ("?name=a&name=b", 400),
        ("?name=a&%6eame=b", 400),
        ("?name=%zz", 400),
        ("?name=%00", 400),
        ("?name=", 404),
        ("?name", 404),
        ("?name=/a", 404),
        ("?name=../a", 404),
        ("?name=.hidden", 404),
        ("?name=%ff", 404),
        ("?name=-/stats", 404),
        ("?name=-", 404),
        ("?name=a/", 404),
        ("?name=a%0Ab", 404),
    ],
)
def test_what_is_no_question_is_said_to_be_none(folder: Path, path: str, query: str, status: int) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        house.fetch("a")
        reply = post(house, path + query)
        assert reply.status == status
        assert len(reply.content) > 5
        assert listed(house) == ["a"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("name=sub/b+c%20d%2b&", "sub/b c d+"),
        ("&name=%C3%A4", "ä"),
        ("name=x%3Dy=z%26", "x=y=z&"),
        ("n%61me=a", "a"),
    ],
)
def test_a_name_is_decoded_as_forms_encode_it(folder: Path, query: str, name: str) -> None:
    with House(folder) as house:
        house.write(name, b"content")
        assert post_json(house, f"/-/warm?{query}")["name"] == name
        assert listed(house) == [name]
        assert post_json(house, f"/-/purge?{query}")["was_cached"] is True
        assert listed(house) == []


# Purge.


def test_purge_says_what_there_was_and_counts_nothing(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        house.write("a", pattern(2048))
        house.fetch("a")
        before = house.cache.stats()
        assert post(house, "/-/purge?name=a&dry-run=1").content == b"would be purged: a (2 KiB)\n"
        assert listed(house) == ["a"]
        assert post(house, "/-/purge?name=a&dry-run=0").content == b"purged: a (2 KiB)\n"
        assert post(house, "/-/purge?name=a").content == b"not cached: a\n"
        assert post(house, "/-/purge?name=never-was").content == b"not cached: never-was\n"
        assert house.cache.stats() == before._replace(cached=0, entries=0)
        assert house.cache.evicted() == []
        assert house.site.traffic.file_answers == 0


def test_after_a_purge_the_disk_is_asked(folder: Path, io: str) -> None:
    """What no stamp shows: the same inode, size and times, other bytes."""
    with House(folder, io=io) as house:
        house.write("a", b"before")
        stamps: dict[str, Any] = {}
        house.root.stamps = stamps.setdefault
        house.fetch("a")
        house.write("a", b"after!")
        assert house.fetch("a") == ("hit", b"before")
        post(house, "/-/purge?name=a")
        assert house.fetch("a") == ("miss", b"after!")


def test_a_read_that_began_before_the_purge_is_for_those_who_have_it_and_not_stored(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
        first = house.store.get("a")
        dry = post_json(house, "/-/purge?name=a&dry-run=1")
        assert (dry["was_cached"], dry["was_filling"]) == (False, True)
        assert not house.store.fills.running("a").is_purged  # type: ignore[union-attr]
        reply = post(house, "/-/purge?name=a")
        assert reply.content == b"not cached: a\nwill not be stored: the read of it that is under way\n"
        second = house.store.get("a")
        assert outcome(second) == "bypass purged"
        reads = len(house.root.reads)
        assert bytes(second.read(0, CHUNK_BYTES)[0]) == content[:CHUNK_BYTES]
        assert len(house.root.reads) == reads + 1, "of its own, and not what was read before"
        gate.open()
        assert read_body(first) == read_body(second) == content
        first.close()
        second.close()
        wait_for(lambda: not len(house.store.fills))
        assert listed(house) == []
        assert house.fetch("a") == ("miss", content)
        assert listed(house) == ["a"]


def test_who_is_being_sent_a_file_has_all_of_it(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.fetch("a")
        body = house.store.get("a")
        body.read(0, 10)
        post(house, "/-/purge?name=a")
        assert read_body(body) == content
        body.close()


def test_a_purge_during_a_warming_has_it_read_again(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        house.write("a", pattern(2 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset == CHUNK_BYTES else None
        warming_it = gevent.spawn(post, house, "/-/warm?name=a")
        wait_for(lambda: gate.waiting)
        post(house, "/-/purge?name=a")
        gate.open()
        assert warming_it.get().content.startswith(b"stored: a")
        assert listed(house) == ["a"]
        assert [offset for _, offset in house.root.reads] == [0, CHUNK_BYTES] * 2


# Warm.


def test_warm_stores_what_a_get_would_and_is_no_answer_to_a_client(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        content = house.write("a", pattern(2 * CHUNK_BYTES + 5))
        assert post(house, "/-/warm?name=a").content == b"stored: a (512 KiB)\nevicted: nothing\n"
        assert post(house, "/-/warm?name=a").content == b"cached already: a (512 KiB)\n"
        assert post(house, "/-/warm?name=a&dry-run=1").content == b"cached already: a (512 KiB)\n"
        stats = house.cache.stats()
        assert (stats.answers, house.site.traffic.file_answers) == (0, 0)
        assert house.fetch("a") == ("hit", content)


def test_warm_says_who_goes_for_it_beforehand_and_afterwards(folder: Path, io: str) -> None:
    with House(folder, io=io, capacity=100) as house:
        for name, size in (("a", 20), ("b", 50), ("c", 30), ("new", 60)):
            house.write(name, pattern(size))
            if name != "new":
                house.fetch(name)
        dry = post_json(house, "/-/warm?name=new&dry-run=1")
        assert post(house, "/-/warm?name=new&dry-run=1").content == (
            b"would be stored: new (60 B)\n"
            b"would be evicted: a (20 B): least recently used\n"
            b"would be evicted: b (50 B): least recently used\n"
        )
        assert listed(house) == ["c", "b", "a"]
        done = post_json(house, "/-/warm?name=new")
        assert listed(house) == ["new", "c"]
        assert dry | {"dry_run": False} == done
        assert [(each["name"], each["newcomer"]) for each in done["evicted"]] == [("a", "new"), ("b", "new")]


@pytest.mark.parametrize(("policy", "size", "detail"), [("lru", 101, "too-large"), ("s3fifo", 60, "not-worth-it")])
def test_what_the_cache_does_not_take_is_said_with_the_reason(
    folder: Path, io: str, policy: str, size: int, detail: str
) -> None:
    with House(folder, io=io, capacity=100, policy=policy) as house:
        house.write("old", pattern(100))
        house.write("new", pattern(size))
        house.fetch("old")
        said = f"stored: new ({size} B): {detail}\n".encode()
        dry = post(house, "/-/warm?name=new&dry-run=1")
        assert (dry.status, dry.content) == (200, b"would not be " + said)
        reply = post(house, "/-/warm?name=new")
        assert (reply.status, reply.content) == (409, b"not " + said)
        assert listed(house) == ["old"]


def test_what_there_is_no_room_for_now_may_be_asked_again(folder: Path, io: str) -> None:
    with House(folder, io=io, capacity=2 * CHUNK_BYTES) as house:
        house.write("slow", pattern(2 * CHUNK_BYTES))
        house.write("new", pattern(100))
        house.root.cold.add("slow")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset else None
        body = house.store.get("slow")
        reply = post(house, "/-/warm?name=new")
        assert (reply.status, reply.content) == (503, b"not stored: new (100 B): no-room\n")
        assert b"Retry-After: 1\r\n" in reply.fields
        gate.open()
        body.close()


def test_warm_shares_a_running_read(folder: Path, io: str) -> None:
    with House(folder, io=io) as house:
        content = house.write("a", pattern(3 * CHUNK_BYTES))
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_read = lambda name, offset: gate.wait() if offset else None
        first = house.store.get("a")
        warming_it = gevent.spawn(post, house, "/-/warm?name=a")
        wait_for(lambda: gate.waiting)
        assert post(house, "/-/warm?name=a&dry-run=1").content.startswith(b"would be stored: a (768 KiB)\n")
        gate.open()
        assert warming_it.get().content == b"stored: a (768 KiB)\nevicted: nothing\n"
        assert read_body(first) == content
        first.close()
        assert len(house.root.reads) == 3


@pytest.mark.parametrize("dry", ["", "&dry-run=1"])
def test_a_file_that_cannot_be_had_is_the_same_error_as_for_get(folder: Path, io: str, dry: str) -> None:
    with House(folder, io=io) as house:
        (folder / "sub").mkdir()
        house.write("bad", b"content")
        house.root.cold.add("bad")

        def fail(name: str) -> None:
            raise DiskFailure("EIO, said the test")

        house.root.before_open = house.root.before_stat = fail
        assert post(house, f"/-/warm?name=bad{dry}").status == 500
        house.root.before_open = house.root.before_stat = lambda name: None
        assert post(house, f"/-/warm?name=sub{dry}").status == 404
        assert post(house, f"/-/warm?name=missing{dry}").status == 404
        assert house.site.warming._turns.free == warming.WARMS_MAX


def test_a_slow_file_is_202_and_goes_on(folder: Path, io: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with House(folder, io=io) as house:
        house.write("a", b"content")
        house.root.cold.add("a")
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        monkeypatch.setattr(warming.Warming.warm, "__kwdefaults__", {"dry_run": False, "wait_s": 0.01})
        reply = post(house, "/-/warm?name=a")
        assert (reply.status, reply.content) == (202, b"still being read after 10 s, and going on: a\n")
        assert post_json(house, "/-/warm?name=a") == {"name": "a", "outcome": "reading"}
        gate.open()
        wait_for(lambda: listed(house) == ["a"])


def test_no_more_than_so_many_are_warmed_at_a_time_also_of_those_that_were_202(
    folder: Path, io: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with House(folder, io=io, threads=2 * warming.WARMS_MAX) as house:
        gate = Gate()
        house.root.before_open = lambda name: gate.wait()
        monkeypatch.setattr(warming.Warming.warm, "__kwdefaults__", {"dry_run": False, "wait_s": 0.001})
        for at in range(warming.WARMS_MAX + 1):
            house.write(f"f{at}", b"content")
            house.root.cold.add(f"f{at}")
        for at in range(warming.WARMS_MAX):
            assert post(house, f"/-/warm?name=f{at}").status == 202
        reply = post(house, f"/-/warm?name=f{warming.WARMS_MAX}")
        assert (reply.status, reply.content) == (503, b"too busy, try again\n")
        gate.open()
        wait_for(lambda: house.site.warming._turns.free == warming.WARMS_MAX)
        assert len(listed(house)) == warming.WARMS_MAX


# Over the wire.


def test_a_body_is_thrown_away_and_the_connection_goes_on(folder: Path) -> None:
    with House(folder) as house, house.serving(address=b"127.0.0.1") as port:
        house.write("a", b"content")
        asked = b"POST /-/warm?name=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nname=none"
        last = b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        with connect(port, asked + last) as client:
            answers = receive_all(client)
        status, fields, rest = split(answers)
        assert (status, rest[: int(fields[b"content-length"])]) == (200, b"stored: a (7 B)\nevicted: nothing\n")
        assert b"X-Cache: HIT" in rest


@pytest.mark.external
def test_curl_is_enough(folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (folder / "a b").write_bytes(b"content")
    with Program(folder) as server:
        url = f"http://{server.host}:{server.port}/-/"

        def curl(what: str, *options: str) -> str:
            command = ["curl", "-sS", "--fail", "-X", "POST", url + what, *options]
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

        assert curl("warm?name=a%20b") == "stored: a b (7 B)\nevicted: nothing\n"
        assert server.names() == ["a b"]
        assert curl("purge?dry-run=1&name=a+b") == "would be purged: a b (7 B)\n"
        assert server.names() == ["a b"]
        curl(*("purge", "--url-query", "name=a b") if has_url_query() else ("purge?name=a%20b",))
        assert server.names() == []
        stats = server.stats()
        assert (stats["file_answers"], stats["evictions"], stats["violations"]) == (0, 0, 0)


def has_url_query() -> bool:
    """Whether this curl has it (7.87)."""
    said = subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, timeout=30, check=True).stdout
    return "--url-query" in said
