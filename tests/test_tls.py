"""gserver.py with a certificate, as a whole program: curl, other clients, a new certificate on SIGHUP, stops."""

import http.client
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.exchange import GET
from tests.program import PROJECT, Program, read_all, sparse

MIB = 1 << 20


class Papers:
    """An authority, and in `folder` its certificate, a server's chain and key, and the two in one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(self.ca)
        self.both, self.chain, self.key = (folder / name for name in ("both.pem", "chain.pem", "key.pem"))
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(self.both)
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.chain)

    def trusting(self) -> ssl.SSLContext:
        """A client's context."""
        return ssl.create_default_context(cafile=str(self.ca))

    def issue(self, path: Path) -> None:
        """A new certificate with its key, renamed into place."""
        new = path.with_suffix(".new")
        self.authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(new)
        new.rename(path)


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def certificate(papers: Papers, tmp_path: Path) -> Path:
    """A certificate and key that the test may replace."""
    return Path(shutil.copy(papers.both, tmp_path / "server.pem"))


def connect(server: Program, papers: Papers, *, receive_buffer: int = 0, strict: bool = False) -> ssl.SSLSocket:
    """A `strict` client raises at an end without a close_notify."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(30)
    client.connect((server.host, server.port))
    return papers.trusting().wrap_socket(client, server_hostname="127.0.0.1", suppress_ragged_eofs=not strict)


def get(server: Program, papers: Papers, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=30, context=papers.trusting())
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def shown(client: ssl.SSLSocket) -> bytes:
    """The certificate that the server has shown this client."""
    return client.getpeercert(binary_form=True) or b""


def refused(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, str(PROJECT / "gserver.py"), "0", *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=30,
        check=False,
        **options,
    )


def log_line(server: Program) -> str:
    assert server.process.stderr is not None
    return server.process.stderr.readline()


def reload(server: Program) -> list[str]:
    """SIGHUP; what it logged when it could not be done."""
    server.process.send_signal(signal.SIGHUP)
    line = log_line(server)
    assert line, "the server ended"
    return [] if line.endswith("INFO reloaded\n") else [line]


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl here")
    return subprocess.run(
        [program, "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", *arguments],
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("separate_key", [False, True])
def test_curl_fetches_a_file_whole_over_http_1_1_from_who_shows_the_right_certificate(
    folder: Path, papers: Papers, separate_key: bool
) -> None:
    content = os.urandom(3 * MIB)
    (folder / "a").write_bytes(content)
    options = ["--tls-cert", str(papers.both)]
    if separate_key:
        options = ["--tls-cert", str(papers.chain), "--tls-key", str(papers.key)]
    with Program(folder, *options) as server:
        assert server.start_line.startswith(f"gserver: https://127.0.0.1:{server.port}/ serves ")
        url = f"https://127.0.0.1:{server.port}/a"
        for _ in range(2):
            done = curl("--cacert", str(papers.ca), "--write-out", "%{stderr}%{http_version} %{http_code}", url)
            assert (done.returncode, done.stderr) == (0, b"1.1 200")
            assert done.stdout == content


def test_curl_keeps_the_connection_over_tls(folder: Path, papers: Papers) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--tls-cert", str(papers.both)) as server:
        url = f"https://127.0.0.1:{server.port}/a"
        done = curl("--cacert", str(papers.ca), "--write-out", " %{num_connects} ", url, url)
        assert done.stdout == b"content 1 content 0 "


def test_curl_with_another_authority_or_without_tls_gets_nothing(
    folder: Path, papers: Papers, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(b"content")
    other = Papers(tmp_path)
    with Program(folder, "--tls-cert", str(papers.both)) as server:
        done = curl("--cacert", str(other.ca), f"https://127.0.0.1:{server.port}/a")
        assert (done.returncode, done.stdout) == (60, b"")
        done = curl(f"http://127.0.0.1:{server.port}/a")
        assert done.returncode != 0
        assert b"content" not in done.stdout
        assert get(server, papers, "/a") == (200, b"content")


def test_a_key_that_needs_a_password_is_refused_and_nobody_is_asked(
    folder: Path, papers: Papers, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key(papers.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    ours, theirs = pty.openpty()
    try:
        # The first terminal that a session's leader opens is the one that OpenSSL would ask on.
        done = subprocess.run(
            [
                *("sh", "-c", 'exec 3<>"$0"; exec "$@" <&3', os.ttyname(theirs)),
                *(sys.executable, str(PROJECT / "gserver.py"), "0", str(folder)),
                *("--tls-cert", str(papers.chain), "--tls-key", str(encrypted)),
            ],
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        os.set_blocking(ours, False)
        asked = b""
        with suppress(OSError):  # nothing was written, or nobody has it open
            asked = os.read(ours, 1000)
        assert asked == b""
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert done.stderr.startswith(f"gserver: cannot use the certificate {papers.chain} with the key {encrypted}: ")
    assert done.stderr.count("\n") == 1


def garbage(folder: Path) -> Path:
    path = folder / "garbage.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n" + bytes(99))
    return path


def test_what_cannot_be_used_is_one_line_and_exit_1(folder: Path, papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    unreadable, other = garbage(tmp_path), Papers(tmp_path)
    for certificate, key, says in [
        (unreadable, None, "PEM"),
        (tmp_path / "empty.pem", None, "PEM"),
        (papers.chain, None, "PEM"),  # no key in it
        (papers.chain, unreadable, "PEM"),
        (papers.chain, other.key, "PEM"),  # another's key
        (tmp_path / "missing.pem", None, "No such file or directory"),
        (papers.chain, tmp_path / "missing.pem", "No such file or directory"),
    ]:
        options = ["--tls-cert", str(certificate)] + (["--tls-key", str(key)] if key else [])
        done = refused(str(folder), *options)
        assert done.returncode == 1
        assert done.stderr.startswith(f"gserver: cannot use the certificate {certificate}")
        assert (f"with the key {key}" in done.stderr) == (key is not None)
        assert says in done.stderr
        assert "None" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_key_without_a_certificate_is_exit_2(folder: Path, papers: Papers) -> None:
    done = refused(str(folder), "--tls-key", str(papers.key))
    assert (done.returncode, done.stderr) == (2, "gserver: --tls-key needs --tls-cert (see --help)\n")


def test_a_new_certificate_is_for_new_connections_and_old_ones_go_on(
    folder: Path, papers: Papers, certificate: Path
) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--tls-cert", str(certificate)) as server, connect(server, papers) as old:
        old.sendall(GET % b"a")
        assert old.recv(4096).endswith(b"content")
        papers.issue(certificate)
        with connect(server, papers) as before:
            assert shown(before) == shown(old)
        assert reload(server) == []
        with connect(server, papers) as new:
            assert shown(new) != shown(old)
            new.sendall(GET % b"a")
            assert new.recv(4096).endswith(b"content")
        old.sendall(GET % b"a")
        assert old.recv(4096).endswith(b"content")


@pytest.mark.parametrize("breaking", ["garbage", "missing"])
def test_a_certificate_that_cannot_be_used_leaves_the_old_one_and_one_line(
    folder: Path, papers: Papers, certificate: Path, breaking: str
) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--tls-cert", str(certificate)) as server:
        with connect(server, papers) as client:
            old = shown(client)
        if breaking == "garbage":
            certificate.write_bytes(b"garbage")
        else:
            certificate.unlink()
        (line,) = reload(server)
        assert f"ERROR cannot use the certificate {certificate}: " in line
        assert line.endswith("; going on with what there was\n")
        with connect(server, papers) as client:
            assert shown(client) == old
        assert get(server, papers, "/a") == (200, b"content")
        papers.issue(certificate)
        assert reload(server) == []
        with connect(server, papers) as client:
            assert shown(client) != old


@contextmanager
def slow_transfer(
    server: Program, papers: Papers, *, strict: bool = False
) -> Iterator[tuple[ssl.SSLSocket, bytes]]:
    """A client that has read the beginning of /large, and nothing more; and that beginning."""
    with connect(server, papers, receive_buffer=65536, strict=strict) as client:
        client.sendall(GET % b"large")
        yield client, client.recv(1000)


def test_a_stop_lets_a_tls_transfer_finish(folder: Path, papers: Papers) -> None:
    content = os.urandom(8 * MIB)
    (folder / "large").write_bytes(content)
    with (
        Program(folder, "--tls-cert", str(papers.both)) as server,
        slow_transfer(server, papers) as (client, beginning),
    ):
        client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.begin_stop()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        head, _, rest = (beginning + read_all(client)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert rest[: len(content)] == content
        assert rest[len(content) :].startswith(b"HTTP/1.1 503")
        assert "0 transfers cut" in server.process.communicate(timeout=30)[1]


def test_a_stop_cuts_a_tls_transfer_that_takes_longer_than_the_drain(folder: Path, papers: Papers) -> None:
    sparse(folder / "large", 60 * MIB)
    with (
        Program(folder, "--tls-cert", str(papers.both), "--drain", "0.1") as server,
        slow_transfer(server, papers, strict=True) as (client, _),
    ):
        assert "1 transfers cut" in server.stop()
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            read_all(client)


def test_an_idle_tls_client_does_not_delay_a_stop(folder: Path, papers: Papers) -> None:
    options = ("--tls-cert", str(papers.both), "--drain", "600")
    with Program(folder, *options) as server, connect(server, papers) as idle:
        idle.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        assert "0 transfers cut" in server.stop()
        assert idle.recv(1) == b""


def test_a_tls_newcomer_is_closed_at_once_when_nobody_can_make_room(folder: Path, papers: Papers) -> None:
    options = ("--tls-cert", str(papers.both), "--max-connections", "2")
    with Program(folder, *options) as server, connect(server, papers) as one, connect(server, papers) as two:
        for client in (one, two):
            client.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n")
        for _ in range(3):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connect(server, papers)
        one.sendall(b"\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        # Now one is idle, and leaves for who comes.
        assert get(server, papers, "/-/health") == (200, b"ok\n")
        two.sendall(b"\r\n")
        assert two.recv(4096).startswith(b"HTTP/1.1 200")
        assert one.recv(1) == b""


def test_a_client_that_never_shakes_hands_is_ended(folder: Path, papers: Papers) -> None:
    changes = "connection.HEAD_S = 0.1; server.REAP_EVERY_S = 0.05"
    with Program(folder, "--tls-cert", str(papers.both), changes=changes) as server, server.connect() as silent:
        assert silent.recv(1) == b""
        assert get(server, papers, "/-/health") == (200, b"ok\n")


@pytest.mark.parametrize("options", [(), ("--access-log", "-")])
def test_sighup_without_anything_to_reload_is_a_stop_as_any_other(folder: Path, options: tuple[str, ...]) -> None:
    with Program(folder, *options) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(30) == 0
