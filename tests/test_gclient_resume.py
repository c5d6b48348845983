"""What gclient.py leaves when a transfer ends early, and what the same command makes of it later: the right file,
or a clear refusal, and never a mixture."""

import base64
import fcntl
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import gclient as client_module
from tests.clients import address, command, error_line, fetched, tree
from tests.misbehaving import GIVE_UP_S, Misbehaving, Script, head, held, says, sends
from tests.program import Program, gclient, until

CONTENT = random.Random(9).randbytes(2_500_000)
OTHER = random.Random(10).randbytes(2_500_000)
SIZE = len(CONTENT)
CUT = 1_300_001

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Runs a program that cannot make a file longer than so many bytes."""

KILLED = """
import os, runpy, signal, sys
left, write = int(sys.argv[1]), os.write

def write_or_die(descriptor, piece):
    global left
    count = write(descriptor, piece[:left])
    left -= count
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return count

os.write = write_or_die
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a Python program that gets SIGKILL when it has written so many bytes."""

KILLED_AT_A_LINE = """
import os, runpy, signal, sys
left = int(sys.argv[1])

def trace(frame, event, argument):
    global left
    if not frame.f_code.co_qualname.startswith(("PartFile.", "Client._fetch", "Client._receive")):
        return None
    if event == "line":
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.argv = sys.argv[2:]
sys.settrace(trace)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs gclient.py until so many lines of what writes a file have been run, then SIGKILL."""

KILLED_AT_A_CALL = """
import os, runpy, signal, sys
setattr(os, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a Python program that gets SIGKILL when it calls that function of os."""

FAILS_AT_A_CALL = """
import os, runpy, sys

def fail(*_, **__):
    raise OSError(5, "Input/output error")

setattr(os, sys.argv[1], fail)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a Python program for which that function of os fails."""

AS_ANOTHER = """
import os, runpy, sys
another = int(sys.argv[1])
os.geteuid = lambda: another
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a Python program that takes itself for another user's."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty folder to download into."""
    path = tmp_path / "into"
    path.mkdir()
    return path


def wrapped(wrapper: str, argument: object, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run gclient.py inside one of the wrappers."""
    line = [sys.executable, "-c", wrapper, str(argument), *command(*arguments)[1:]]
    if wrapper is LIMITED:
        line.insert(4, "-B")
    return subprocess.run(line, capture_output=True, timeout=60, check=False)


def state(there: tuple[str, str], name: str = "x", etag: str = '"v1"', size: int = SIZE) -> dict[str, Any]:
    """What is to be known of a part."""
    return {"url": f"http://{there[0]}:{there[1]}/{name}", "etag": etag, "size": size}


def plant(directory: Path, part: bytes, known: dict[str, Any] | bytes, name: str = "x") -> None:
    """Leave a part and its state as an interrupted gclient does."""
    (directory / f"{name}.part").write_bytes(part)
    octets = known if isinstance(known, bytes) else json.dumps(known).encode()
    (directory / f"{name}.part.json").write_bytes(octets)


def called(
    there: tuple[str, str], name: str, directory: Path, *, tries: int = 5, checksum: str | None = None
) -> tuple[int, dict[str, Any]]:
    """What `fetched` gives, without a process."""
    with client_module.Client(there[0], int(there[1]), tries=tries) as client:
        try:
            transfer = client.get(name, directory, checksum=checksum)
        except client_module.Failure as failure:
            return failure.code, {"error": str(failure), "exit_code": failure.code}
    assert transfer.path == str(directory / name.rpartition("/")[2])
    return 0, {
        "bytes": transfer.size,
        "digest": transfer.digest,
        "resumed_from": transfer.resumed_from,
        "up_to_date": transfer.is_up_to_date,
    }


def digest(content: bytes) -> str:
    """The content of Repr-Digest."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def checksum(content: bytes) -> str:
    """As --checksum takes it."""
    return f"sha-256={hashlib.sha256(content).hexdigest()}"


def length(path: Path) -> int:
    """How many bytes are there."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def started(*arguments: str) -> "subprocess.Popen[bytes]":
    """gclient.py, which Ctrl-C will interrupt."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, interrupt)


def heads(told: bytes, mark: str) -> list[str]:
    """Of what `-v` has shown, the first lines of requests (`>`) or answers (`<`)."""
    starts = {">": "> GET ", "<": "< HTTP/1.1 "}[mark]
    return [line.removeprefix(starts) for line in told.decode().splitlines() if line.startswith(starts)]


def ranges(fake: Misbehaving) -> list[str | None]:
    """What was asked for in each request."""
    return [request.get("range") for request in fake.requests]


# What is left, and how it goes on


def test_what_a_cut_transfer_leaves_is_its_beginning_and_of_what_it_is_one(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT)) as fake:
        code, told = fetched(fake.address, "x", directory, "--tries", "1")
    assert (code, told["exit_code"]) == (18, 18)
    assert set(tree(directory)) == {"x.part", "x.part.json"}
    assert (directory / "x.part").read_bytes() == CONTENT[:CUT]
    assert json.loads((directory / "x.part.json").read_bytes()) == state(fake.address)


def test_the_same_command_asks_for_the_rest_of_the_same_version(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT, start=CUT)) as fake:
        assert fetched(fake.address, "x", directory, "--tries", "1")[0] == 18
        code, told = fetched(fake.address, "x", directory)
    assert (code, told["bytes"], told["resumed_from"], told["up_to_date"]) == (0, SIZE, CUT, False)
    assert tree(directory) == {"x": CONTENT}
    first, second = fake.requests
    assert "range" not in first
    assert "if-range" not in first
    assert (second["range"], second["if-range"]) == (f"bytes={CUT}-", '"v1"')
    assert "if-modified-since" not in second


@pytest.mark.parametrize("cut", [1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, SIZE - 1])
def test_wherever_it_was_cut_it_goes_on_there(directory: Path, cut: int) -> None:
    with Misbehaving(sends(CONTENT, until=cut), sends(CONTENT, start=cut)) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert called(fake.address, "x", directory)[1]["resumed_from"] == cut
    assert tree(directory) == {"x": CONTENT}


def test_a_part_that_is_cut_again_and_again_grows(directory: Path) -> None:
    cuts = [10, 1 << 20, CUT, SIZE - 10]
    scripts = [sends(CONTENT, start, end) for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    with Misbehaving(*scripts) as fake:
        for cut in cuts:
            assert called(fake.address, "x", directory, tries=1)[0] == 18
            assert length(directory / "x.part") == cut
        assert called(fake.address, "x", directory)[0] == 0
    assert tree(directory) == {"x": CONTENT}
    assert ranges(fake) == [None, *(f"bytes={cut}-" for cut in cuts)]


def test_a_rest_that_does_not_repeat_its_version_is_cut_and_goes_on(directory: Path) -> None:
    with Misbehaving(
        sends(CONTENT, until=10), sends(CONTENT, 10, CUT, etag=""), sends(CONTENT, CUT, etag="")
    ) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert called(fake.address, "x", directory, tries=1)[0] == 0
    assert ranges(fake) == [None, "bytes=10-", f"bytes={CUT}-"]
    assert tree(directory) == {"x": CONTENT}


def test_the_real_server_sends_what_is_missing(folder: Path, directory: Path) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server:
        result = wrapped(LIMITED, CUT, *address(server), "x", str(directory))
        assert (result.returncode, result.stderr) == (
            23,
            f"gclient: cannot write {directory}/x.part: File too large\n".encode(),
        )
        assert (directory / "x.part").read_bytes() == CONTENT[:CUT]
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v", "--json")
    assert result.returncode == 0
    assert f"> Range: bytes={CUT}-\n".encode() in result.stderr
    assert b"> If-Range: " in result.stderr
    assert heads(result.stderr, "<") == ["206 Partial Content"]
    assert json.loads(result.stdout)["resumed_from"] == CUT
    assert tree(directory) == {"x": CONTENT}


@pytest.mark.parametrize("changed", [OTHER, OTHER + b"more", OTHER[:CUT], OTHER[: CUT - 1], CONTENT, b""])
def test_a_file_that_was_replaced_on_the_real_server_starts_over(
    folder: Path, directory: Path, changed: bytes
) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder, "--revalidate", "0") as server:
        assert wrapped(LIMITED, CUT, *address(server), "x", str(directory)).returncode == 23
        (folder / "new").write_bytes(changed)
        os.utime(folder / "new", ns=(0, 10**18))
        (folder / "new").rename(folder / "x")
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v", "--json")
    assert result.returncode == 0
    assert f"> Range: bytes={CUT}-\n".encode() in result.stderr
    assert heads(result.stderr, "<") == ["200 OK"]
    assert json.loads(result.stdout)["resumed_from"] == 0
    assert tree(directory) == {"x": changed}


def test_a_full_answer_to_a_range_starts_over(directory: Path) -> None:
    with Misbehaving(sends(OTHER, etag='"v2"')) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        code, told = fetched(fake.address, "x", directory)
    assert (code, told["resumed_from"]) == (0, 0)
    assert tree(directory) == {"x": OTHER}


def test_a_full_answer_that_is_cut_leaves_its_own_beginning(directory: Path) -> None:
    shorter = OTHER[:-5]
    with Misbehaving(sends(shorter, until=100, etag='"v2"'), sends(shorter, start=100, etag='"v2"')) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert (directory / "x.part").read_bytes() == OTHER[:100]
        assert json.loads((directory / "x.part.json").read_bytes()) == state(
            fake.address, etag='"v2"', size=len(shorter)
        )
        assert called(fake.address, "x", directory)[0] == 0
    assert fake.requests[1]["if-range"] == '"v2"'
    assert tree(directory) == {"x": shorter}


@pytest.mark.parametrize(
    "useless",
    [
        sends(OTHER, start=CUT, etag='"v2"'),
        sends(OTHER, start=CUT, etag='W/"v1"'),
        sends(CONTENT + b"more", start=CUT),
        sends(CONTENT[:-1], start=CUT),
        says(head(0, "416 Range Not Satisfiable", Content_Range=f"bytes */{SIZE}", Connection="close")),
    ],
    ids=["another version", "a weak version", "longer", "shorter", "no such range"],
)
def test_a_rest_of_something_else_starts_over(directory: Path, useless: Script) -> None:
    with Misbehaving(useless, sends(OTHER, etag='"v2"')) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        code, told = called(fake.address, "x", directory, tries=1)
    assert (code, told["resumed_from"], told["bytes"]) == (0, 0, SIZE)
    assert ranges(fake) == [f"bytes={CUT}-", None]
    assert "if-range" not in fake.requests[1]
    assert tree(directory) == {"x": OTHER}


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-{SIZE - 1}/{SIZE}",
        f"bytes {CUT - 1}-{SIZE - 1}/{SIZE}",
        f"bytes {CUT + 1}-{SIZE - 1}/{SIZE}",
        f"bytes {CUT}-{SIZE - 2}/{SIZE}",
        f"bytes {CUT}-{SIZE}/{SIZE}",
        f"bytes {CUT}-{SIZE - 1}/*",
        f"bytes */{SIZE}",
        f"octets {CUT}-{SIZE - 1}/{SIZE}",
        "bytes",
        "",
    ],
)
def test_a_rest_that_is_not_what_was_asked_for_is_refused_and_the_part_goes(
    directory: Path, content_range: str
) -> None:
    """Or every further call would end there."""
    with Misbehaving(sends(CONTENT, start=CUT, Content_Range=content_range), sends(CONTENT)) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        code, told = called(fake.address, "x", directory)
        assert (code, told["exit_code"]) == (33, 33)
        assert tree(directory) == {}
        assert called(fake.address, "x", directory)[1]["resumed_from"] == 0
    assert ranges(fake) == [f"bytes={CUT}-", None]
    assert tree(directory) == {"x": CONTENT}


def test_a_rest_of_another_length_than_its_range_is_refused(directory: Path) -> None:
    answer = head(
        SIZE - CUT - 1, "206 Partial Content", ETag='"v1"', Content_Range=f"bytes {CUT}-{SIZE - 1}/{SIZE}"
    )
    with Misbehaving(says(answer + CONTENT[CUT:-1])) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert called(fake.address, "x", directory)[0] == 33
    assert tree(directory) == {}


def test_a_part_that_nobody_asked_for_is_refused(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, start=CUT)) as fake:
        assert called(fake.address, "x", directory)[0] == 33
    assert tree(directory) == {}


def test_a_416_that_nobody_asked_for_is_a_refusal(directory: Path) -> None:
    with Misbehaving(says(head(0, "416 Range Not Satisfiable"))) as fake:
        assert called(fake.address, "x", directory)[0] == 22
    assert tree(directory) == {}


def test_the_part_of_a_file_that_the_server_refuses_now_is_kept(directory: Path) -> None:
    with Misbehaving(says(head(4, "404 Not Found") + b"gone"), sends(CONTENT, start=CUT)) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert called(fake.address, "x", directory)[0] == 22
        assert (directory / "x.part").read_bytes() == CONTENT[:CUT]
        assert called(fake.address, "x", directory)[1]["resumed_from"] == CUT
    assert tree(directory) == {"x": CONTENT}


@pytest.mark.parametrize("wrapper", [KILLED_AT_A_CALL, FAILS_AT_A_CALL], ids=["killed", "failed"])
@pytest.mark.parametrize("call", ["replace", "utime"])
def test_a_part_that_was_complete_gets_its_name(folder: Path, directory: Path, call: str, wrapper: str) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server:
        result = wrapped(wrapper, call, *address(server), "x", str(directory))
        assert result.returncode == (-signal.SIGKILL if wrapper is KILLED_AT_A_CALL else 23)
        assert (directory / "x.part").read_bytes() == CONTENT
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v", "--json")
    assert result.returncode == 0
    assert f"> Range: bytes={SIZE - 1}-\n".encode() in result.stderr
    assert json.loads(result.stdout)["resumed_from"] == SIZE - 1
    assert tree(directory) == {"x": CONTENT}


def test_a_complete_part_of_a_file_that_has_changed_starts_over(directory: Path) -> None:
    with Misbehaving(sends(OTHER, etag='"v2"')) as fake:
        plant(directory, CONTENT, state(fake.address))
        assert called(fake.address, "x", directory)[1]["resumed_from"] == 0
    assert ranges(fake) == [f"bytes={SIZE - 1}-"]
    assert tree(directory) == {"x": OTHER}


# Parts and states that are not what they should be


def of_url(url: str) -> Callable[[tuple[str, str]], dict[str, Any]]:
    """A state that is in order, but of this URL."""
    return lambda there: {**state(there), "url": url.format(*there)}


@pytest.mark.parametrize(
    "known",
    [
        lambda _: b"",
        lambda _: b"{",
        lambda _: b"null",
        lambda _: b"[]",
        lambda _: b'"x"',
        lambda _: b"\xff\xfe\x00",
        lambda _: b"[" * 60_000,
        lambda _: b"9" * 5000,
        lambda there: json.dumps(state(there)).encode()[:-1],
        lambda there: {"note": "x" * 70_000, **state(there)},
        lambda there: [state(there)],
        lambda there: {**state(there), "etag": ""},
        lambda there: {**state(there), "etag": None},
        lambda there: {**state(there), "etag": 1},
        lambda there: {**state(there), "size": str(SIZE)},
        lambda there: {**state(there), "size": SIZE + 0.5},
        lambda there: {**state(there), "size": None},
        lambda there: {**state(there), "size": -1},
        lambda there: {**state(there), "size": CUT - 1},
        lambda there: {"etag": '"v1"', "size": SIZE},
        of_url("http://{0}:{1}/y"),
        of_url("http://{0}:{1}/x/x"),
        of_url("http://{0}:1/x"),
        of_url("https://{0}:{1}/x"),
        of_url("http://localhost:{1}/x"),
    ],
)
def test_a_part_that_nobody_can_tell_of_what_it_is_starts_over(
    directory: Path, known: Callable[[tuple[str, str]], dict[str, Any] | bytes]
) -> None:
    with Misbehaving(sends(CONTENT)) as fake:
        plant(directory, OTHER[:CUT], known(fake.address))
        code, told = called(fake.address, "x", directory)
    assert (code, told["resumed_from"]) == (0, 0)
    assert ranges(fake) == [None]
    assert tree(directory) == {"x": CONTENT}


@pytest.mark.parametrize(
    "etag",
    ['"v1"\r\nX-Evil: 1', '"v1"\n', '"日本"', '"\ud800"', '"\0"'],
    ids=["CRLF", "LF", "wide", "half", "NUL"],
)
def test_a_state_cannot_put_anything_else_into_a_request(directory: Path, etag: str) -> None:
    with Misbehaving(sends(CONTENT)) as fake:
        plant(directory, OTHER[:CUT], state(fake.address, etag=etag))
        code, told = called(fake.address, "x", directory)
    assert (code, told["resumed_from"]) == (0, 0)
    assert "x-evil" not in fake.requests[0]
    assert tree(directory) == {"x": CONTENT}


def test_a_state_with_more_in_it_than_is_needed_is_used(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, start=CUT)) as fake:
        plant(directory, CONTENT[:CUT], {**state(fake.address), "of": "a later gclient"})
        assert called(fake.address, "x", directory)[1]["resumed_from"] == CUT
    assert tree(directory) == {"x": CONTENT}


def test_a_part_without_a_state_is_somebody_elses(directory: Path) -> None:
    (directory / "x.part").write_bytes(b"mine")
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, told = fetched(fake.address, "x", directory)
    assert (code, told["error"]) == (
        23,
        f"cannot write {directory}/x.part: it is no download of gclient's, or not yours",
    )
    assert fake.requests == []
    assert tree(directory) == {"x.part": b"mine"}


def test_an_empty_part_without_a_state_is_in_nobodys_way(directory: Path) -> None:
    (directory / "x.part").touch()
    with Misbehaving(sends(CONTENT)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
    assert tree(directory) == {"x": CONTENT}


def test_a_state_without_a_part_is_replaced(directory: Path) -> None:
    with Misbehaving(sends(CONTENT)) as fake:
        (directory / "x.part.json").write_text(json.dumps(state(fake.address, etag='"v0"')))
        assert called(fake.address, "x", directory)[0] == 0
    assert ranges(fake) == [None]
    assert tree(directory) == {"x": CONTENT}


@pytest.mark.parametrize("mine", [b"mine", b"[]", b"null", b"{}", b'{"url": "x", "etag": "y"}', b"[" * 60_000])
def test_a_state_without_a_part_that_is_none_of_gclients_is_left_alone(directory: Path, mine: bytes) -> None:
    (directory / "x.part.json").write_bytes(mine)
    with Misbehaving(sends(CONTENT)) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["error"]) == (
        23,
        f"cannot write {directory}/x.part.json: it is there, and not gclient's",
    )
    assert tree(directory) == {"x.part.json": mine}


def test_an_empty_state_without_a_part_is_replaced(directory: Path) -> None:
    (directory / "x.part.json").touch()
    with Misbehaving(sends(CONTENT)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
    assert tree(directory) == {"x": CONTENT}


@pytest.mark.parametrize("part", [b"", CONTENT[:CUT]], ids=["empty", "begun"])
def test_the_part_of_another_user_is_left_alone(directory: Path, part: bytes) -> None:
    with Misbehaving(sends(CONTENT, start=len(part)), may_stay_away=True) as fake:
        plant(directory, part, state(fake.address))
        before = tree(directory)
        result = wrapped(AS_ANOTHER, os.geteuid() + 1, *fake.address, "x", str(directory))
    assert (result.returncode, result.stderr) == (
        23,
        f"gclient: cannot write {directory}/x.part: it is no download of gclient's, or not yours\n".encode(),
    )
    assert fake.requests == []
    assert tree(directory) == before


def test_a_part_that_appears_before_ours_does_is_left_alone(directory: Path) -> None:
    def appears(client: socket.socket, gate: threading.Event) -> None:
        (directory / "x.part").write_bytes(b"theirs")
        sends(CONTENT)(client, gate)

    with Misbehaving(appears) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["error"]) == (23, f"cannot write {directory}/x.part: File exists")
    assert tree(directory) == {"x.part": b"theirs"}


def test_a_pipe_under_the_name_is_left_alone(directory: Path) -> None:
    os.mkfifo(directory / "x")
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["error"]) == (23, f"cannot write {directory}/x: it is there, and no file")
    assert fake.requests == []
    assert [(path.name, path.is_fifo()) for path in directory.iterdir()] == [("x", True)]


def link(path: Path) -> None:
    """A symbolic link to a file outside."""
    path.symlink_to(path.parent.parent / "outside")


def second_name(path: Path) -> None:
    """Another name of the file outside."""
    path.hardlink_to(path.parent.parent / "outside")


@pytest.mark.parametrize("put", [link, second_name, os.mkfifo, Path.mkdir])
def test_a_part_that_is_no_file_of_its_own_is_left_alone(
    directory: Path, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(CONTENT[:CUT])
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        (directory / "x.part.json").write_text(json.dumps(state(fake.address)))
        put(directory / "x.part")
        assert called(fake.address, "x", directory)[0] == 23
    assert fake.requests == []
    assert outside.read_bytes() == CONTENT[:CUT]
    assert not (directory / "x").exists()
    assert (directory / "x.part").exists()


def test_a_state_is_not_written_through_a_link(directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (directory / "x.part.json").symlink_to(outside)
    with Misbehaving(sends(CONTENT)) as fake:
        called(fake.address, "x", directory)
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize("part", [b"", OTHER[:CUT]])
def test_a_state_that_is_a_pipe_holds_nobody_up(directory: Path, part: bytes) -> None:
    os.mkfifo(directory / "x.part.json")
    (directory / "x.part").write_bytes(part)
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        line = command(*fake.address, "x", str(directory))
        code = subprocess.run(line, capture_output=True, timeout=5, check=False).returncode
    assert code in (0, 23)
    assert (directory / "x").exists() == (code == 0)


def test_the_part_of_another_folders_file_starts_over(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(OTHER)) as fake:
        assert called(fake.address, "a/x", directory, tries=1)[0] == 18
        assert called(fake.address, "b/x", directory)[1]["resumed_from"] == 0
    assert ranges(fake) == [None, None]
    assert tree(directory) == {"x": OTHER}


@pytest.mark.parametrize("name", ["x.part", "x.part.json"])
def test_a_file_that_is_called_like_a_part_or_its_state_is_refused_while_they_are_there(
    directory: Path, name: str
) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT, start=CUT), sends(OTHER)) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        before = tree(directory)
        code, told = called(fake.address, name, directory)
        assert (code, told["error"]) == (23, f"cannot write {directory}/{name}: it belongs to another download")
        assert tree(directory) == before
        assert called(fake.address, "x", directory)[1]["resumed_from"] == CUT
        assert called(fake.address, name, directory)[0] == 0
    assert [each[""].split()[1] for each in fake.requests] == ["/x", "/x", f"/{name}"]
    assert tree(directory) == {"x": CONTENT, name: OTHER}


@pytest.mark.parametrize(("name", "other"), [("x.part", "x.part.json"), ("x.part.json", "x.part")])
def test_a_download_that_begins_meanwhile_is_not_written_over(directory: Path, name: str, other: str) -> None:
    def begins(client: socket.socket, gate: threading.Event) -> None:
        (directory / other).write_bytes(b"theirs")
        sends(CONTENT)(client, gate)

    with Misbehaving(begins) as fake:
        assert called(fake.address, name, directory)[0] == 23
    assert not (directory / name).exists()
    assert (directory / other).read_bytes() == b"theirs"


def test_the_part_of_another_file_goes_only_when_something_comes_instead(directory: Path) -> None:
    """Who has mistyped the folder or the port has not lost what was there."""
    with Misbehaving(
        sends(CONTENT, until=CUT), says(head(2, "404 Not Found") + b"no"), sends(CONTENT, start=CUT)
    ) as fake:
        assert called(fake.address, "a/x", directory, tries=1)[0] == 18
        assert called(fake.address, "b/x", directory)[0] == 22
        assert called(fake.address, "a/x", directory)[1]["resumed_from"] == CUT
    assert tree(directory) == {"x": CONTENT}


# Long names


LONG = ["n" * 245, "n" * 246, "n" * 255, "é" * 127 + "x", "日" * 85, "x" + "é" * 127, "xy" + "é" * 126]


@pytest.mark.parametrize("name", LONG)
def test_a_name_of_any_length_can_be_resumed(folder: Path, directory: Path, name: str) -> None:
    (folder / name).write_bytes(CONTENT)
    with Program(folder) as server:
        result = wrapped(LIMITED, CUT, *address(server), name, str(directory))
        assert result.returncode == 23
        left = sorted(file.name for file in directory.iterdir())
        assert fetched(address(server), name, directory)[1]["resumed_from"] == CUT
    assert len(left) == 2
    assert left[1] == left[0] + ".json"
    assert left[0].encode().endswith(b".part")
    assert left[0].startswith(name[:70])
    assert (left[0] == f"{name}.part") == (len(name.encode()) <= 245)
    assert tree(directory) == {name: CONTENT}


def test_long_names_that_begin_alike_have_parts_of_their_own(directory: Path) -> None:
    one, two = "n" * 254 + "1", "n" * 254 + "2"
    with Misbehaving(sends(CONTENT, until=CUT), sends(OTHER), sends(CONTENT, start=CUT)) as fake:
        assert called(fake.address, one, directory, tries=1)[0] == 18
        assert called(fake.address, two, directory)[0] == 0
        assert called(fake.address, one, directory)[1]["resumed_from"] == CUT
    assert tree(directory) == {one: CONTENT, two: OTHER}


def test_a_name_that_is_too_long_for_any_file_is_refused_at_once(directory: Path) -> None:
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, told = called(fake.address, "n" * 256, directory)
    assert (code, told["error"]) == (23, f"cannot write {directory}/{'n' * 256}: File name too long")
    assert fake.requests == []
    assert tree(directory) == {}


# Others in the same place


def test_of_two_at_once_on_one_name_the_second_is_refused(directory: Path) -> None:
    with Misbehaving(held(CONTENT[:CUT], CONTENT[CUT:], ETag='"v1"'), may_stay_away=True) as fake:
        with started(*fake.address, "x", str(directory)) as first:
            until(lambda: length(directory / "x.part") == CUT)
            code, told = fetched(fake.address, "x", directory)
            assert (code, told["error"]) == (23, "another gclient is fetching a file of this name to there")
            assert (directory / "x.part").read_bytes() == CONTENT[:CUT]
            fake.gate.set()
            assert first.wait(GIVE_UP_S) == 0
        assert len(fake.requests) == 1
    assert tree(directory) == {"x": CONTENT}


def test_many_at_once_on_one_name_mix_nothing(folder: Path, directory: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "a" / "x").write_bytes(CONTENT)
    (folder / "b" / "x").write_bytes(OTHER)
    with Program(folder) as server:
        for _ in range(3):
            running = [started(*address(server), f"{'ab'[each % 2]}/x", str(directory)) for each in range(6)]
            codes = []
            for process in running:
                process.communicate(timeout=GIVE_UP_S)
                codes.append(process.returncode)
            assert 0 in codes
            assert set(codes) <= {0, 23}
            assert set(tree(directory)) == {"x"}
            assert tree(directory)["x"] in (CONTENT, OTHER)
            (directory / "x").unlink()


def test_a_part_that_is_finished_by_another_while_it_is_opened_is_not_touched(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = client_module.lock

    def finish_first(descriptor: int) -> None:
        if not (directory / "x").exists():
            (directory / "x.part").rename(directory / "x")
        lock(descriptor)

    monkeypatch.setattr(client_module, "lock", finish_first)
    with (
        Misbehaving(sends(OTHER, etag='"v2"')) as fake,
        client_module.Client(fake.address[0], int(fake.address[1])) as client,
    ):
        plant(directory, CONTENT[:CUT], state(fake.address))
        with (directory / "x.part").open("rb") as theirs:
            assert client.get("x", directory).resumed_from == 0
            assert theirs.read() == CONTENT[:CUT]
    assert ranges(fake) == [None]
    assert tree(directory) == {"x": OTHER}


def test_a_part_is_locked_as_long_as_it_is_there(directory: Path) -> None:
    with (
        Misbehaving(held(CONTENT[:CUT], CONTENT[CUT:])) as fake,
        started(*fake.address, "x", str(directory)) as process,
    ):
        until(lambda: length(directory / "x.part") == CUT)
        with (directory / "x.part").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fake.gate.set()
        assert process.wait(GIVE_UP_S) == 0
    with (directory / "x").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_part_that_is_taken_away_while_it_is_written_gets_no_name(directory: Path) -> None:
    with Misbehaving(held(CONTENT[:CUT], CONTENT[CUT:], ETag='"v1"')) as fake:
        with started(*fake.address, "x", str(directory)) as process:
            until(lambda: length(directory / "x.part") == CUT)
            (directory / "x.part").unlink()
            fake.gate.set()
            _, message = process.communicate(timeout=GIVE_UP_S)
        assert (process.returncode, message) == (
            23,
            f"gclient: cannot write {directory}/x: somebody has taken {directory}/x.part away\n".encode(),
        )
    assert set(tree(directory)) <= {"x.part.json"}


@pytest.mark.parametrize("etag", ['"v1"', ""])
def test_a_part_that_is_replaced_while_it_is_written_is_left_to_who_did_it(directory: Path, etag: str) -> None:
    with (
        Misbehaving(held(CONTENT[:CUT], CONTENT[CUT:], ETag=etag)) as fake,
        started(*fake.address, "x", str(directory)) as process,
    ):
        until(lambda: length(directory / "x.part") == CUT)
        (directory / "theirs").write_bytes(b"theirs")
        (directory / "theirs").rename(directory / "x.part")
        fake.gate.set()
        assert process.wait(GIVE_UP_S) == 23
    assert not (directory / "x").exists()
    assert (directory / "x.part").read_bytes() == b"theirs"


# Servers that say too little


@pytest.mark.parametrize("etag", ["", 'W/"v1"', "v1"])
def test_without_a_strong_validator_nothing_is_left(directory: Path, etag: str) -> None:
    with Misbehaving(sends(CONTENT, until=CUT, etag=etag), sends(OTHER, etag=etag)) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert tree(directory) == {}
        assert called(fake.address, "x", directory)[1]["resumed_from"] == 0
    assert ranges(fake) == [None, None]
    assert tree(directory) == {"x": OTHER}


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_without_a_strong_validator_the_next_try_starts_over(directory: Path, etag: str) -> None:
    with Misbehaving(sends(CONTENT, until=CUT, etag=etag), sends(OTHER[:-9], etag=etag)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
    assert ranges(fake) == [None, None]
    assert tree(directory) == {"x": OTHER[:-9]}


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_what_a_kill_leaves_of_a_file_without_a_strong_validator_is_not_used(directory: Path, etag: str) -> None:
    with Misbehaving(sends(CONTENT, etag=etag), sends(OTHER[:-9], etag=etag)) as fake:
        assert wrapped(KILLED, CUT, *fake.address, "x", str(directory)).returncode == -signal.SIGKILL
        assert length(directory / "x.part") == CUT
        assert fetched(fake.address, "x", directory)[1]["resumed_from"] == 0
    assert ranges(fake) == [None, None]
    assert tree(directory) == {"x": OTHER[:-9]}


def test_before_the_first_byte_nothing_is_left(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=0)) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
    assert tree(directory) == {}


# What is there already


SINCE = "Sun, 09 Sep 2001 01:46:40 GMT"
SINCE_S = 1_000_000_000
LATER = "Sun, 09 Sep 2001 01:46:42 GMT"


def snapshot(directory: Path) -> list[tuple[str, int, int, int]]:
    """All that writing would change."""
    found = [(path.name, path.stat()) for path in [directory, *sorted(directory.iterdir())]]
    return [(name, status.st_ino, status.st_mtime_ns, status.st_ctime_ns) for name, status in found]


def have(directory: Path, content: bytes, modified_ns: int) -> None:
    """The whole file of an earlier call."""
    (directory / "x").write_bytes(content)
    os.utime(directory / "x", ns=(0, modified_ns))


def stamp_ns(there: tuple[str, str], name: str = "x", etag: str = '"v1"', size: int = SIZE) -> int:
    """The time of a file that the server says is of SINCE."""
    version = f"http://{there[0]}:{there[1]}/{name} {etag} {size}".encode()
    return SINCE_S * 10**9 + (1 + zlib.crc32(version) % 9_999_999) * 100


def not_modified(**fields: str) -> Script:
    """304, on a connection of its own."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return says(f"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n{lines}\r\n".encode())


def test_what_has_not_changed_costs_one_304_and_no_write(folder: Path, directory: Path) -> None:
    (folder / "x").write_bytes(CONTENT)
    os.utime(folder / "x", ns=(0, SINCE_S * 10**9 + 123))
    with Program(folder) as server:
        code, told = fetched(address(server), "x", directory)
        assert (code, told["up_to_date"]) == (0, False)
        before = snapshot(directory)
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v", "--json")
    assert result.returncode == 0
    told = json.loads(result.stdout)
    assert (told["up_to_date"], told["bytes"], told["resumed_from"]) == (True, SIZE, 0)
    assert f"> If-Modified-Since: {SINCE}\n".encode() in result.stderr
    assert heads(result.stderr, "<") == ["304 Not Modified"]
    assert snapshot(directory) == before
    assert tree(directory) == {"x": CONTENT}


def test_the_time_of_a_file_is_the_servers_and_says_which_version_it_is(folder: Path, directory: Path) -> None:
    (folder / "x").write_bytes(CONTENT)
    os.utime(folder / "x", ns=(0, SINCE_S * 10**9 + 123_456_789))
    with Program(folder) as server:
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v")
        etag = next(
            line[8:] for line in result.stderr.decode().splitlines() if line.lower().startswith("< etag: ")
        )
        assert (directory / "x").stat().st_mtime_ns == stamp_ns(address(server), etag=etag)


@pytest.mark.parametrize("number", range(20))
def test_a_time_is_of_the_servers_second_and_never_the_whole_second(directory: Path, number: int) -> None:
    etag = f'"{number}"'
    with Misbehaving(sends(CONTENT, etag=etag, Last_Modified=SINCE)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
        found_ns = (directory / "x").stat().st_mtime_ns
        assert found_ns == stamp_ns(fake.address, etag=etag)
    second, fraction_ns = divmod(found_ns, 10**9)
    assert (second, fraction_ns % 100) == (SINCE_S, 0)
    assert fraction_ns > 0


@pytest.mark.parametrize("etag", ["", 'W/"v1"', "v1"])
def test_the_time_of_a_file_without_a_strong_validator_is_a_whole_second(directory: Path, etag: str) -> None:
    with Misbehaving(sends(CONTENT, etag=etag, Last_Modified=SINCE), sends(OTHER, etag=etag)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
        assert (directory / "x").stat().st_mtime_ns == SINCE_S * 10**9
        assert called(fake.address, "x", directory)[1]["up_to_date"] is False
    assert "if-modified-since" not in fake.requests[1]
    assert tree(directory) == {"x": OTHER}


def test_a_file_that_was_replaced_there_by_one_of_the_same_time_is_fetched_again(
    folder: Path, directory: Path
) -> None:
    (folder / "x").write_bytes(CONTENT)
    os.utime(folder / "x", (0, SINCE_S))
    with Program(folder, "--revalidate", "0") as server:
        assert fetched(address(server), "x", directory)[0] == 0
        (folder / "new").write_bytes(OTHER)
        os.utime(folder / "new", ns=(0, SINCE_S * 10**9 + 1))
        (folder / "new").rename(folder / "x")
        result = gclient(*address(server), "get", "x", "-d", str(directory), "-v")
    assert result.returncode == 0
    assert f"> If-Modified-Since: {SINCE}\n".encode() in result.stderr
    assert tree(directory) == {"x": OTHER}


def test_a_file_of_the_same_name_and_time_in_another_folder_is_fetched(folder: Path, directory: Path) -> None:
    for version, content in (("v1", CONTENT), ("v2", OTHER)):
        (folder / version).mkdir()
        (folder / version / "x").write_bytes(content)
        os.utime(folder / version / "x", (0, SINCE_S))
    with Program(folder) as server:
        assert fetched(address(server), "v1/x", directory)[0] == 0
        assert fetched(address(server), "v2/x", directory)[1]["up_to_date"] is False
        assert tree(directory) == {"x": OTHER}
        assert fetched(address(server), "v2/x", directory)[1]["up_to_date"] is True


@pytest.mark.parametrize("modified", ["", "yesterday", "Sun, 31 Feb 2001 01:46:40 GMT"])
def test_a_file_without_a_time_gets_that_of_its_coming(directory: Path, modified: str) -> None:
    before_ns = time.time_ns() - 10**9
    with Misbehaving(sends(CONTENT, Last_Modified=modified)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
    assert before_ns < (directory / "x").stat().st_mtime_ns < time.time_ns() + 10**9


@pytest.mark.parametrize(
    ("modified_ns", "since"),
    [
        (SINCE_S * 10**9, None),
        (SINCE_S * 10**9 + 1, SINCE),
        (SINCE_S * 10**9 + 999_999_999, SINCE),
        (0, None),
        (100, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (-100, None),
        (951_782_400 * 10**9 + 100, "Tue, 29 Feb 2000 00:00:00 GMT"),
    ],
)
def test_only_a_time_within_a_second_is_asked_about(directory: Path, modified_ns: int, since: str | None) -> None:
    with Misbehaving(sends(OTHER)) as fake:
        have(directory, CONTENT, modified_ns)
        assert called(fake.address, "x", directory)[1]["up_to_date"] is False
    assert fake.requests[0].get("if-modified-since") == since
    assert tree(directory) == {"x": OTHER}


@pytest.mark.parametrize("fields", [{}, {"Last_Modified": SINCE}, {"Last_Modified": "yesterday"}])
def test_a_304_with_the_version_of_the_file_leaves_it(directory: Path, fields: dict[str, str]) -> None:
    with Misbehaving(not_modified(ETag='"v1"', **fields)) as fake:
        have(directory, CONTENT, stamp_ns(fake.address))
        before = snapshot(directory)
        code, told = called(fake.address, "x", directory)
    assert (code, told["up_to_date"], told["bytes"]) == (0, True, SIZE)
    assert snapshot(directory) == before


@pytest.mark.parametrize("fields", [{}, {"ETag": '"v2"'}, {"ETag": 'W/"v1"'}, {"ETag": "v1"}, {"ETag": '""'}])
def test_a_304_without_the_version_of_the_file_is_not_believed(directory: Path, fields: dict[str, str]) -> None:
    """To a time that is later than the server's it says 304 too."""
    with Misbehaving(not_modified(Last_Modified=SINCE, **fields), sends(OTHER)) as fake:
        have(directory, CONTENT, stamp_ns(fake.address))
        code, told = called(fake.address, "x", directory)
    assert (code, told["up_to_date"]) == (0, False)
    assert fake.requests[0]["if-modified-since"] == SINCE
    assert "if-modified-since" not in fake.requests[1]
    assert tree(directory) == {"x": OTHER}


@pytest.mark.parametrize(
    ("content", "modified_ns"),
    [
        (CONTENT, lambda there: stamp_ns(there, name="y")),
        (CONTENT, lambda there: stamp_ns((there[0], "1"))),
        (CONTENT, lambda there: stamp_ns(there, size=SIZE - 1)),
        (CONTENT[:-1], stamp_ns),
        (CONTENT + b"x", stamp_ns),
        (b"", stamp_ns),
        (CONTENT, lambda there: stamp_ns(there) + 100),
        (CONTENT, lambda there: stamp_ns(there) + 1),
        (CONTENT, lambda _: SINCE_S * 10**9 + 1),
    ],
    ids=["name", "server", "size", "cut here", "longer here", "emptied here", "100 ns", "1 ns", "old stamp"],
)
def test_a_304_for_what_has_another_time_than_its_version_is_not_believed(
    directory: Path, content: bytes, modified_ns: Callable[[tuple[str, str]], int]
) -> None:
    with Misbehaving(not_modified(ETag='"v1"', Last_Modified=SINCE), sends(OTHER)) as fake:
        have(directory, content, modified_ns(fake.address))
        code, told = called(fake.address, "x", directory)
    assert (code, told["up_to_date"]) == (0, False)
    assert ["if-modified-since" in each for each in fake.requests] == [True, False]
    assert tree(directory) == {"x": OTHER}


def test_a_304_that_nobody_asked_for_is_a_refusal(directory: Path) -> None:
    with Misbehaving(not_modified(ETag='"v1"', Last_Modified=SINCE)) as fake:
        assert called(fake.address, "x", directory)[0] == 22
    assert tree(directory) == {}


@pytest.mark.parametrize("changed", [OTHER, CONTENT[:-1], b""], ids=["other", "cut", "empty"])
@pytest.mark.parametrize("late_ns", [None, 0, 60 * 10**9 + 100, -60 * 10**9 - 100])
def test_a_file_that_was_changed_here_is_fetched_again(
    folder: Path, directory: Path, changed: bytes, late_ns: int | None
) -> None:
    """Also with a time that is later, for which the real server says 304, and if it is shorter with the same."""
    if changed == OTHER and late_ns == 0:
        changed = OTHER + b"longer"
    (folder / "x").write_bytes(CONTENT)
    os.utime(folder / "x", (0, SINCE_S))
    with Program(folder) as server:
        assert called(address(server), "x", directory)[0] == 0
        right_ns = (directory / "x").stat().st_mtime_ns
        (directory / "x").write_bytes(changed)
        if late_ns is not None:
            os.utime(directory / "x", ns=(0, right_ns + late_ns))
        code, told = called(address(server), "x", directory)
    assert (code, told["up_to_date"]) == (0, False)
    assert tree(directory) == {"x": CONTENT}
    assert (directory / "x").stat().st_mtime_ns == right_ns


def test_a_file_that_was_changed_there_is_fetched_again(folder: Path, directory: Path) -> None:
    (folder / "x").write_bytes(CONTENT)
    os.utime(folder / "x", (0, SINCE_S))
    with Program(folder, "--revalidate", "0") as server:
        assert fetched(address(server), "x", directory)[0] == 0
        (folder / "x").write_bytes(OTHER)
        os.utime(folder / "x", (0, SINCE_S + 1))
        assert fetched(address(server), "x", directory)[1]["up_to_date"] is False
    assert tree(directory) == {"x": OTHER}


def test_a_link_under_the_name_is_not_asked_about_and_replaced(directory: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(OTHER)
    (directory / "x").symlink_to(outside)
    for path in (outside, directory / "x"):
        os.utime(path, ns=(0, SINCE_S * 10**9 + 100), follow_symlinks=False)
    with Misbehaving(sends(CONTENT)) as fake:
        assert called(fake.address, "x", directory)[0] == 0
    assert "if-modified-since" not in fake.requests[0]
    assert not (directory / "x").is_symlink()
    assert tree(directory) == {"x": CONTENT}
    assert outside.read_bytes() == OTHER


def test_a_part_comes_before_what_is_there(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, start=CUT)) as fake:
        have(directory, OTHER, stamp_ns(fake.address))
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert called(fake.address, "x", directory)[1]["resumed_from"] == CUT
    assert "if-modified-since" not in fake.requests[0]
    assert tree(directory) == {"x": CONTENT}


def test_what_is_there_stays_until_all_of_the_new_is(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT, start=CUT)) as fake:
        have(directory, OTHER, stamp_ns(fake.address))
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        assert (directory / "x").read_bytes() == OTHER
        assert called(fake.address, "x", directory)[0] == 0
    assert tree(directory) == {"x": CONTENT}


def test_the_right_checksum_of_what_is_there_costs_one_304(directory: Path) -> None:
    with Misbehaving(not_modified(ETag='"v1"')) as fake:
        have(directory, CONTENT, stamp_ns(fake.address))
        code, told = fetched(fake.address, "x", directory, "--checksum", checksum(CONTENT))
    assert (code, told["up_to_date"]) == (0, True)
    assert told["digest"] == checksum(CONTENT)


def test_what_is_there_and_has_not_the_checksum_is_fetched_again(directory: Path) -> None:
    with Misbehaving(not_modified(ETag='"v1"'), sends(CONTENT)) as fake:
        have(directory, OTHER, stamp_ns(fake.address))
        code, told = called(fake.address, "x", directory, checksum=checksum(CONTENT))
    assert (code, told["up_to_date"], told["digest"]) == (0, False, checksum(CONTENT))
    assert "if-modified-since" not in fake.requests[1]
    assert tree(directory) == {"x": CONTENT}


def test_a_checksum_that_nothing_has_leaves_what_is_there(directory: Path) -> None:
    with Misbehaving(not_modified(ETag='"v1"'), sends(CONTENT)) as fake:
        have(directory, OTHER, stamp_ns(fake.address))
        assert called(fake.address, "x", directory, checksum=checksum(b""))[0] == 32
    assert tree(directory) == {"x": OTHER}


# Checksums


@pytest.mark.parametrize("text", ["sha-256=", "SHA-256=", "sha256="])
def test_the_right_checksum_is_told(directory: Path, text: str) -> None:
    digits = hashlib.sha256(CONTENT).hexdigest()
    with Misbehaving(sends(CONTENT), sends(CONTENT)) as fake:
        for each in (digits, digits.upper()):
            code, told = called(fake.address, "x", directory, checksum=text + each)
            assert (code, told["digest"]) == (0, checksum(CONTENT))


def test_a_wrong_checksum_leaves_nothing(directory: Path) -> None:
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, told = fetched(fake.address, "x", directory, "--checksum", checksum(OTHER))
    assert (code, told["error"]) == (32, f"wrong checksum: it is {checksum(CONTENT)}")
    assert tree(directory) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha-256",
        "sha-256=",
        "sha-256=" + "0" * 63,
        "sha-256=" + "0" * 65,
        "sha-256=" + "0" * 63 + "g",
        "sha-256=" + "0" * 64 + "\n",
        "sha-256=" + "\u0660" * 64,
        "md5=" + "0" * 64,
        "0" * 64,
    ],
)
def test_what_is_no_checksum_is_a_usage_error(directory: Path, text: str) -> None:
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, told = called(fake.address, "x", directory, checksum=text)
    assert (code, told["error"]) == (2, f"{text!r} is no checksum: sha-256= and 64 hexadecimal digits")
    assert fake.requests == []
    assert tree(directory) == {}


def test_the_command_says_what_is_no_checksum(directory: Path) -> None:
    with Misbehaving(sends(CONTENT), may_stay_away=True) as fake:
        code, message = error_line(*fake.address, "get", "x", "-d", str(directory), "--checksum", "md5=")
    assert (code, message) == (2, "'md5=' is no checksum: sha-256= and 64 hexadecimal digits")
    assert fake.requests == []


@pytest.mark.parametrize("before", ["", "sha-512=:AAAA:, ", "md5=:AA==:,\t"])
def test_the_servers_digest_is_checked_and_told(directory: Path, before: str) -> None:
    with Misbehaving(sends(CONTENT, Repr_Digest=before + digest(CONTENT))) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["digest"]) == (0, checksum(CONTENT))
    assert "sha-256=" in fake.requests[0]["want-repr-digest"]
    assert tree(directory) == {"x": CONTENT}


def test_a_file_with_another_digest_than_the_servers_leaves_nothing(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, Repr_Digest=digest(OTHER)), may_stay_away=True) as fake:
        code, told = fetched(fake.address, "x", directory)
    assert (code, told["error"]) == (32, f"wrong checksum: it is {checksum(CONTENT)}")
    assert tree(directory) == {}


@pytest.mark.parametrize("wrong", ["the server's", "the user's"])
def test_both_checksums_have_to_be_right(directory: Path, wrong: str) -> None:
    servers, users = (OTHER, CONTENT) if wrong == "the server's" else (CONTENT, OTHER)
    with Misbehaving(sends(CONTENT, Repr_Digest=digest(servers)), may_stay_away=True) as fake:
        assert called(fake.address, "x", directory, checksum=checksum(users))[0] == 32
    assert tree(directory) == {}


@pytest.mark.parametrize("text", ["", "sha-256", "sha-256=:AAAA:", "sha-512=" + digest(OTHER)[8:]])
def test_what_is_no_sha_256_is_not_checked(directory: Path, text: str) -> None:
    with Misbehaving(sends(CONTENT, Repr_Digest=text)) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["digest"]) == (0, None)


def test_the_checksum_is_that_of_the_part_and_the_rest(directory: Path) -> None:
    with Misbehaving(
        sends(CONTENT, until=CUT), sends(CONTENT, start=CUT, Repr_Digest=digest(CONTENT)), sends(CONTENT)
    ) as fake:
        assert called(fake.address, "x", directory, tries=1)[0] == 18
        code, told = called(fake.address, "x", directory)
        assert (code, told["digest"], told["resumed_from"]) == (0, checksum(CONTENT), CUT)
        (directory / "x").unlink()
        plant(directory, CONTENT, state(fake.address))
        code, told = called(fake.address, "x", directory, checksum=checksum(CONTENT))
        assert (code, told["digest"]) == (0, checksum(CONTENT))
    assert tree(directory) == {"x": CONTENT}


def test_a_wrong_part_is_found_out_and_all_of_it_fetched_once_more(directory: Path) -> None:
    right: dict[str, Any] = {"Repr_Digest": digest(CONTENT)}
    with Misbehaving(sends(CONTENT, start=CUT, **right), sends(CONTENT, **right)) as fake:
        plant(directory, OTHER[:CUT], state(fake.address))
        code, told = fetched(fake.address, "x", directory)
    assert (code, told["resumed_from"], told["digest"]) == (0, 0, checksum(CONTENT))
    assert ranges(fake) == [f"bytes={CUT}-", None]
    assert tree(directory) == {"x": CONTENT}


def test_a_wrong_part_of_the_same_call_is_found_out_too(directory: Path) -> None:
    right: dict[str, Any] = {"Repr_Digest": digest(CONTENT)}
    with Misbehaving(sends(OTHER, until=CUT), sends(CONTENT, start=CUT, **right), sends(CONTENT, **right)) as fake:
        code, told = called(fake.address, "x", directory)
    assert (code, told["resumed_from"], told["digest"]) == (0, 0, checksum(CONTENT))
    assert ranges(fake) == [None, f"bytes={CUT}-", None]
    assert tree(directory) == {"x": CONTENT}


def test_what_is_wrong_also_from_the_beginning_is_not_fetched_a_third_time(directory: Path) -> None:
    wrong: dict[str, Any] = {"Repr_Digest": digest(OTHER)}
    with Misbehaving(
        sends(CONTENT, start=CUT, **wrong), sends(CONTENT, **wrong), sends(CONTENT), may_stay_away=True
    ) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert called(fake.address, "x", directory)[0] == 32
        assert len(fake.requests) == 2
    assert tree(directory) == {}


def test_a_part_that_was_spoiled_is_mended_by_the_real_server_and_a_checksum(
    folder: Path, directory: Path
) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server:
        assert wrapped(LIMITED, CUT, *address(server), "x", str(directory)).returncode == 23
        (directory / "x.part").write_bytes(OTHER[:CUT])
        code, told = fetched(address(server), "x", directory, "--checksum", checksum(CONTENT))
    assert (code, told["resumed_from"], told["digest"]) == (0, 0, checksum(CONTENT))
    assert tree(directory) == {"x": CONTENT}


# To standard output


def test_to_standard_output_it_goes_on_where_it_was_cut() -> None:
    right: dict[str, Any] = {"Repr_Digest": digest(CONTENT)}
    with Misbehaving(sends(CONTENT, until=CUT, **right), sends(CONTENT, start=CUT, **right)) as fake:
        result = gclient(*fake.address, "x", "-", "--checksum", checksum(CONTENT))
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == CONTENT
    assert (fake.requests[1]["range"], fake.requests[1]["if-range"]) == (f"bytes={CUT}-", '"v1"')


def test_to_standard_output_the_checksum_of_all_is_checked_at_the_end() -> None:
    with Misbehaving(sends(CONTENT, until=CUT), sends(CONTENT, start=CUT), may_stay_away=True) as fake:
        result = gclient(*fake.address, "x", "-", "--checksum", checksum(OTHER))
    assert (result.returncode, result.stdout) == (32, CONTENT)


@pytest.mark.parametrize(
    "second",
    [
        sends(OTHER, etag='"v2"'),
        sends(OTHER, start=CUT, etag='"v2"'),
        sends(CONTENT + b"more", start=CUT),
        says(head(0, "416 Range Not Satisfiable")),
    ],
    ids=["all of another", "the rest of another", "another length", "no such range"],
)
def test_to_standard_output_nothing_starts_over(second: Script) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), second, sends(OTHER), may_stay_away=True) as fake:
        result = gclient(*fake.address, "x", "-")
        assert len(fake.requests) == 2
    assert (result.returncode, result.stdout) == (33, CONTENT[:CUT])
    assert b"the rest cannot be had" in result.stderr


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_to_standard_output_without_a_strong_validator_there_is_no_rest(etag: str) -> None:
    with Misbehaving(sends(CONTENT, until=CUT, etag=etag), sends(CONTENT), may_stay_away=True) as fake:
        result = gclient(*fake.address, "x", "-")
        assert len(fake.requests) == 1
    assert (result.returncode, result.stdout) == (33, CONTENT[:CUT])


def test_to_standard_output_before_the_first_byte_it_can_start_over() -> None:
    with Misbehaving(sends(CONTENT, until=0, etag=""), sends(OTHER[:-9], etag="")) as fake:
        result = gclient(*fake.address, "x", "-")
    assert (result.returncode, result.stdout) == (0, OTHER[:-9])


# Killed, interrupted, disk full


@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_it_ends_with_the_right_file(folder: Path, directory: Path, seed: int) -> None:
    rng = random.Random(seed)
    (folder / "x").write_bytes(CONTENT)
    have_bytes = 0
    with Program(folder) as server:
        for _ in range(6):
            more = rng.randint(1, 500_000)
            result = wrapped(KILLED, more, *address(server), "x", str(directory))
            if result.returncode == 0:
                break
            assert result.returncode == -signal.SIGKILL
            have_bytes += more
            assert (directory / "x.part").read_bytes() == CONTENT[:have_bytes]
            assert not (directory / "x").exists()
        code, told = fetched(address(server), "x", directory)
    assert (code, told["resumed_from"]) == (0, have_bytes)
    assert have_bytes > 0
    assert tree(directory) == {"x": CONTENT}


def test_killed_while_the_file_changes_it_ends_with_one_of_its_versions(folder: Path, directory: Path) -> None:
    rng = random.Random(11)
    versions = [rng.randbytes(rng.randint(1_000_000, 2_000_000)) for _ in range(4)]
    with Program(folder, "--revalidate", "0") as server:
        for number in range(12):
            if number % 3 == 0:
                (folder / "new").write_bytes(versions[number // 3])
                (folder / "new").rename(folder / "x")
            more = rng.randint(1, 400_000)
            assert wrapped(KILLED, more, *address(server), "x", str(directory)).returncode == -signal.SIGKILL
            part = (directory / "x.part").read_bytes()
            assert versions[number // 3].startswith(part)
            assert len(part) >= more
        assert fetched(address(server), "x", directory)[0] == 0
    assert tree(directory) == {"x": versions[3]}


@pytest.mark.parametrize("call", ["ftruncate", "unlink", "lseek", "write"])
def test_killed_while_it_starts_over_a_part_is_of_what_its_state_says(directory: Path, call: str) -> None:
    with Misbehaving(sends(OTHER, etag='"v2"')) as fake:
        plant(directory, CONTENT[:CUT], state(fake.address))
        assert wrapped(KILLED_AT_A_CALL, call, *fake.address, "x", str(directory)).returncode == -signal.SIGKILL
    part = (directory / "x.part").read_bytes()
    known = json.loads((directory / "x.part.json").read_bytes())
    assert not part or {'"v1"': CONTENT, '"v2"': OTHER}[known["etag"]].startswith(part)


@pytest.mark.parametrize(("after", "lines"), [(0, 225), (CUT, 150), (SIZE, 105)])
@pytest.mark.parametrize("changes", [False, True])
def test_killed_at_any_line_the_next_call_ends_with_the_right_file(
    folder: Path, directory: Path, after: int, lines: int, changes: bool
) -> None:
    """A call that begins anew, goes on in the middle, or has all; when it goes on, maybe with another version."""
    rng = random.Random(after)
    content = CONTENT
    (folder / "x").write_bytes(content)
    with Program(folder, "--revalidate", "0") as server:
        for line in sorted(rng.sample(range(1, lines), 7)):
            if after:
                wrapped(KILLED, min(after, len(content)), *address(server), "x", str(directory))
                assert (directory / "x.part").read_bytes() == content[:after]
            if changes:
                content = rng.randbytes(rng.choice([SIZE - 1, SIZE, SIZE + 1]))
                (folder / "new").write_bytes(content)
                (folder / "new").rename(folder / "x")
            killed = wrapped(KILLED_AT_A_LINE, line, *address(server), "x", str(directory))
            assert killed.returncode in (-signal.SIGKILL, 0)  # how many lines it takes is up to the network
            assert not (directory / "x").exists() or (directory / "x").read_bytes() == content
            assert called(address(server), "x", directory)[0] == 0
            assert (directory / "x").read_bytes() == content
            assert not (directory / "x.part").exists()
            (directory / "x").unlink()


def test_ctrl_c_keeps_the_part_and_the_next_call_goes_on(directory: Path) -> None:
    with Misbehaving(held(CONTENT[:CUT], CONTENT[CUT:], ETag='"v1"'), sends(CONTENT, start=CUT)) as fake:
        with started(*fake.address, "x", str(directory)) as process:
            until(lambda: length(directory / "x.part") == CUT)
            process.send_signal(signal.SIGINT)
            told, message = process.communicate(timeout=GIVE_UP_S)
        fake.gate.set()
        assert (process.returncode, told, message) == (130, b"", b"")
        assert (directory / "x.part").read_bytes() == CONTENT[:CUT]
        assert json.loads((directory / "x.part.json").read_bytes()) == state(fake.address)
        assert fetched(fake.address, "x", directory)[1]["resumed_from"] == CUT
    assert tree(directory) == {"x": CONTENT}


def test_ctrl_c_without_a_strong_validator_leaves_nothing(directory: Path) -> None:
    with Misbehaving(held(CONTENT[:CUT], b"", missing=1)) as fake:
        with started(*fake.address, "x", str(directory)) as process:
            until(lambda: length(directory / "x.part") == CUT)
            process.send_signal(signal.SIGINT)
            assert process.wait(GIVE_UP_S) == 130
        fake.gate.set()
    assert tree(directory) == {}


def test_ctrl_c_between_two_tries_keeps_the_part(directory: Path) -> None:
    with Misbehaving(sends(CONTENT, until=CUT), says(head(0, "503 Busy", Retry_After="100"))) as fake:
        with started(*fake.address, "x", str(directory), "-v") as process:
            assert process.stderr is not None
            while not (line := process.stderr.readline()).endswith(b"again in 100 s\n"):
                assert line
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=GIVE_UP_S)
        assert process.returncode == 130
    assert (directory / "x.part").read_bytes() == CONTENT[:CUT]


@pytest.mark.parametrize("limit", [1000, 1 << 20, CUT, SIZE - 1])
def test_a_full_disk_keeps_what_fits_and_a_later_call_goes_on(folder: Path, directory: Path, limit: int) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server:
        for _ in range(2):
            assert wrapped(LIMITED, limit, *address(server), "x", str(directory)).returncode == 23
            assert (directory / "x.part").read_bytes() == CONTENT[:limit]
        assert fetched(address(server), "x", directory)[1]["resumed_from"] == limit
    assert tree(directory) == {"x": CONTENT}


def test_a_disk_too_full_for_the_state_leaves_nothing(folder: Path, directory: Path) -> None:
    (folder / "x").write_bytes(CONTENT)
    with Program(folder) as server:
        assert wrapped(LIMITED, 10, *address(server), "x", str(directory)).returncode == 23
    assert tree(directory) == {}


def test_a_full_disk_is_not_tried_again(directory: Path) -> None:
    with Misbehaving(sends(CONTENT), sends(CONTENT), may_stay_away=True) as fake:
        assert wrapped(LIMITED, CUT, *fake.address, "x", str(directory)).returncode == 23
        assert len(fake.requests) == 1
