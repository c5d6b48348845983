"""gclient as a library: what a Client gives, in one thread, in several, under gevent, and until it is closed."""

import inspect
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gclient as client_module
from gclient import Client, Entry, Failure, Observer, Transfer
from tests.clients import OnATerminal, address, tree
from tests.misbehaving import GIVE_UP_S, Gated, Misbehaving, head, held, reset, says, silent
from tests.program import PROJECT, Program, gclient

MIB = 1 << 20
OLD_S = 1_000_000_000
CONTENT = bytes(range(256)) * 40

UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, gclient
host, port, into, *names = sys.argv[1:]
def fetch(name):
    with gclient.Client(host, int(port), timeout_s=20) as client:
        transfer = client.get(name, into)
        return transfer.done
print(sum(greenlet.get() for greenlet in [gevent.spawn(fetch, name) for name in names]))
"""

TIMEOUT_UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, gclient
def hang():
    try:
        gclient.Client("127.0.0.1", int(sys.argv[1]), timeout_s=0.2, tries=1).health()
    except gclient.Failure as failure:
        return failure.code
arguments = ["127.0.0.1", sys.argv[2], "get", "a", "b", "-j", "2", "-d", sys.argv[3]]
print(gevent.spawn(hang).get(), gclient.main(arguments))
"""


class Notes(Observer):
    """All that an observer is told, and what `act` does about it."""

    def __init__(self, act: Callable[[str], None] = lambda _: None) -> None:
        self.heads: list[tuple[str, str]] = []
        self.done: list[int] = []
        self.retries: list[tuple[str, int, float]] = []
        self.threads: set[int] = set()
        self._act = act

    def head(self, mark: str, text: str) -> None:
        self.heads.append((mark, text))
        self.threads.add(threading.get_ident())
        self._act(mark)

    def progress(self, transfer: Transfer) -> None:
        self.done.append(transfer.done)
        self._act("progress")

    def retry(self, transfer: Transfer, failure: Failure, wait_s: float) -> None:
        self.retries.append((transfer.name, failure.code, wait_s))
        self._act("retry")


class Narrow(io.RawIOBase):
    """An unbuffered file that takes less than it is given, as those on a disk that is nearly full do."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.content += bytes(content[:1000])
        return min(1000, len(content))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "sub").mkdir()
    for name in ("a", "b", "c", "sub/inner file"):
        (folder / name).write_bytes(name.encode() * 1000)
        os.utime(folder / name, (OLD_S, OLD_S))
    (folder / "large").write_bytes(os.urandom(5 * MIB + 3))
    with Program(folder) as program:
        yield program


@pytest.fixture
def client(server: Program) -> Iterator[Client]:
    with Client(server.host, server.port) as made:
        yield made


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty folder."""
    path = tmp_path / "into"
    path.mkdir()
    return path


def to(fake: Misbehaving | Gated, **options: Any) -> Client:
    """A client of that server."""
    return Client(fake.address[0], int(fake.address[1]), **options)


# What a client gives.


def test_a_file_goes_into_a_folder_under_its_last_component(client: Client, into: Path) -> None:
    transfer = client.get("sub/inner file", into)
    assert tree(into) == {"inner file": b"sub/inner file" * 1000}
    assert transfer.path == str(into / "inner file")
    assert (transfer.name, transfer.size, transfer.done) == ("sub/inner file", 14000, 14000)
    assert (transfer.resumed_from, transfer.is_up_to_date) == (0, False)
    assert transfer.cache in ("MISS", "HIT")
    assert transfer.seconds > 0
    seconds, fraction_ns = divmod((into / "inner file").stat().st_mtime_ns, 10**9)
    assert seconds == OLD_S
    assert fraction_ns > 0
    assert fraction_ns % 100 == 0


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_file_goes_to_the_path_that_it_is_given(
    client: Client, into: Path, as_path: Callable[[Path], str | Path]
) -> None:
    transfer = client.get("sub/inner file", as_path(into / "another name"))
    assert tree(into) == {"another name": b"sub/inner file" * 1000}
    assert transfer.path == str(into / "another name")


def test_without_a_folder_a_file_goes_to_where_it_runs(
    client: Client, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(into)
    client.get("a")
    client.get("b", "x")
    assert tree(into) == {"a": b"a" * 1000, "x": b"b" * 1000}


def test_a_path_in_no_folder_is_refused(client: Client, into: Path) -> None:
    for path in (into / "absent" / "x", f"{into}/absent/"):
        with pytest.raises(Failure) as caught:
            client.get("a", path)
        assert caught.value.code == 23
    assert tree(into) == {}


def test_a_file_is_written_to_an_open_one_that_stays_open(client: Client, server: Program, into: Path) -> None:
    memory = io.BytesIO(b"before")
    memory.seek(0, io.SEEK_END)
    transfer = client.get("large", memory)
    assert transfer.path is None
    assert memory.getvalue() == b"before" + server.get("/large")[2]
    with (into / "open").open("wb") as file:
        client.get("a", file)
        client.get("b", file)
        assert (into / "open").read_bytes() == b"a" * 1000 + b"b" * 1000  # it was flushed
        assert not file.closed


def test_an_unbuffered_file_that_takes_less_than_it_is_given_gets_all_of_it() -> None:
    narrow = Narrow()
    with Misbehaving(says(head(len(CONTENT)) + CONTENT)) as fake, to(fake) as client:
        client.get("x", narrow)  # type: ignore[arg-type]
    assert narrow.content == CONTENT


def test_an_open_file_is_gone_on_with_after_a_cut() -> None:
    rest = head(5, "206 Partial Content", Content_Range="bytes 4-8/9", Etag='"a"') + b"5678."
    memory = io.BytesIO()
    with (
        Misbehaving(says(head(9, Etag='"a"') + b"1234"), says(rest)) as fake,
        to(fake, observer=(notes := Notes())) as client,
    ):
        transfer = client.get("x", memory)
    assert memory.getvalue() == b"12345678."
    assert fake.requests[1]["range"] == "bytes=4-"
    assert (transfer.size, transfer.done, transfer.resumed_from) == (9, 9, 0)
    assert [name for name, *_ in notes.retries] == ["x"]


def test_a_file_that_changed_cannot_be_gone_on_with_in_an_open_one() -> None:
    memory = io.BytesIO()
    new = says(head(9, Etag='"b"') + b"new bytes")
    with (
        Misbehaving(says(head(9, Etag='"a"') + b"1234"), new) as fake,
        to(fake) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", memory)
    assert caught.value.code == 33
    assert memory.getvalue() == b"1234"


def test_a_file_that_is_there_is_not_fetched_again(client: Client, into: Path) -> None:
    assert not client.get("a", into).is_up_to_date
    transfer = client.get("a", into)
    assert (transfer.is_up_to_date, transfer.size, transfer.path) == (True, 1000, str(into / "a"))


def test_a_file_that_is_shorter_than_it_was_or_of_another_time_is_fetched_again(
    client: Client, into: Path
) -> None:
    client.get("a", into)
    came_ns = (into / "a").stat().st_mtime_ns
    (into / "a").write_bytes(b"a" * 999)
    os.utime(into / "a", ns=(came_ns, came_ns))
    assert not client.get("a", into).is_up_to_date
    for other_ns in (OLD_S * 10**9, came_ns + 100, came_ns - 10**9):
        os.utime(into / "a", ns=(other_ns, other_ns))
        assert not client.get("a", into).is_up_to_date
        assert (into / "a").stat().st_mtime_ns == came_ns
    assert client.get("a", into).is_up_to_date
    assert tree(into) == {"a": b"a" * 1000}


@pytest.mark.parametrize("is_same_file", [False, True])
def test_a_file_of_the_same_name_and_time_from_another_folder_is_fetched_again(
    folder: Path, into: Path, is_same_file: bool
) -> None:
    for version in ("v1", "v2"):
        (folder / version).mkdir()
    (folder / "v1" / "x").write_bytes(b"one")
    if is_same_file:
        (folder / "v2" / "x").hardlink_to(folder / "v1" / "x")
    else:
        (folder / "v2" / "x").write_bytes(b"two")
    for version in ("v1", "v2"):
        os.utime(folder / version / "x", (OLD_S, OLD_S))
    with Program(folder) as server, Client(server.host, server.port) as client:
        for name, is_up_to_date in (("v1/x", False), ("v2/x", False), ("v2/x", True), ("v1/x", False)):
            assert client.get(name, into).is_up_to_date == is_up_to_date
            assert tree(into) == {"x": (folder / name).read_bytes()}


def test_a_file_that_was_replaced_by_one_of_the_same_time_and_size_is_fetched_again(
    folder: Path, into: Path
) -> None:
    (folder / "x").write_bytes(b"old")
    os.utime(folder / "x", (OLD_S, OLD_S))
    with Program(folder, "--revalidate", "0") as server, Client(server.host, server.port) as client:
        client.get("x", into)
        (folder / "new").write_bytes(b"new")
        os.utime(folder / "new", (OLD_S, OLD_S))
        (folder / "new").replace(folder / "x")
        assert not client.get("x", into).is_up_to_date
        assert tree(into) == {"x": b"new"}
        assert client.get("x", into).is_up_to_date


def test_a_checksum_is_checked(client: Client, into: Path) -> None:
    right = "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"
    assert client.get("a", into, checksum=f"sha-256={right}").digest == f"sha-256={right}"
    for checksum, code in ((f"sha-256={'0' * 64}", 32), (f"md5={right}", 2), (right, 2)):
        with pytest.raises(Failure) as caught:
            client.get("b", into, checksum=checksum)
        assert caught.value.code == code
    assert list(tree(into)) == ["a"]


def test_list_and_entries_are_what_the_cache_holds_with_the_last_used_first(folder: Path, into: Path) -> None:
    for name in ("one", "two words", "ü"):
        (folder / name).write_text(name * 10)
    with Program(folder) as server, Client(server.host, server.port) as client:
        assert client.list() == []
        assert client.entries() == []
        for name in ("ü", "one", "two words", "one"):
            client.get(name, io.BytesIO())
        assert client.list() == ["one", "two words", "ü"]
        found = client.entries()
        assert all(type(entry) is Entry for entry in found)
        assert [(entry.name, entry.size, entry.hits, entry.readers) for entry in found] == [
            ("one", 30, 1, 0),
            ("two words", 90, 0, 0),
            ("ü", 20, 0, 0),
        ]
        assert all(0 <= entry.idle_s <= entry.age_s < GIVE_UP_S for entry in found)


def test_health_and_stats_are_the_servers(client: Client, server: Program) -> None:
    assert client.health() == "ok"
    assert client.stats()["capacity"] == 64 * MIB
    assert client.stats().keys() == server.stats().keys()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("entries", b'{"entries": [{"name": "x"}]}'),
        ("entries", b'{"entries": 1}'),
        ("entries", b"[]"),
        ("entries", b"<p>"),
        ("stats", b"[]"),
        ("stats", b"<p>"),
    ],
)
def test_what_is_not_from_a_gserver_is_a_strange_answer(method: str, answer: bytes) -> None:
    with (
        Misbehaving(says(head(len(answer)) + answer)) as fake,
        to(fake) as client,
        pytest.raises(Failure) as caught,
    ):
        getattr(client, method)()
    assert caught.value.code == 8


# Failures.


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (says(head(9, "404 Not Found") + b"not here\n"), 22),
        (says(head(9) + b"cut"), 18),
        (says(b""), 56),
        (says(b"SSH-2.0\r\n"), 8),
        (silent, 28),
    ],
    ids=["404", "cut", "nothing", "ssh", "silent"],
)
def test_a_failure_has_its_code_and_words(script: Any, code: int, into: Path) -> None:
    with (
        Misbehaving(script) as fake,
        to(fake, tries=1, timeout_s=0.2 if script is silent else GIVE_UP_S) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", into)
    assert caught.value.code == code
    assert str(caught.value)
    assert tree(into) == {}


def test_a_reset_is_a_failure_to_receive(into: Path) -> None:
    with Misbehaving(reset) as fake:
        notes = Notes(lambda what: fake.gate.set() if what == "progress" else None)
        with to(fake, tries=1, observer=notes) as client, pytest.raises(Failure) as caught:
            client.get("x", into)
    assert caught.value.code == 56


def test_a_host_or_port_where_nobody_is_has_its_code() -> None:
    with socket.socket() as bound:  # and never listens
        bound.bind(("127.0.0.1", 0))
        for host, code in (("127.0.0.1", 7), ("no-such-host.invalid", 6)):
            with pytest.raises(Failure) as caught:
                Client(host, bound.getsockname()[1], tries=1).health()
            assert caught.value.code == code


def test_max_time_is_for_a_call_and_all_its_tries(into: Path) -> None:
    busy = says(head(0, "503 Busy", Retry_After="200"))
    for script, limit_s, code, words in ((busy, 60, 22, "503 Busy"), (silent, 0.2, 28, r"longer than 0\.2 s")):
        with (
            Misbehaving(script) as fake,
            to(fake, max_time_s=limit_s) as client,
            pytest.raises(Failure, match=words) as caught,
        ):
            client.get("x", into)
        assert caught.value.code == code


def test_tries_is_how_often_get_tries(into: Path) -> None:
    busy = says(head(0, "503 Busy", Retry_After="0"))
    with Misbehaving(busy, busy) as fake, to(fake, tries=2) as client, pytest.raises(Failure):
        client.get("x", into)
    with Misbehaving(busy) as fake, to(fake, tries=9) as client, pytest.raises(Failure):
        client.health()


def test_no_tries_are_one(into: Path) -> None:
    busy = says(head(0, "503 Busy", Retry_After="0"))
    with Misbehaving(busy) as fake, to(fake, tries=0) as client, pytest.raises(Failure) as caught:
        client.get("x", into)
    assert caught.value.code == 22


def test_a_client_may_wait_for_ever(server: Program, into: Path) -> None:
    with Client(server.host, server.port, timeout_s=math.inf) as client:
        assert client.health() == "ok"
        assert client.get("a", into).size == 1000


@pytest.mark.parametrize("token", ["", "two words", "ü" * 32, "a\nb", "a\r\nX: y", "a\0"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(Failure) as caught:
        Client("127.0.0.1", 80, token=token)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["\ud800", "sub/\udfff"])
def test_a_name_that_has_no_bytes_is_refused(client: Client, into: Path, name: str) -> None:
    for place in (into, io.BytesIO()):
        with pytest.raises(Failure) as caught:
            client.get(name, place)
        assert caught.value.code == 2
        assert str(caught.value).isprintable()
    assert tree(into) == {}


# The connection.


def test_one_connection_is_kept_over_calls(into: Path) -> None:
    with Gated({"a": CONTENT, "b": CONTENT}) as fake, to(fake) as client:
        fake.open()
        client.get("a", into)
        client.get("b", io.BytesIO())
        for _ in range(2):
            with pytest.raises(Failure):
                client.list()
        client.get("a", into / "again")
        assert len(fake.requests) == 5
        assert fake.connections == 1
        assert {request["host"] for request in fake.requests} == {":".join(fake.address)}


def test_the_server_counts_one_connection(server: Program, client: Client) -> None:
    for name in ("a", "b", "c"):
        client.get(name, io.BytesIO())
        assert client.stats()["connections"] == 1
    with Client(server.host, server.port) as other:
        other.health()
        assert client.stats()["connections"] == 2


def test_a_connection_that_the_server_has_ended_meanwhile_is_made_again() -> None:
    answer = says(head(3) + b"ok\n")
    with Misbehaving(answer, answer) as fake, to(fake) as client:
        assert [client.health(), client.health()] == ["ok", "ok"]


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"])
def test_a_connection_that_the_server_does_not_keep_is_not_used_again(answer: bytes) -> None:
    """Even if it has not ended yet."""

    def script(connected: socket.socket, _gate: threading.Event) -> None:
        connected.sendall(answer + b"Content-Length: 3\r\n\r\nok\n")
        assert connected.recv(1) == b""

    with Misbehaving(script, script) as fake, to(fake, timeout_s=GIVE_UP_S) as client:
        assert [client.health(), client.health()] == ["ok", "ok"]


def test_leaving_the_with_ends_the_connection() -> None:
    ended = threading.Event()

    def script(connected: socket.socket, _gate: threading.Event) -> None:
        connected.sendall(head(3) + b"ok\n")
        if not connected.recv(1):
            ended.set()

    with Misbehaving(script) as fake:
        with to(fake) as client:
            assert client.health() == "ok"
            assert not ended.is_set()
        assert ended.wait(GIVE_UP_S)


@pytest.mark.parametrize("was_open", [False, True])
def test_a_closed_client_is_closed_for_good(server: Program, into: Path, was_open: bool) -> None:
    notes = Notes()
    closed = Client(server.host, server.port, observer=notes)
    if was_open:
        assert closed.health() == "ok"
    said = len(notes.heads)
    closed.close()
    closed.close()
    for call in (closed.health, closed.stats, closed.list, closed.entries, lambda: closed.get("a", into)):
        with pytest.raises(Failure, match=r"^the connection was closed$") as caught:
            call()
        assert caught.value.code == 56
    assert (notes.retries, len(notes.heads)) == ([], said)
    assert tree(into) == {}


@pytest.mark.parametrize("tries", [1, 5])
@pytest.mark.parametrize("stage", ["head", "body"])
def test_close_from_another_thread_ends_what_is_going_on_and_it_is_not_tried_again(
    into: Path, tries: int, stage: str
) -> None:
    hanging = silent if stage == "head" else held(CONTENT, b"rest")
    codes: list[int] = []

    def fetch() -> None:
        try:
            closed.get("x", into)
        except Failure as failure:
            codes.append(failure.code)

    with Misbehaving(hanging, says(head(4) + b"file"), may_stay_away=True) as fake:
        waits = threading.Event()
        notes = Notes(lambda what: waits.set() if what == (">" if stage == "head" else "progress") else None)
        closed = to(fake, tries=tries, observer=notes)
        thread = threading.Thread(target=fetch)
        thread.start()
        assert waits.wait(GIVE_UP_S)
        while not fake.requests:
            assert thread.is_alive()
        closed.close()
        thread.join(GIVE_UP_S)
        assert not thread.is_alive()
        assert len(fake.requests) == 1
    assert codes in ([18], [56])
    assert tree(into) == {}


@pytest.mark.parametrize("moment", [">", "<", "progress"])
def test_an_observer_may_close_the_client_at_any_moment(into: Path, moment: str) -> None:
    """As another thread may."""
    with Misbehaving(says(head(2 * MIB) + b"1" * MIB), may_stay_away=True) as fake:
        closed = to(fake, observer=Notes(lambda what: closed.close() if what == moment else None))
        with pytest.raises(Failure) as caught:
            closed.get("x", into)
    assert caught.value.code in (18, 56)
    assert tree(into) == {}


# Observers.


def test_an_observer_is_told_heads_without_the_token_and_all_progress(into: Path) -> None:
    content = os.urandom(3 * MIB)
    notes = Notes()
    with (
        Misbehaving(says(head(len(content), X_Cache="HIT") + content)) as fake,
        to(fake, observer=notes, token="secret-token") as client,
    ):
        client.get("x", into)
        assert fake.requests[0]["authorization"] == "Bearer secret-token"
    (asked, question), (answered, answer) = notes.heads
    assert (asked, answered) == (">", "<")
    assert question.startswith("GET /x HTTP/1.1\r\nHost: ")
    assert "secret-token" not in question
    assert answer.startswith("HTTP/1.1 200 OK\r\n")
    assert "X-Cache: HIT" in answer
    assert notes.done[0] == 0
    assert notes.done[-1] == len(content)
    assert notes.done == sorted(set(notes.done))
    assert len(notes.done) >= 4  # at most 1 MiB is read at a time
    assert notes.threads == {threading.get_ident()}


def test_an_observer_is_told_of_retries(into: Path) -> None:
    notes = Notes()
    scripts = (says(head(0, "503 Busy", Retry_After="1")), says(b""), says(head(4) + b"file"))
    with Misbehaving(*scripts) as fake, to(fake, observer=notes) as client:
        client.get("x", into)
    (busy, lost) = notes.retries
    assert busy == ("x", 22, 1.0)
    assert lost[:2] == ("x", 56)
    assert 0.25 <= lost[2] <= 0.75


def test_what_an_observer_raises_is_what_get_raises_and_what_came_is_kept(into: Path) -> None:
    def act(what: str) -> None:
        if what == "progress" and notes.done[-1]:
            raise KeyboardInterrupt

    notes = Notes(act)
    with Gated({"x": CONTENT}, etag='"a"') as fake, to(fake, observer=notes) as client:
        with pytest.raises(KeyboardInterrupt):
            client.get("x", into)
        assert (into / "x.part").read_bytes() == CONTENT[: notes.done[-1]]
        assert json.loads((into / "x.part.json").read_bytes())["etag"] == '"a"'
        fake.open()
        client._observer = client._connection._observer = Observer()
        assert client.get("x", into).resumed_from == notes.done[-1]
    assert tree(into) == {"x": CONTENT}


# Several at once.


@pytest.mark.parametrize("count", [2, 5])
def test_so_many_files_are_fetched_at_once_over_so_many_connections(into: Path, count: int) -> None:
    files = {f"file {number}": os.urandom(20_000) for number in range(3 * count)}
    answered = {name.replace(" ", "%20"): content for name, content in files.items()}
    with Gated(answered) as fake:
        arguments = [*fake.address, "get", *files, "-d", str(into), "-j", str(count), "--json"]
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "gclient.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        fake.wait_for(count)
        assert {request[""].split("%20")[1].split()[0] for request in fake.requests} == set(map(str, range(count)))
        fake.open()
        output, errors = process.communicate(timeout=GIVE_UP_S)
        assert fake.connections == count
    assert (process.returncode, errors) == (0, b"")
    assert tree(into) == files
    assert sorted(json.loads(line)["name"] for line in output.splitlines()) == sorted(files)


def test_no_more_connections_are_made_than_there_are_files(into: Path) -> None:
    with Gated({"a": b"aa", "b": b"bb"}) as fake:
        fake.open()
        assert gclient(*fake.address, "get", "a", "b", "-d", str(into), "-j", "50").returncode == 0
        assert fake.connections == 2


def test_the_files_are_told_in_the_order_in_which_they_came(into: Path) -> None:
    with (
        Gated({name: name.encode() * 2 for name in "abc"}) as fake,
        subprocess.Popen(
            [
                sys.executable,
                str(PROJECT / "gclient.py"),
                *fake.address,
                *("get", "a", "b", "c", "-d", str(into), "-j", "3", "--json"),
            ],
            stdout=subprocess.PIPE,
        ) as process,
    ):
        fake.wait_for(3)
        assert process.stdout is not None
        for name in ("c", "a", "b"):
            fake.gates[name].set()
            assert json.loads(process.stdout.readline())["name"] == name
    assert process.returncode == 0


def test_the_exit_code_is_that_of_the_first_failed_argument_and_not_of_the_first_to_fail(into: Path) -> None:
    (into / "b").mkdir()
    files = {"a": b"aa", "x": b"xx"}
    with Gated(files) as fake:
        fake.open()
        for names, code in ((["a", "b", "absent"], 23), (["absent", "b", "a"], 22), (["x", "absent", "b"], 22)):
            result = gclient(*fake.address, "get", *names, "-d", str(into), "-j", "3")
            assert result.returncode == code, result.stderr
    assert tree(into) == files


def test_a_token_that_cannot_be_read_is_told_once_whatever_the_number_of_jobs(server: Program, into: Path) -> None:
    for jobs in ("1", "2"):
        arguments = ("get", "a", "b", "-d", str(into), "-j", jobs, "--token-file", str(into / "absent"))
        result = gclient(*address(server), *arguments)
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.startswith(b"gclient: cannot read the token in ")
        assert b"Traceback" not in result.stderr
    assert tree(into) == {}


def test_a_token_is_read_once_whatever_the_number_of_jobs(into: Path) -> None:
    """It may come through a pipe."""
    files = {"a": b"aa", "b": b"bb"}
    with Gated(files) as fake:
        fake.open()
        done = subprocess.run(
            [
                *(sys.executable, str(PROJECT / "gclient.py"), *fake.address, "get", *files),
                *("-d", str(into), "-j", "2", "--token-file", "/dev/stdin"),
            ],
            input=b"secret\n",
            stderr=subprocess.PIPE,
            timeout=GIVE_UP_S,
            check=False,
        )
        assert [request["authorization"] for request in fake.requests] == ["Bearer secret"] * 2
    assert (done.returncode, done.stderr) == (0, b"")
    assert tree(into) == files


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_an_interrupt_keeps_what_came_of_all_files_and_asks_for_nothing_more(into: Path, jobs: str) -> None:
    files = {name: name.encode() * 40_000 for name in ("a", "b", "c")}
    arguments = ("get", *files, "-d", str(into), "-j", jobs)
    with Gated(files, etag='"v"') as fake:
        with OnATerminal(*fake.address, *arguments) as client:
            fake.wait_for(int(jobs))
            parts = [into / f"{name}.part" for name in list(files)[: int(jobs)]]
            while not all(part.exists() and part.stat().st_size == 20_000 for part in parts):
                assert client.process.poll() is None
            client.process.send_signal(signal.SIGINT)
            assert client.finish() == 130
        assert b"Traceback" not in client.screen
        assert b"again in" not in client.screen
        assert len(fake.requests) == int(jobs)
        assert sorted(tree(into)) == sorted([*(p.name for p in parts), *(f"{p.name}.json" for p in parts)])
        fake.open()
        result = gclient(*fake.address, *arguments, "--json")
        assert result.returncode == 0
        resumed = {line["name"]: line["resumed_from"] for line in map(json.loads, result.stdout.splitlines())}
    assert resumed == {name: 20_000 if into / f"{name}.part" in parts else 0 for name in files}
    assert tree(into) == files


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_an_interrupt_removes_what_cannot_be_gone_on_with(into: Path, jobs: str) -> None:
    files = {name: name.encode() * 40_000 for name in ("a", "b", "c")}
    with Gated(files) as fake, OnATerminal(*fake.address, "get", *files, "-d", str(into), "-j", jobs) as client:
        fake.wait_for(int(jobs))
        parts = [into / f"{name}.part" for name in list(files)[: int(jobs)]]
        while not all(part.exists() and part.stat().st_size == 20_000 for part in parts):
            assert client.process.poll() is None
        client.process.send_signal(signal.SIGINT)
        assert client.finish() == 130
    assert tree(into) == {}


def test_clients_in_threads_do_not_disturb_each_other(server: Program, into: Path) -> None:
    failures: list[Failure] = []

    def fetch(number: int) -> None:
        try:
            with Client(server.host, server.port) as client:
                for name in ("a", "large", "sub/inner file"):
                    client.get(name, into / f"{name.rpartition('/')[2]}{number}")
        except Failure as failure:
            failures.append(failure)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GIVE_UP_S)
    assert failures == []
    large = server.get("/large")[2]
    found = tree(into)
    assert len(found) == 12
    assert all(found[f"large{number}"] == large for number in range(4))


def test_two_clients_cannot_fetch_to_one_path_at_once(into: Path) -> None:
    with Gated({"x": CONTENT}) as fake:
        refused: list[int] = []

        def act(what: str) -> None:
            if what == "progress" and not refused:
                with to(fake) as second, pytest.raises(Failure) as caught:
                    second.get("x", into)
                refused.append(caught.value.code)
                fake.open()

        with to(fake, observer=Notes(act)) as first:
            first.get("x", into)
    assert refused == [23]
    assert tree(into) == {"x": CONTENT}


# Under gevent.


def open_when_all_have_asked(fake: Gated, count: int) -> None:
    fake.wait_for(count)
    fake.open()


def under_gevent(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_greenlets_fetch_at_once(into: Path) -> None:
    files = {f"f{number}": os.urandom(300_000) for number in range(6)}
    with Gated(files) as fake:
        opener = threading.Thread(target=open_when_all_have_asked, args=(fake, 6))
        opener.start()
        said = under_gevent(UNDER_GEVENT, *fake.address, str(into), *files)
        opener.join(GIVE_UP_S)
        assert fake.connections == 6
    assert said == str(6 * 300_000)
    assert tree(into) == files


def test_time_outs_and_jobs_work_under_gevent(server: Program, into: Path) -> None:
    with Misbehaving(silent) as fake:
        said = under_gevent(TIMEOUT_UNDER_GEVENT, fake.address[1], str(server.port), str(into))
    assert said == "28 0"
    assert tree(into) == {"a": b"a" * 1000, "b": b"b" * 1000}


# Addresses, names.


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_with_or_without_brackets_is_reached(folder: Path, into: Path, host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error.strerror}")
    (folder / "x").write_bytes(b"content")
    notes = Notes()
    with Program(folder, "--host", "::1") as server, Client(host, server.port, observer=notes) as client:
        client.get("x", into)
        assert client.list() == ["x"]
        assert gclient(host, str(server.port), "list").stdout == b"x\n"
        assert f"\r\nHost: [::1]:{server.port}\r\n" in notes.heads[0][1]
    assert tree(into) == {"x": b"content"}


def public() -> list[type]:
    """What a program can make use of."""
    return [Client, Entry, Failure, Observer, Transfer]


@pytest.mark.parametrize("kind", public(), ids=lambda kind: kind.__name__)
def test_public_classes_and_methods_say_what_they_do_and_take(kind: type) -> None:
    assert kind.__doc__
    for name, member in vars(kind).items():
        if not inspect.isfunction(member) or (name.startswith("_") and name != "__init__"):
            continue
        assert name == "__init__" or member.__doc__, name
        signature = inspect.signature(member)
        assert signature.return_annotation is not inspect.Signature.empty, name
        for parameter in list(signature.parameters.values())[1:]:
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter)


def test_every_function_and_class_is_documented() -> None:
    own = [
        member
        for name, member in vars(client_module).items()
        if getattr(member, "__module__", None) == "gclient"
        and (inspect.isclass(member) or inspect.isfunction(member))
        and name == member.__name__
    ]
    assert len(own) > 40
    assert [member.__name__ for member in own if not member.__doc__] == []


def test_a_program_that_uses_it_is_checked_by_mypy(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import io\n"
        "from gclient import Client, Transfer\n"
        "def run(client: Client) -> tuple[list[str], int, str | None, Transfer]:\n"
        "    transfer = client.get('x', io.BytesIO(), checksum=None)\n"
        "    return client.list(), client.entries()[0].size, transfer.cache, client.get('x')\n"
        "def wrong(client: Client) -> str:\n"
        "    return client.get(1).done\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"],
        env={**os.environ, "MYPYPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=55,
        check=False,
    )
    errors = [line.rpartition("[")[2] for line in done.stdout.splitlines() if ": error:" in line]
    assert sorted(errors) == ["arg-type]", "return-value]"], done.stdout
