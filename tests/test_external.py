"""Other people's programs against gserver.py: clients that resume, cut up and negotiate, and tools that attack.

Each test is skipped where its program is not installed. All on loopback.
"""

import gzip
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fileserver.wire import MAX_BODY_BYTES
from tests.program import Program, sparse

pytestmark = pytest.mark.external

MIB = 1 << 20
IMPATIENT = "connection.HEAD_S, transport.PROGRESS_S, server.REAP_EVERY_S = 2.0, 1.0, 0.1"
CROWD = 300


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def environment(home: Path) -> dict[str, str]:
    """Nobody's configuration, and no proxy."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C"}


def run(home: Path, *command: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, which must be with `code`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def curl(home: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """curl, silent but for errors and what `-w` asks for."""
    return run(home, "curl", "-sS", "--max-time", 40, *arguments, code=code)


def url(server: Program, name: str) -> str:
    return f"http://127.0.0.1:{server.port}/{name}"


def noise(size: int) -> bytes:
    """Bytes in which nothing repeats, the same each time."""
    return random.Random(size).randbytes(size)


# Clients.


@needs("curl")
@pytest.mark.parametrize("got", [1, 4096, 3 * MIB - 1])
def test_curl_resumes_a_download_that_was_cut(folder: Path, tmp_path: Path, got: int) -> None:
    content = noise(3 * MIB)
    (folder / "a").write_bytes(content)
    (tmp_path / "a").write_bytes(content[:got])
    with Program(folder) as server:
        said = curl(tmp_path, "-C", "-", "-o", "a", "-w", "%{http_code} %{size_download}", url(server, "a")).stdout
        assert said == f"206 {len(content) - got}"
    assert (tmp_path / "a").read_bytes() == content


@needs("curl")
def test_curl_gets_the_range_it_asks_for(folder: Path, tmp_path: Path) -> None:
    content = noise(MIB)
    (folder / "a").write_bytes(content)
    with Program(folder) as server:
        for asked, status, part in (
            ("0-9", 206, content[:10]),
            ("100-", 206, content[100:]),
            ("-7", 206, content[-7:]),
            ("5-999999999", 206, content[5:]),
            ("0-1,5-6", 200, content),
        ):
            said = curl(tmp_path, "-r", asked, "-o", "part", "-w", "%{http_code}", url(server, "a")).stdout
            assert (int(said), (tmp_path / "part").read_bytes()) == (status, part)


@needs("curl")
def test_curl_is_told_that_a_range_begins_behind_the_end(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server:
        done = curl(tmp_path, "-f", "-r", "7-", url(server, "a"), code=22)
    assert "416" in done.stderr


@needs("curl")
def test_curl_gets_a_file_only_under_its_condition(folder: Path, tmp_path: Path) -> None:
    (folder / "a").write_bytes(b"content")
    os.utime(folder / "a", (10**9, 10**9))
    with Program(folder) as server:
        for condition, status, content in (
            ("Sun, 09 Sep 2001 01:46:40 GMT", 304, b""),  # just then
            ("Sat, 08 Sep 2001 00:00:00 GMT", 200, b"content"),  # changed since
            ("-Sun, 09 Sep 2001 01:46:41 GMT", 200, b"content"),  # (curl itself takes the same second for later)
            # Changed since, and it must not have been.
            ("-Sat, 08 Sep 2001 00:00:00 GMT", 412, b"the file is another version\n"),
        ):
            (tmp_path / "got").write_bytes(b"")
            said = curl(tmp_path, "-z", condition, "-o", "got", "-w", "%{http_code}", url(server, "a")).stdout
            assert (int(said), (tmp_path / "got").read_bytes()) == (status, content)


@needs("curl")
def test_curl_gets_the_compressed_form_only_when_it_asks(folder: Path, tmp_path: Path) -> None:
    content = b"the same again and again\n" * 5000
    compressed = gzip.compress(content)
    (folder / "a.txt").write_bytes(content)
    (folder / "a.txt.gz").write_bytes(compressed)
    wanted = ["-o", "got", "-w", "%{http_code} %{size_download} %{content_type}"]
    with Program(folder, "--precompressed") as server:
        for flags, size in ((["--compressed"], len(compressed)), ([], len(content))):
            for _ in range(2):  # from the disk, from the cache
                said = curl(tmp_path, *flags, *wanted, url(server, "a.txt")).stdout
                assert said == f"200 {size} text/plain; charset=utf-8"
                assert (tmp_path / "got").read_bytes() == content


@needs("curl")
def test_curl_that_expects_a_100_gets_one_and_then_its_answer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * MAX_BODY_BYTES)
    with Program(folder) as server:
        arguments = ["-v", "-o", "got", "-w", "%{http_code} %{size_upload}", "--expect100-timeout", 30]
        done = curl(tmp_path, *arguments, "-H", "Expect: 100-continue", "-d", "@body", url(server, "a"))
    assert done.stdout == f"405 {MAX_BODY_BYTES}"
    assert done.stderr.index("< HTTP/1.1 100 Continue") < done.stderr.index("< HTTP/1.1 405 ")


@needs("curl")
def test_curl_does_not_send_a_body_that_is_too_large(folder: Path, tmp_path: Path) -> None:
    """It expects a 100 by itself where a body is larger than 1 MiB."""
    (tmp_path / "body").write_bytes(b"x" * 2 * MIB)
    with Program(folder) as server:
        arguments = ["-v", "-o", "got", "-w", "%{http_code} %{size_upload}", "--expect100-timeout", 30]
        done = curl(tmp_path, *arguments, "-d", "@body", url(server, "a"))
    assert done.stdout == "413 0"
    assert "Expect: 100-continue" in done.stderr
    assert "< HTTP/1.1 100" not in done.stderr


@needs("wget")
@pytest.mark.parametrize("got", [1, 2 * MIB, 3 * MIB])
def test_wget_resumes_a_download_that_was_cut_or_finds_it_whole(folder: Path, tmp_path: Path, got: int) -> None:
    content = noise(3 * MIB)
    (folder / "a").write_bytes(content)
    (tmp_path / "a").write_bytes(content[:got])
    with Program(folder) as server:
        run(tmp_path, "wget", "-c", "--no-proxy", "--tries=1", "--timeout=30", url(server, "a"))
        sent = server.stats()["bytes_sent"]
    assert (tmp_path / "a").read_bytes() == content
    assert sent < len(content) - got + 10_000


@needs("aria2c")
@pytest.mark.parametrize(("size", "cache"), [(65 * MIB + 5, "BYPASS"), (9 * MIB + 5, "HIT")])
def test_aria2_puts_a_file_together_from_four_connections(
    folder: Path, tmp_path: Path, size: int, cache: str
) -> None:
    content = noise(size)
    (folder / "a").write_bytes(content)
    with Program(folder) as server:
        if cache == "HIT":
            server.get("/a")
        before = server.stats()["file_answers"]
        options = ["--no-conf", "-q", "-x4", "-s4", "-k1M", "--file-allocation=none", "--max-tries=1"]
        run(tmp_path, "aria2c", *options, "-d", tmp_path, "-o", "got", url(server, "a"))
        assert server.stats()["file_answers"] - before >= 4
        assert server.get("/a", Range="bytes=0-0")[1]["x-cache"] == cache
        assert server.stats()["violations"] == 0
    assert (tmp_path / "got").read_bytes() == content


@needs("h2load")
@pytest.mark.parametrize("name", ["small", "large"])
def test_h2load_has_every_request_answered_on_connections_that_stay(
    folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / "small").write_bytes(b"content")
    (folder / "large").write_bytes(noise(300_000))
    count = {"small": 4000, "large": 400}[name]
    with Program(folder) as server:
        said = run(tmp_path, "h2load", "--h1", "-n", count, "-c", 40, "-t", 1, url(server, name)).stdout
        stats = server.stats()
    assert (
        f"{count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout" in said
    )
    assert f"status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx" in said
    assert stats["file_answers"] == count
    assert stats["misses"] + stats["coalesced"] + stats["hits"] == count


# Attackers.


def wait_until(condition: Callable[[], bool], attack: "subprocess.Popen[str]") -> None:
    """Ask again and again, as long as the attack goes on."""
    while not condition():
        assert attack.poll() is None or condition(), "the attack was over too soon"
        time.sleep(0.01)


@needs("slowhttptest")
@pytest.mark.parametrize(
    ("mode", "end"),
    [
        (["-H"], "No open connections left"),  # heads that never end
        (["-B", "-s", str(MAX_BODY_BYTES)], "No open connections left"),  # bodies that never end
        # Answers that are hardly read: whose connection was cut still has something to read.
        (["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5"], "Hit test time limit"),
    ],
    ids=["slow head", "slow body", "slow read"],
)
def test_clients_that_dawdle_are_sent_away_and_others_are_served_meanwhile(
    folder: Path, tmp_path: Path, mode: list[str], end: str
) -> None:
    (folder / "small").write_bytes(b"content")
    sparse(folder / "large", 8 * MIB)
    with Program(folder, changes=IMPATIENT) as server:
        command = ["slowhttptest", *mode, "-c", str(CROWD), "-r", str(CROWD), "-i", "1", "-l", "6", "-p", "3"]
        with subprocess.Popen(
            [*command, "-u", url(server, "large")],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as attack:
            try:
                wait_until(lambda: server.stats()["connections"] > CROWD // 2, attack)
                answered = 0
                while server.stats()["connections"] > CROWD // 2:
                    assert server.get("/small")[::2] == (200, b"content")
                    answered += 1
                assert answered
                wait_until(lambda: server.stats()["connections"] < CROWD // 10, attack)
                said = attack.communicate(timeout=40)[0]
            finally:
                attack.kill()
        assert re.search(r"service available:\S*\s+\S*YES", said), said
        assert not re.search(r"service available:\S*\s+\S*NO", said), said
        assert end in said
        while server.stats()["connections"] > 1:  # ours; bounded by the test's own time-out
            time.sleep(0.01)
        assert server.get("/-/health")[0] == 200
        assert server.get("/small")[::2] == (200, b"content")
        assert server.stats()["violations"] == 0
