"""gclient.py against servers that are not ours, Python's and nginx, and against ours with a certificate."""

import os
import random
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from gclient import Client, Failure, Observer, Transfer
from tests.clients import OnATerminal, address, error_line, tree
from tests.misbehaving import GIVE_UP_S, Misbehaving, head, says
from tests.program import Program, gclient, sparse

MIB = 1 << 20
OLD_S = 1_000_000_000
OLD = "Sun, 09 Sep 2001 01:46:40 GMT"
NAMES = ["plain.txt", "with some spaces", "ünï-日本.txt", "100%25", "a#b?c&d=e+f;g", "sub/deep er/inner", "'\"[]"]
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class When(Observer):
    """Does something once, when the first bytes of a file are there."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._is_done = False

    def progress(self, transfer: Transfer) -> None:
        if transfer.done and not self._is_done:
            self._is_done = True
            self._act()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """An empty DIR."""
    path = tmp_path / "into"
    path.mkdir()
    return path


@pytest.fixture
def named(folder: Path) -> Path:
    """A folder with NAMES from 2001, each file holding its name, and an empty one."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (OLD_S, OLD_S))
    (folder / "empty").touch()
    return folder


def noise(size: int) -> bytes:
    """Bytes in which nothing repeats, the same each time."""
    return random.Random(size).randbytes(size)


@contextmanager
def python(folder: Path) -> Iterator[tuple[tuple[str, str], subprocess.Popen[str]]]:
    """HOST and PORT of Python's http.server, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r" port (\d+) ", line)
            assert found, line
            yield ("127.0.0.1", found[1]), process
        finally:
            process.kill()


@contextmanager
def nginx(place: Path, folder: Path, options: str = "") -> Iterator[tuple[str, str]]:
    """HOST and PORT of an nginx: one process in the foreground, and all that it writes is in `place`."""
    place.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = free.getsockname()
    temporary = " ".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {place}/pid; events {{}}\n"
        f"http {{ access_log {place}/access.log; {temporary} {options}\n"
        f"server {{ listen 127.0.0.1:{where[1]}; root {folder}; }} }}\n"
    )
    with (place / "log").open("w") as log:
        process = subprocess.Popen(
            [str(NGINX), "-p", str(place), "-c", str(place / "nginx.conf"), "-e", "stderr"], stderr=log
        )
    with process:
        try:
            ends_s = time.monotonic() + GIVE_UP_S
            while True:
                try:
                    socket.create_connection(where, timeout=1).close()
                    break
                except OSError:
                    said = (place / "log").read_text()
                    assert process.poll() is None, said
                    assert time.monotonic() < ends_s, said
                    time.sleep(0.02)
            yield "127.0.0.1", str(where[1])
        finally:
            process.terminate()


def statuses(place: Path) -> list[int]:
    """What that nginx has answered; it writes a line when an answer has ended."""
    return [int(line.split('" ')[1].split()[0]) for line in (place / "access.log").read_text().splitlines()]


def client_of(where: tuple[str, str], observer: Observer) -> Client:
    return Client(where[0], int(where[1]), observer=observer, tries=1)


# Python's http.server: HTTP/1.0, no ranges, no ETag.


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_python_serves_every_name(named: Path, into: Path, jobs: str) -> None:
    with python(named) as (where, _):
        result = gclient(*where, "get", *NAMES, "empty", "-d", str(into), "-j", jobs)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert tree(into) == {name.rpartition("/")[2]: name.encode() for name in NAMES} | {"empty": b""}
    assert all(path.stat().st_mtime_ns == OLD_S * 10**9 for path in into.iterdir() if path.name != "empty")


def test_a_large_file_comes_from_python_as_it_is_there(folder: Path, into: Path) -> None:
    content = noise(9 * MIB + 1)
    (folder / "large").write_bytes(content)
    with python(folder) as (where, _):
        assert gclient(*where, "large", str(into)).returncode == 0
        assert gclient(*where, "large", "-").stdout == content
    assert tree(into) == {"large": content}


def test_what_python_says_is_not_newer_is_fetched_again(named: Path, into: Path) -> None:
    """Its 304 does not say of when its file is: it may be another, and older."""
    os.utime(named / "plain.txt", (1e9, 1e9))
    with python(named) as (where, _):
        assert gclient(*where, "plain.txt", str(into)).returncode == 0
        (named / "plain.txt").write_text("another")
        os.utime(named / "plain.txt", (1e8, 1e8))
        result = gclient(*where, "plain.txt", str(into), "--json")
    assert (result.returncode, b'"up_to_date": false' in result.stdout) == (0, True)
    assert tree(into) == {"plain.txt": b"another"}


def test_what_python_does_not_have_or_lists_is_refused_or_of_no_known_length(named: Path, into: Path) -> None:
    with python(named) as (where, _):
        assert error_line(*where, "absent", str(into)) == (22, "the server said 404 File not found")
        code, message = error_line(*where, "sub", str(into))
        assert (code, message.partition(" for ")[0]) == (22, "the server says to ask")
        assert error_line(*where, "stats")[0] == 22
    assert tree(into) == {}


def test_python_killed_in_the_middle_leaves_nothing_as_nobody_could_go_on_with_it(
    folder: Path, into: Path
) -> None:
    """More than fits into the buffers between the two."""
    sparse(folder / "large", 64 * MIB)
    (into / "other").write_bytes(b"other")

    def kill() -> None:
        process.kill()
        process.wait(GIVE_UP_S)

    with python(folder) as (where, process), client_of(where, When(kill)) as client:
        with pytest.raises(Failure) as caught:
            client.get("large", into)
        assert caught.value.code in (18, 56)
        assert tree(into) == {"other": b"other"}
        assert error_line(*where, "large", str(into), "--tries", "1")[0] == 7
    assert tree(into) == {"other": b"other"}


def test_an_old_file_stays_when_python_is_killed_in_the_middle_of_a_new_one(folder: Path, into: Path) -> None:
    sparse(folder / "large", 64 * MIB)
    (into / "large").write_bytes(b"old")
    with (
        python(folder) as (where, process),
        client_of(where, When(process.kill)) as client,
        pytest.raises(Failure),
    ):
        client.get("large", into)
    assert tree(into) == {"large": b"old"}


# Apache's httpd: its 304 has an ETag, and no Last-Modified.


def test_what_an_apache_has_not_changed_is_up_to_date(into: Path) -> None:
    answer = head(4, Last_Modified=OLD, ETag='"4-5ff"', Accept_Ranges="bytes") + b"file"
    unchanged = b'HTTP/1.1 304 Not Modified\r\nServer: Apache\r\nETag: "4-5ff"\r\n\r\n'
    with Misbehaving(says(answer, unchanged)) as fake, client_of(fake.address, Observer()) as client:
        assert [client.get("x", into).is_up_to_date for _ in range(2)] == [False, True]
        came = (into / "x").stat()
    assert came.st_mtime_ns // 10**9 == OLD_S
    assert tree(into) == {"x": b"file"}


@pytest.mark.parametrize("field", ["", 'ETag: "4-600"\r\n', 'ETag: W/"4-5ff"\r\n', f"Last-Modified: {OLD}\r\n"])
def test_a_304_that_does_not_name_the_version_that_is_there_is_asked_again(into: Path, field: str) -> None:
    answer = head(4, Last_Modified=OLD, ETag='"4-5ff"') + b"file"
    unchanged = f"HTTP/1.1 304 Not Modified\r\n{field}\r\n".encode()
    other = head(5, Last_Modified=OLD, ETag='"4-600"') + b"other"
    with Misbehaving(says(answer, unchanged, other)) as fake, client_of(fake.address, Observer()) as client:
        client.get("x", into)
        assert not client.get("x", into).is_up_to_date
    assert tree(into) == {"x": b"other"}


# nginx: strong ETags, ranges, 304.


@pytest.mark.external
@needs_nginx
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_nginx_serves_every_name(named: Path, into: Path, tmp_path: Path, jobs: str) -> None:
    with nginx(tmp_path / "nginx", named) as where:
        result = gclient(*where, "get", *NAMES, "empty", "-d", str(into), "-j", jobs)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert tree(into) == {name.rpartition("/")[2]: name.encode() for name in NAMES} | {"empty": b""}
    assert all(path.stat().st_mtime_ns // 10**9 == OLD_S for path in into.iterdir() if path.name != "empty")


@pytest.mark.external
@needs_nginx
def test_what_nginx_has_not_changed_is_answered_with_304(named: Path, into: Path, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", named) as where:
        for _ in range(2):
            assert gclient(*where, "plain.txt", str(into)).returncode == 0
        (named / "plain.txt").write_text("another")
        assert gclient(*where, "plain.txt", str(into)).returncode == 0
    assert statuses(tmp_path / "nginx") == [200, 304, 200]
    assert tree(into) == {"plain.txt": b"another"}


@pytest.mark.external
@needs_nginx
@pytest.mark.parametrize("changes", [False, True], ids=["same", "changed"])
def test_an_interrupted_download_from_nginx_goes_on_unless_the_file_has_changed(
    folder: Path, into: Path, tmp_path: Path, changes: bool
) -> None:
    """Each answer is fast for its first half MiB, and then so slow that nobody could wait for its end."""
    content = noise(MIB)
    (folder / "a").write_bytes(content)
    os.utime(folder / "a", (OLD_S, OLD_S))
    place = tmp_path / "nginx"
    with nginx(place, folder, "limit_rate_after 512k; limit_rate 1k;") as where:
        with OnATerminal(*where, "a", str(into)) as client:
            part = into / "a.part"
            while not (part.exists() and part.stat().st_size >= 500_000):
                assert client.process.poll() is None
            client.process.send_signal(signal.SIGINT)
            assert client.finish() == 130
        got = part.stat().st_size
        assert sorted(tree(into)) == ["a.part", "a.part.json"]
        if changes:
            content = noise(300_000)
            (folder / "a").write_bytes(content)
        result = gclient(*where, "a", str(into), "--json", "--timeout", str(GIVE_UP_S))
        assert result.returncode == 0
        assert f'"resumed_from": {0 if changes else got},'.encode() in result.stdout
    assert statuses(place) == [200, 200 if changes else 206]
    assert tree(into) == {"a": content}


@pytest.mark.external
@needs_nginx
def test_what_nginx_does_not_have_is_refused(named: Path, into: Path, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", named) as where:
        assert error_line(*where, "absent", str(into)) == (22, "the server said 404 Not Found")
        code, message = error_line(*where, "sub", str(into))
        assert (code, message.partition(" for ")[0]) == (22, "the server says to ask")
        assert error_line(*where, "list")[0] == 22
    assert tree(into) == {}


@pytest.mark.external
@needs_nginx
def test_nginx_is_not_asked_to_compress(folder: Path, into: Path, tmp_path: Path) -> None:
    (folder / "a.html").write_bytes(b"again " * 5000)
    with nginx(tmp_path / "nginx", folder, "gzip on; types { text/html html; }") as where:
        assert gclient(*where, "a.html", str(into)).returncode == 0
    assert tree(into) == {"a.html": b"again " * 5000}


# With a certificate.


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's `ca.pem`, `other.pem` of another, and a server's `server.pem`."""
    folder = tmp_path_factory.mktemp("papers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        folder / "server.pem"
    )
    authority.issue_cert("elsewhere.example").private_key_and_cert_chain_pem.write_to_path(folder / "wrong.pem")
    return folder


def secure(folder: Path, papers: Path, certificate: str = "server.pem", *options: str) -> Program:
    return Program(folder, "--tls-cert", str(papers / certificate), *options)


def test_a_file_comes_encrypted_from_who_shows_the_right_certificate(
    folder: Path, into: Path, papers: Path
) -> None:
    content = noise(5 * MIB)
    (folder / "a").write_bytes(content)
    (folder / "b").write_bytes(b"content")
    with secure(folder, papers) as server:
        options = ("--tls", "--ca", str(papers / "ca.pem"))
        result = gclient(*address(server), "get", "a", "b", "-d", str(into), "-j", "2", *options)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        assert gclient(*address(server), "list", *options).stdout.split() in ([b"a", b"b"], [b"b", b"a"])
        assert gclient("localhost", str(server.port), "health", *options).stdout == b"ok\n"
        with Client(server.host, server.port, tls=True, ca=str(papers / "ca.pem")) as client:
            for _ in range(2):
                client.get("b", into / "again")
            assert client.stats()["connections"] == 1
    assert tree(into) == {"a": content, "b": b"content", "again": b"content"}


def test_a_download_over_tls_that_was_interrupted_goes_on(folder: Path, into: Path, papers: Path) -> None:
    content = noise(5 * MIB)
    (folder / "a").write_bytes(content)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with secure(folder, papers) as server:
        ca = str(papers / "ca.pem")
        with (
            Client(server.host, server.port, tls=True, ca=ca, observer=When(interrupt)) as client,
            pytest.raises(KeyboardInterrupt),
        ):
            client.get("a", into)
        got = (into / "a.part").stat().st_size
        assert 0 < got < len(content)
        with Client(server.host, server.port, tls=True, ca=ca) as client:
            assert client.get("a", into).resumed_from == got
    assert tree(into) == {"a": content}


def test_what_is_still_encrypted_when_another_thread_closes_is_never_content(
    folder: Path, into: Path, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is about to read when the other has taken the encryption down, and not yet the connection."""
    content = noise(16 * MIB)
    (folder / "a").write_bytes(content)
    begun, about_to_read, is_plain, has_read = (threading.Event() for _ in range(4))
    codes: list[int] = []

    class Raced(ssl.SSLSocket):
        def settimeout(self, value: float | None) -> None:
            super().settimeout(value)
            if begun.is_set() and not about_to_read.is_set():
                select.select([self], [], [], GIVE_UP_S)
                about_to_read.set()
                is_plain.wait(GIVE_UP_S)

        def recv_into(self, *arguments: Any) -> int:
            try:
                return super().recv_into(*arguments)
            finally:
                if is_plain.is_set():
                    has_read.set()

        def close(self) -> None:
            self._sslobj = None  # as it does itself, and then it closes
            is_plain.set()
            has_read.wait(GIVE_UP_S)
            super().close()

    def fetch() -> None:
        try:
            client.get("a", into)
        except Failure as failure:
            codes.append(failure.code)

    with secure(folder, papers) as server:
        ca = str(papers / "ca.pem")
        with monkeypatch.context() as raced:
            raced.setattr(ssl.SSLContext, "sslsocket_class", Raced)
            client = Client(server.host, server.port, tls=True, ca=ca, observer=When(begun.set))
            thread = threading.Thread(target=fetch)
            thread.start()
            assert about_to_read.wait(GIVE_UP_S)
            client.close()
            thread.join(GIVE_UP_S)
            assert not thread.is_alive()
        assert has_read.is_set()
        assert codes == [56]
        part = (into / "a.part").read_bytes()
        assert 0 < len(part) < len(content)
        assert content.startswith(part)
        with Client(server.host, server.port, tls=True, ca=ca) as again:
            assert again.get("a", into).resumed_from == len(part)
    assert tree(into) == {"a": content}


def test_a_handshake_that_is_reset_is_tried_again_and_exits_35_in_the_end(into: Path) -> None:
    def resets() -> None:
        for _ in range(2):
            connected, _ = listener.accept()
            with connected:
                connected.settimeout(GIVE_UP_S)
                assert connected.recv(1)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            asked.append(1)

    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(GIVE_UP_S)
        port = str(listener.getsockname()[1])
        thread = threading.Thread(target=resets)
        thread.start()
        code, message = error_line("127.0.0.1", port, "x", str(into), "--tls", "--tries", "2")
        thread.join(GIVE_UP_S + 1)
    assert (code, len(asked)) == (35, 2)
    assert message.startswith(f"no TLS with 127.0.0.1 port {port}: ")
    assert tree(into) == {}


@pytest.mark.parametrize(
    ("certificate", "options"),
    [
        ("server.pem", []),
        ("server.pem", ["--ca", "other.pem"]),
        ("wrong.pem", ["--ca", "ca.pem"]),
    ],
    ids=["system", "other", "name"],
)
def test_a_certificate_that_is_not_to_be_trusted_exits_60(
    folder: Path, into: Path, papers: Path, certificate: str, options: list[str]
) -> None:
    (folder / "a").write_bytes(b"content")
    with secure(folder, papers, certificate) as server:
        where = [str(papers / option) if option.endswith(".pem") else option for option in options]
        code, message = error_line(*address(server), "a", str(into), "--tls", *where)
    assert code == 60
    assert message.startswith("the server's certificate is not to be trusted: ")
    assert tree(into) == {}


def test_the_token_never_goes_to_a_server_that_is_not_trusted(folder: Path, papers: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123456789abcdef\n")
    with secure(folder, papers, "wrong.pem", "--access-log", str(tmp_path / "log")) as server:
        options = ("--tls", "--ca", str(papers / "ca.pem"), "--token-file", str(tmp_path / "token"))
        assert error_line(*address(server), "health", *options)[0] == 60
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize("ca", ["absent.pem", "token"])
def test_authorities_that_cannot_be_read_exit_2(folder: Path, papers: Path, tmp_path: Path, ca: str) -> None:
    (tmp_path / "token").write_text("no certificate\n")
    with secure(folder, papers) as server:
        code, message = error_line(*address(server), "health", "--tls", "--ca", str(tmp_path / ca))
    assert code == 2
    assert message.startswith(f"cannot use the certificates in {tmp_path / ca}: ")


def test_tls_with_a_server_that_has_none_exits_35(folder: Path, into: Path, papers: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder) as server:
        for options in (["--ca", str(papers / "ca.pem")], []):
            code, message = error_line(*address(server), "a", str(into), "--tls", *options)
            assert code == 35
            assert message.startswith(f"no TLS with 127.0.0.1 port {server.port}: ")
    assert tree(into) == {}


def test_no_tls_with_a_server_that_wants_it_gets_nothing(folder: Path, into: Path, papers: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with secure(folder, papers) as server:
        code, _ = error_line(*address(server), "a", str(into), "--tries", "1")
    assert code in (8, 56)
    assert tree(into) == {}


@pytest.mark.parametrize("command", [["a", "."], ["health"]])
def test_a_timeout_in_the_handshake_exits_28(command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        code, message = error_line("127.0.0.1", port, *command, "--tls", "--timeout", "0.2", "--tries", "1")
    assert (code, message) == (28, "nothing came for 0.2 s")
