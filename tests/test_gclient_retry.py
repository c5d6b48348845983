"""What gclient.py tries again, how often, and how long it waits; and what it does not."""

import random
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest

import gclient as client_module
from gclient import Client, Failure, Observer, Transfer
from tests.clients import address, command, fetched, tree
from tests.misbehaving import GIVE_UP_S, Misbehaving, Script, head, request, says, sends, silent
from tests.program import Program, gclient

CONTENT = random.Random(12).randbytes(300_000)
SIZE = len(CONTENT)
CUT = 100_001

BUSY = head(5, "503 Service Unavailable", Retry_After="0") + b"busy\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    path = tmp_path / "into"
    path.mkdir()
    return path


class Notes(Observer):
    """Takes down what was tried again."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.codes: list[int] = []

    def retry(self, transfer: Transfer, failure: Failure, wait_s: float) -> None:
        self.waits_s.append(wait_s)
        self.codes.append(failure.code)


class Clock:
    """Stands for the module time in gclient.py: nothing waits, and what is slept passes."""

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.25
        self.slept_s: list[float] = []

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int(self.now_s * 10**9)

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """gclient's time passes only when it sleeps, and there is no chance: the factor is 1."""
    clock = Clock()
    names = SimpleNamespace(
        time=clock.time,
        monotonic=clock.monotonic,
        time_ns=clock.time_ns,
        sleep=clock.sleep,
        gmtime=time.gmtime,
    )
    monkeypatch.setattr(client_module, "time", names)
    monkeypatch.setattr(random, "uniform", lambda least, most: (least + most) / 2)
    return clock


@pytest.fixture
def notes() -> Notes:
    return Notes()


def client_of(
    fake: Misbehaving,
    notes: Notes,
    *,
    tries: int = 5,
    timeout_s: float = GIVE_UP_S,
    max_time_s: float | None = None,
) -> Client:
    """A client in this process."""
    host, port = fake.address
    return Client(host, int(port), observer=notes, tries=tries, timeout_s=timeout_s, max_time_s=max_time_s)


def ranges(fake: Misbehaving) -> list[str | None]:
    """What was asked for in each request."""
    return [request.get("range") for request in fake.requests]


def hung_up_on(client: socket.socket, _gate: threading.Event) -> None:
    """No answer, and the end."""


def lost(until: int) -> Script:
    """A part of the body, and when the client has it, a reset."""

    def script(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(head(SIZE, ETag='"v1"') + CONTENT[:until])
        gate.wait(GIVE_UP_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


def silent_until_left(client: socket.socket, _gate: threading.Event) -> None:
    """No answer for as long as the client waits."""
    client.recv(1)


def stops_at(until: int) -> Script:
    """A part of the body, and nothing more for as long as the client waits."""

    def script(client: socket.socket, _gate: threading.Event) -> None:
        client.sendall(head(SIZE, ETag='"v1"') + CONTENT[:until])
        client.recv(1)

    return script


def trickles_for_ever(client: socket.socket, gate: threading.Event) -> None:
    """A byte now and then, as long as the client likes."""
    client.sendall(head(1 << 20, ETag='"v1"'))
    with suppress(OSError):
        while not gate.wait(0.01):
            client.sendall(b"x")


# What is tried again


@pytest.mark.parametrize(
    ("first", "code", "start"),
    [
        (hung_up_on, 56, 0),
        (says(b"HTTP/1.1 200 OK\r\nContent-"), 18, 0),
        (sends(CONTENT, until=0), 18, 0),
        (sends(CONTENT, until=CUT), 18, CUT),
        (stops_at(CUT), 28, CUT),
        (silent_until_left, 28, 0),
        (says(BUSY), 22, 0),
    ],
    ids=["no answer", "half a head", "no body", "half a body", "stopped", "silent", "busy"],
)
def test_what_may_go_better_is_tried_again(
    directory: Path, notes: Notes, first: Script, code: int, start: int
) -> None:
    with Misbehaving(first, sends(CONTENT, start)) as fake, client_of(fake, notes, timeout_s=0.5) as client:
        transfer = client.get("x", directory)
    assert notes.codes == [code]
    assert ranges(fake) == [None, f"bytes={start}-" if start else None]
    assert (transfer.resumed_from, transfer.done, transfer.size) == (0, SIZE, SIZE)
    assert tree(directory) == {"x": CONTENT}


def test_a_connection_that_is_reset_in_the_middle_is_tried_again(directory: Path, notes: Notes) -> None:
    with Misbehaving(lost(CUT), sends(CONTENT, CUT)) as fake:

        class ResetAtTheCut(Notes):
            def progress(self, transfer: Transfer) -> None:
                if transfer.done == CUT:
                    fake.gate.set()

        watching = ResetAtTheCut()
        with client_of(fake, watching) as client:
            client.get("x", directory)
    assert watching.codes == [56]
    assert ranges(fake) == [None, f"bytes={CUT}-"]
    assert tree(directory) == {"x": CONTENT}


def test_a_server_that_is_not_up_yet_is_tried_again(directory: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # others cannot have the port now, and nobody is reached at it
        listener.settimeout(GIVE_UP_S)
        line = command("127.0.0.1", str(listener.getsockname()[1]), "x", str(directory), "-v")
        with subprocess.Popen(line, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            first = process.stderr.readline()
            listener.listen()
            client, _ = listener.accept()
            with client:
                request(client)
                client.sendall(head(SIZE) + CONTENT)
            process.communicate(timeout=GIVE_UP_S)
    assert re.fullmatch(rb"gclient: x: cannot connect to 127.0.0.1 port \d+: .*; again in \d+ ms\n", first)
    assert process.returncode == 0
    assert tree(directory) == {"x": CONTENT}


def test_a_tls_handshake_that_is_reset_is_tried_again(directory: Path, notes: Notes, clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(GIVE_UP_S)

        def resets() -> None:
            for _ in range(3):
                client, _ = listener.accept()
                with client:
                    client.recv(1)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        thread = threading.Thread(target=resets)
        thread.start()
        port = listener.getsockname()[1]
        with (
            Client("127.0.0.1", port, tls=True, tries=3, observer=notes) as client,
            pytest.raises(Failure, match="no TLS with") as caught,
        ):
            client.get("x", directory)
        thread.join(GIVE_UP_S)
        assert not thread.is_alive()
    assert caught.value.code == 35
    assert notes.codes == [35, 35]


def test_cut_again_and_again_what_was_asked_for_adds_up(directory: Path, notes: Notes, clock: Clock) -> None:
    cuts = [CUT, CUT + 1, SIZE // 2, SIZE - 1]
    scripts = [sends(CONTENT, start, end) for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    with Misbehaving(*scripts) as fake, client_of(fake, notes) as client:
        transfer = client.get("x", directory)
    assert ranges(fake) == [None, *(f"bytes={cut}-" for cut in cuts)]
    assert {request.get("if-range") for request in fake.requests[1:]} == {'"v1"'}
    assert (transfer.resumed_from, transfer.done) == (0, SIZE)
    assert tree(directory) == {"x": CONTENT}


def test_a_file_that_changes_between_two_tries_starts_over(directory: Path, notes: Notes, clock: Clock) -> None:
    other = CONTENT[::-1]
    with (
        Misbehaving(
            sends(CONTENT, until=CUT), sends(other, until=10, etag='"v2"'), sends(other, 10, etag='"v2"')
        ) as fake,
        client_of(fake, notes) as client,
    ):
        client.get("x", directory)
    assert ranges(fake) == [None, f"bytes={CUT}-", "bytes=10-"]
    assert fake.requests[2]["if-range"] == '"v2"'
    assert tree(directory) == {"x": other}


def test_a_server_that_is_busy_in_the_middle_of_it_loses_nothing(
    directory: Path, notes: Notes, clock: Clock
) -> None:
    with (
        Misbehaving(sends(CONTENT, until=CUT), says(BUSY), sends(CONTENT, CUT)) as fake,
        client_of(fake, notes) as client,
    ):
        client.get("x", directory)
    assert notes.codes == [18, 22]
    assert ranges(fake) == [None, f"bytes={CUT}-", f"bytes={CUT}-"]
    assert tree(directory) == {"x": CONTENT}


# What is not


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (head(3, "404 Not Found") + b"no\n", 22),
        (head(3, "401 Unauthorized") + b"no\n", 22),
        (head(3, "403 Forbidden") + b"no\n", 22),
        (head(3, "408 Request Timeout") + b"no\n", 22),
        (head(3, "410 Gone") + b"no\n", 22),
        (head(3, "429 Too Many Requests", Retry_After="0") + b"no\n", 22),
        (head(3, "500 Internal Server Error", Retry_After="0") + b"no\n", 22),
        (head(3, "502 Bad Gateway") + b"no\n", 22),
        (head(0, "301 Moved Permanently", Location="/y"), 22),
        (head(0, "302 Found", Location="/y"), 22),
        (head(0, "204 No Content"), 22),
        (b"HTTP/1.1 200 OK\r\n\r\nwhat is it", 8),
        (b"220 mail.example\r\n", 8),
        (head(5, Content_Encoding="gzip") + b"12345", 8),
        (head(1, "206 Partial Content", Content_Range="bytes 1-1/2") + b"2", 33),
        (head(5, Repr_Digest=f"sha-256=:{'A' * 43}=:") + b"12345", 32),
    ],
)
def test_what_will_not_go_better_is_asked_once(directory: Path, notes: Notes, answer: bytes, code: int) -> None:
    with (
        Misbehaving(says(answer), sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", directory)
    assert caught.value.code == code
    assert len(fake.requests) == 1
    assert notes.codes == []
    assert tree(directory) == {}


def test_a_name_without_an_address_is_looked_up_once(directory: Path, notes: Notes) -> None:
    with Client("no-such-host.invalid", 80, observer=notes) as client, pytest.raises(Failure) as caught:
        client.get("x", directory)
    assert (caught.value.code, notes.codes) == (6, [])


def test_the_real_servers_refusals_are_asked_for_once(folder: Path, directory: Path) -> None:
    (folder / "sub").mkdir()
    with Program(folder) as server:
        result = gclient(*address(server), "get", "none", "-d", str(directory), "-v")
        assert result.returncode == 22
        assert result.stderr.count(b"> GET ") == 1
    assert tree(directory) == {}


@pytest.mark.parametrize("ask", [Client.list, Client.stats, Client.health, Client.entries])
@pytest.mark.parametrize("first", [hung_up_on, says(BUSY), sends(CONTENT, until=CUT)])
def test_only_files_are_tried_again(notes: Notes, ask: Callable[[Client], object], first: Script) -> None:
    with (
        Misbehaving(first, sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes) as client,
        pytest.raises(Failure),
    ):
        ask(client)
    assert len(fake.requests) == 1
    assert notes.codes == []


def test_a_failure_to_write_is_not_tried_again(directory: Path, notes: Notes) -> None:
    class Full:
        def write(self, piece: bytes) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

    with (
        Misbehaving(sends(CONTENT), sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes) as client,
        pytest.raises(Failure, match="cannot write: No space left on device") as caught,
    ):
        client.get("x", Full())  # type: ignore[arg-type]
    assert (caught.value.code, len(fake.requests)) == (23, 1)


# How often


@pytest.mark.parametrize("tries", [1, 2, 5, 7])
def test_it_tries_so_often_and_no_more(directory: Path, notes: Notes, clock: Clock, tries: int) -> None:
    scripts = [sends(CONTENT, start, start + 10) for start in range(0, tries * 10, 10)]
    with (
        Misbehaving(*scripts, sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes, tries=tries) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", directory)
    assert caught.value.code == 18
    assert len(fake.requests) == tries
    assert len(notes.waits_s) == tries - 1
    assert (directory / "x.part").read_bytes() == CONTENT[: tries * 10]


def test_it_tries_at_least_once(directory: Path, notes: Notes) -> None:
    with Misbehaving(says(BUSY), sends(CONTENT)) as fake, client_of(fake, notes, tries=0) as client:
        with pytest.raises(Failure) as caught:
            client.get("x", directory)
        assert (caught.value.code, len(fake.requests)) == (22, 1)
        assert client.get("x", directory).size == SIZE
    assert notes.codes == []


@pytest.mark.parametrize("when", ["before it waits", "while it waits"])
def test_who_is_closed_does_not_try_again(directory: Path, clock: Clock, when: str) -> None:
    class Closes(Notes):
        def progress(self, transfer: Transfer) -> None:
            if when == "before it waits" and transfer.done == CUT:
                client.close()

        def retry(self, transfer: Transfer, failure: Failure, wait_s: float) -> None:
            super().retry(transfer, failure, wait_s)
            client.close()

    closes = Closes()
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT), may_stay_away=True) as fake:
        client = client_of(fake, closes)
        with pytest.raises(Failure) as caught:
            client.get("x", directory)
        assert caught.value.code == (56 if when == "before it waits" else 18)
        assert len(fake.requests) == 1
    assert closes.codes == ([] if when == "before it waits" else [18])
    assert (directory / "x.part").read_bytes() == CONTENT[:CUT]


def test_who_is_closed_does_not_wait_for_a_busy_server(directory: Path, clock: Clock) -> None:
    class Closes(Notes):
        def head(self, mark: str, text: str) -> None:
            if mark == "<":
                client.close()

    closes = Closes()
    with Misbehaving(says(BUSY)) as fake:
        client = client_of(fake, closes)
        with pytest.raises(Failure) as caught:
            client.get("x", directory)
    assert caught.value.code == 22
    assert (closes.codes, clock.slept_s) == ([], [])


def test_who_is_closed_connects_to_nobody(directory: Path, notes: Notes) -> None:
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        client = client_of(fake, notes)
        client.close()
        for _ in range(2):
            with pytest.raises(Failure, match="the connection was closed") as caught:
                client.get("x", directory)
            assert caught.value.code == 56
    assert fake.requests == []
    assert notes.codes == []
    assert tree(directory) == {}


def test_the_last_try_may_be_the_one(directory: Path, notes: Notes, clock: Clock) -> None:
    with Misbehaving(*[says(BUSY)] * 4, sends(CONTENT)) as fake, client_of(fake, notes) as client:
        client.get("x", directory)
    assert notes.codes == [22] * 4
    assert tree(directory) == {"x": CONTENT}


def test_each_file_has_its_own_tries(directory: Path, notes: Notes, clock: Clock) -> None:
    busy_once = [says(BUSY), sends(CONTENT)]
    with Misbehaving(*busy_once * 3) as fake, client_of(fake, notes, tries=2) as client:
        for name in ("x", "y", "z"):
            client.get(name, directory)
    assert notes.waits_s == [0.25] * 3
    assert tree(directory) == dict.fromkeys("xyz", CONTENT)


@pytest.mark.parametrize(("options", "tries"), [([], 5), (["--tries", "1"], 1), (["--tries", "2"], 2)])
def test_the_command_tries_five_times_or_as_it_is_told(directory: Path, options: list[str], tries: int) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        there = ("127.0.0.1", str(nobody.getsockname()[1]))
        result = gclient(*there, "get", "x", "-d", str(directory), "-v", *options)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 7
    assert [("again in" in line) for line in lines] == [True] * (tries - 1) + [False]
    assert tree(directory) == {}


@pytest.mark.parametrize("text", ["0", "-1", "1001", "x", "1.5", ""])
def test_a_number_of_tries_is_from_1_to_1000(directory: Path, text: str) -> None:
    result = gclient("127.0.0.1", "1", "x", str(directory), f"--tries={text}")
    assert result.returncode == 2
    assert b"is not a number from 1 to 1000" in result.stderr


def test_without_a_terminal_nothing_is_said_of_tries(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT, CUT)) as fake:
        result = gclient(*fake.address, "x", str(directory))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


# How long it waits


def test_each_wait_is_twice_the_one_before(directory: Path, notes: Notes, clock: Clock) -> None:
    with (
        Misbehaving(*[sends(CONTENT, until=0)] * 6) as fake,
        client_of(fake, notes, tries=6) as client,
        pytest.raises(Failure),
    ):
        client.get("x", directory)
    assert clock.slept_s == notes.waits_s == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_a_wait_is_up_to_a_half_more_or_less(
    directory: Path, notes: Notes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return [least, most][len(asked) % 2]

    monkeypatch.setattr(random, "uniform", uniform)
    with Misbehaving(*[says(BUSY)] * 4, sends(CONTENT)) as fake, client_of(fake, notes) as client:
        client.get("x", directory)
    assert asked == [(0.5, 1.5)] * 4
    assert clock.slept_s == [0.375, 0.25, 1.5, 1.0]


def test_two_clients_do_not_wait_equally_long(
    directory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    again = Clock()
    monkeypatch.setattr(
        client_module,
        "time",
        SimpleNamespace(
            time=again.time,
            monotonic=again.monotonic,
            time_ns=again.time_ns,
            sleep=again.sleep,
            gmtime=time.gmtime,
        ),
    )
    for _ in range(2):
        with Misbehaving(*[says(BUSY)] * 4, sends(CONTENT)) as fake, client_of(fake, Notes()) as client:
            client.get("x", directory)
    assert again.slept_s[:4] != again.slept_s[4:]


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "300"}, 300.0),
        ({"Retry_After": "0"}, 0.25),
        ({"Retry_After": formatdate(1_000_000_009, usegmt=True)}, 8.75),
        ({"Retry_After": formatdate(999_999_000, usegmt=True)}, 0.25),
        ({"Retry_After": "soon"}, 0.25),
        ({"Retry_After": "-7"}, 0.25),
        ({"Retry_After": "1.5"}, 0.25),
        ({"Retry_After": "²"}, 0.25),
        ({"Retry_After": ""}, 0.25),
        ({}, 0.25),
    ],
)
def test_a_busy_server_is_asked_again_when_it_says(
    directory: Path, notes: Notes, clock: Clock, fields: dict[str, str], wait_s: float
) -> None:
    busy = head(0, "503 Service Unavailable", **fields)
    with Misbehaving(says(busy), sends(CONTENT)) as fake, client_of(fake, notes) as client:
        client.get("x", directory)
    assert clock.slept_s == [wait_s]
    assert tree(directory) == {"x": CONTENT}


def test_a_longer_backoff_than_the_server_says_is_kept(directory: Path, notes: Notes, clock: Clock) -> None:
    busy = head(0, "503 Service Unavailable", Retry_After="1")
    with Misbehaving(*[says(busy)] * 5, sends(CONTENT)) as fake, client_of(fake, notes, tries=6) as client:
        client.get("x", directory)
    assert clock.slept_s == [1.0, 1.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    "retry_after",
    ["301", "86400", "9" * 400, formatdate(1_000_000_301, usegmt=True), formatdate(2**33, usegmt=True)],
)
def test_a_server_that_is_busy_for_long_is_not_waited_for(
    directory: Path, notes: Notes, clock: Clock, retry_after: str
) -> None:
    busy = head(5, "503 Service Unavailable", Retry_After=retry_after) + b"busy\n"
    with (
        Misbehaving(says(busy), sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes) as client,
        pytest.raises(Failure, match=r"^busy \(in .*, it says\)$") as caught,
    ):
        client.get("x", directory)
    assert caught.value.code == 22
    assert (len(fake.requests), clock.slept_s) == (1, [])


def test_the_command_waits_as_long_as_a_busy_server_says(directory: Path) -> None:
    busy = head(5, "503 Service Unavailable", Retry_After="1") + b"busy\n"
    with Misbehaving(says(busy), sends(CONTENT)) as fake:
        result = gclient(*fake.address, "x", str(directory), "-v")
    assert result.returncode == 0
    assert b"gclient: x: busy; again in 1 s\n" in result.stderr
    assert tree(directory) == {"x": CONTENT}


# The time for all of it


@pytest.mark.parametrize("script", [silent_until_left, stops_at(CUT)], ids=["silent", "stopped"])
def test_the_command_waits_for_bytes_as_long_as_it_is_told(directory: Path, script: Script) -> None:
    with Misbehaving(script) as fake:
        code, told = fetched(fake.address, "x", directory, "--timeout", "0.3", "--tries", "1")
    assert (code, told["error"]) == (28, "nothing came for 0.3 s")


def test_who_waits_for_ever_is_served(directory: Path, notes: Notes) -> None:
    with Misbehaving(sends(CONTENT)) as fake, client_of(fake, notes, timeout_s=float("inf")) as client:
        assert client.get("x", directory).size == SIZE


def test_a_head_that_trickles_has_no_more_time_than_one_that_does_not_come(directory: Path, notes: Notes) -> None:
    def trickles_a_head(client: socket.socket, gate: threading.Event) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            while not gate.wait(0.01):
                client.sendall(b"x")

    with (
        Misbehaving(trickles_a_head) as fake,
        client_of(fake, notes, tries=1, timeout_s=0.3) as client,
        pytest.raises(Failure, match="nothing came for") as caught,
    ):
        client.get("x", directory)
    assert caught.value.code == 28


@pytest.mark.parametrize("script", [silent, trickles_for_ever], ids=["silent", "trickling"])
def test_the_time_for_all_of_it_bounds_a_try(directory: Path, script: Script) -> None:
    with Misbehaving(script, may_stay_away=True) as fake:
        code, told = fetched(fake.address, "x", directory, "--max-time", "0.5")
        assert len(fake.requests) == 1
    assert (code, told["error"]) == (28, "it took longer than 0.5 s")
    assert set(tree(directory)) in (set(), {"x.part", "x.part.json"})


def test_the_time_for_all_of_it_bounds_the_tries(directory: Path) -> None:
    with Misbehaving(*[silent_until_left] * 50, may_stay_away=True) as fake:
        options = ("--max-time", "1", "--timeout", "0.1", "--tries", "50")
        code, told = fetched(fake.address, "x", directory, *options)
        asked = len(fake.requests)
    assert (code, told["exit_code"]) == (28, 28)
    assert 1 <= asked < 10


@pytest.mark.parametrize(
    ("first", "code"), [(says(head(0, "503 Busy", Retry_After="20")), 22), (sends(CONTENT, until=CUT), 18)]
)
def test_a_wait_that_would_take_longer_is_not_begun(
    directory: Path, notes: Notes, clock: Clock, first: Script, code: int
) -> None:
    with (
        Misbehaving(first, sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes, max_time_s=0.2) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", directory)
    assert caught.value.code == code
    assert (len(fake.requests), clock.slept_s, notes.codes) == (1, [], [])


def test_waits_count_towards_the_time_for_all_of_it(directory: Path, notes: Notes, clock: Clock) -> None:
    busy = says(head(0, "503 Busy", Retry_After="20"))
    with (
        Misbehaving(*[busy] * 5, may_stay_away=True) as fake,
        client_of(fake, notes, max_time_s=50) as client,
        pytest.raises(Failure),
    ):
        client.get("x", directory)
    assert clock.slept_s == [20.0, 20.0]


def test_each_file_has_the_time_to_itself(directory: Path, notes: Notes, clock: Clock) -> None:
    busy_once = [says(head(0, "503 Busy", Retry_After="20")), sends(CONTENT)]
    with Misbehaving(*busy_once * 3) as fake, client_of(fake, notes, max_time_s=30) as client:
        for name in ("x", "y", "z"):
            client.get(name, directory)
    assert clock.slept_s == [20.0] * 3


# The connection that is kept


def kept(*contents: bytes) -> Script:
    """One answer for each request on the connection, which then ends while it is idle."""
    return says(*[head(len(content), ETag='"v1"') + content for content in contents])


def after_the_next_request(client: socket.socket, _gate: threading.Event) -> None:
    """Answer one, and end the connection when the next has come."""
    client.sendall(head(SIZE, ETag='"v1"') + CONTENT)
    request(client)


def test_files_come_over_one_connection(directory: Path) -> None:
    with Misbehaving(kept(CONTENT, b"2", b"3")) as fake:
        assert gclient(*fake.address, "get", "x", "y", "z", "-d", str(directory)).returncode == 0
    assert tree(directory) == {"x": CONTENT, "y": b"2", "z": b"3"}


@pytest.mark.parametrize("ends", [kept(CONTENT), after_the_next_request], ids=["before", "after it was asked"])
def test_an_idle_connection_that_the_server_ends_costs_no_try(directory: Path, notes: Notes, ends: Script) -> None:
    with Misbehaving(ends, kept(b"2"), kept(b"3")) as fake, client_of(fake, notes, tries=1) as client:
        for name in ("x", "y", "z"):
            client.get(name, directory)
    assert notes.codes == []
    assert [each[""].split()[1] for each in fake.requests] == ["/x", "/y", "/z"]
    assert tree(directory) == {"x": CONTENT, "y": b"2", "z": b"3"}


def test_an_idle_connection_that_the_server_resets_costs_no_try(directory: Path, notes: Notes) -> None:
    def resets(client: socket.socket, _gate: threading.Event) -> None:
        client.sendall(head(SIZE) + CONTENT)
        request(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with Misbehaving(resets, kept(b"2")) as fake, client_of(fake, notes, tries=1) as client:
        client.get("x", directory)
        client.get("y", directory)
    assert notes.codes == []
    assert tree(directory) == {"x": CONTENT, "y": b"2"}


def test_a_connection_that_the_server_gives_up_as_idle_costs_no_try(directory: Path, notes: Notes) -> None:
    idle = says(head(1) + b"1", head(5, "408 Request Timeout", Connection="close") + b"idle\n")
    with Misbehaving(idle, kept(b"2")) as fake, client_of(fake, notes, tries=1) as client:
        client.get("x", directory)
        client.get("y", directory)
    assert notes.codes == []
    assert tree(directory) == {"x": b"1", "y": b"2"}


def test_a_new_connection_without_an_answer_costs_a_try(directory: Path, notes: Notes) -> None:
    with (
        Misbehaving(hung_up_on, sends(CONTENT), may_stay_away=True) as fake,
        client_of(fake, notes, tries=1) as client,
        pytest.raises(Failure) as caught,
    ):
        client.get("x", directory)
    assert (caught.value.code, len(fake.requests)) == (56, 1)


def test_a_kept_connection_and_a_new_one_without_an_answer_cost_one_try(
    directory: Path, notes: Notes, clock: Clock
) -> None:
    with (
        Misbehaving(after_the_next_request, hung_up_on, kept(b"2")) as fake,
        client_of(fake, notes, tries=2) as client,
    ):
        client.get("x", directory)
        client.get("y", directory)
    assert notes.codes == [56]
    assert tree(directory) == {"x": CONTENT, "y": b"2"}


def test_a_kept_connection_that_ends_in_the_middle_of_an_answer_costs_a_try(
    directory: Path, notes: Notes, clock: Clock
) -> None:
    with (
        Misbehaving(says(head(1) + b"1", b"HTTP/1.1 200"), kept(b"2")) as fake,
        client_of(fake, notes, tries=2) as client,
    ):
        client.get("x", directory)
        client.get("y", directory)
    assert notes.codes == [18]
    assert tree(directory) == {"x": b"1", "y": b"2"}


def test_a_kept_connection_on_which_nothing_comes_is_a_time_out(directory: Path, notes: Notes) -> None:
    def stalls(client: socket.socket, _gate: threading.Event) -> None:
        client.sendall(head(1) + b"1")
        request(client)
        client.recv(1)

    with (
        Misbehaving(stalls, kept(b"2"), may_stay_away=True) as fake,
        client_of(fake, notes, tries=1, timeout_s=0.3) as client,
    ):
        client.get("x", directory)
        with pytest.raises(Failure) as caught:
            client.get("y", directory)
        assert len(fake.requests) == 1
    assert caught.value.code == 28


def test_a_server_that_closes_after_each_answer_is_connected_to_anew(directory: Path, notes: Notes) -> None:
    closing = [says(head(1, Connection="close") + each) for each in (b"1", b"2")]
    with Misbehaving(*closing) as fake, client_of(fake, notes, tries=1) as client:
        client.get("x", directory)
        client.get("y", directory)
    assert notes.codes == []
    assert tree(directory) == {"x": b"1", "y": b"2"}


def test_a_connection_that_the_server_is_done_with_is_left(directory: Path, notes: Notes) -> None:
    came: list[bytes] = []

    def is_done_with(client: socket.socket, _gate: threading.Event) -> None:
        client.sendall(head(1, Connection="close") + b"1")
        came.append(client.recv(1))

    with Misbehaving(is_done_with, kept(b"2")) as fake, client_of(fake, notes, tries=1) as client:
        client.get("x", directory)
        client.get("y", directory)
    assert came == [b""]
    assert tree(directory) == {"x": b"1", "y": b"2"}


def test_after_a_failure_the_next_file_begins_on_a_new_connection(directory: Path, notes: Notes) -> None:
    """What was left of the answer is not taken for the next."""
    refuses = says(head(SIZE, "404 Not Found", content_type="text/html") + CONTENT)
    with Misbehaving(refuses, kept(b"2")) as fake, client_of(fake, notes) as client:
        with pytest.raises(Failure):
            client.get("x", directory)
        client.get("y", directory)
    assert tree(directory) == {"y": b"2"}


def test_a_server_that_has_stopped_between_two_files_cannot_be_connected_to(
    folder: Path, directory: Path, notes: Notes
) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server, Client(server.host, server.port, tries=1, observer=notes) as client:
        client.get("x", directory)
        server.stop()
        with pytest.raises(Failure) as caught:
            client.get("x", directory)
    assert caught.value.code == 7


def test_the_real_servers_end_of_an_idle_connection_costs_no_try(
    folder: Path, directory: Path, notes: Notes
) -> None:
    (folder / "x").write_bytes(CONTENT)
    with (
        Program(folder, "--idle-timeout", "0.1") as server,
        Client(server.host, server.port, tries=1, observer=notes) as client,
    ):
        client.get("x", directory)
        deadline_s = time.monotonic() + GIVE_UP_S
        while server.stats()["connections"] > 1:  # the one that asks
            assert time.monotonic() < deadline_s
        assert client.get("x", directory).size == SIZE
    assert notes.codes == []
