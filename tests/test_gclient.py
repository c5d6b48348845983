"""gclient.py as its users run it, against the real server: what can be said to it, where files land, and what it
says when that cannot be. Servers that misbehave are in test_gclient_refusals.py."""

import errno
import hashlib
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

import gclient as client_module
from tests.clients import BUFFERED, OnATerminal, address, command, error_line, tree
from tests.misbehaving import FIRST_PIECE, GIVE_UP_S, Misbehaving, head, held, says
from tests.program import PROJECT, Program, gclient

CODES = {0, 2, 6, 7, 8, 18, 22, 23, 28, 32, 33, 35, 56, 60, 130}

NAMES = [
    "plain.txt",
    "with some spaces",
    "ünï-日本.txt",
    "100%",
    "100%25",
    "what?",
    "a#b",
    "a&b=c;d+e",
    "back\\slash",
    "'quoted\"",
    "list",
    "stats",
    "health",
    "n" * 255,
    "é" * 127 + "x",
    "sub/inner",
    "sub/deep er/ünner?",
]

HOSTILE_NAMES = [
    "../evil",
    "../../../evil",
    "/../evil",
    "a/../../evil",
    "/etc/evil",
    "//evil",
    "..%2fevil",
    "%2e%2e/evil",
    "..\\evil",
    "..\\..\\evil",
    "...",
    "a\nb",
    "\x1b[2J",
    "~/evil",
    "C:evil",
]

NOT_NAMES = ["", "/", ".", "..", "../", "a/..", "a/.", "sub/", "/../.."]

LIMITED = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
"""A disk that is full after so many bytes of a file, and then gclient.py."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One server for every test that only fetches; it serves NAMES, each file holding its own name."""
    folder = tmp_path_factory.mktemp("served")
    for name in [*NAMES, "get", "-dash"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / "empty").touch()
    (folder / "big").write_bytes(b"b" * 3_000_000)
    with Program(folder) as program:
        yield program


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty DIR to fetch into, deep enough that `../..` stays within the test."""
    path = tmp_path / "outer" / "inner" / "into"
    path.mkdir(parents=True)
    return path


def limited(most_bytes: int, *arguments: str, stdout: int = subprocess.DEVNULL, unbuffered: bool = False) -> str:
    """Run gclient.py on that full disk; its one line on standard error, after the exit code that it must have."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(most_bytes), *command(*arguments)[1:]],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=BUFFERED | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {}),
        timeout=GIVE_UP_S,
        check=False,
    )
    return f"{done.returncode} {done.stderr.decode()}"


# What it fetches, and where that lands


@pytest.mark.parametrize("name", NAMES)
def test_a_file_lands_under_the_last_component_of_its_name(server: Program, directory: Path, name: str) -> None:
    result = gclient(*address(server), name, str(directory))
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert tree(directory) == {name.rpartition("/")[2]: name.encode()}


def test_a_leading_slash_changes_nothing(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "/sub/inner", str(directory)).returncode == 0
    assert tree(directory) == {"inner": b"sub/inner"}


def test_a_name_that_is_not_utf_8_travels_and_lands_as_the_bytes_it_is(directory: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff")
    with Misbehaving(says(head(1) + b"x")) as fake:
        assert gclient(*fake.address, name, str(directory)).returncode == 0
    assert fake.requests[0][""] == "GET /caf%E9%20%FF HTTP/1.1"
    assert os.listdir(os.fsencode(directory)) == [b"caf\xe9 \xff"]


@pytest.mark.parametrize("before", [0, 2])
def test_a_name_with_a_leading_dash_is_fetched_after_a_double_dash(
    server: Program, directory: Path, before: int
) -> None:
    words = [*address(server), "-dash", str(directory)]
    assert gclient(*words[:before], "--", *words[before:]).returncode == 0
    assert tree(directory) == {"-dash": b"-dash"}


def test_an_empty_file_is_fetched(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "empty", str(directory)).returncode == 0
    assert tree(directory) == {"empty": b""}


def test_a_file_that_landed_is_nobody_elses_program(server: Program, directory: Path) -> None:
    result = subprocess.run(
        ["sh", "-c", 'umask 027; exec "$@"', "sh", *command(*address(server), "list", str(directory))],
        timeout=GIVE_UP_S,
        check=False,
    )
    assert result.returncode == 0
    assert stat.S_IMODE((directory / "list").stat().st_mode) == 0o640


def test_a_dash_as_dir_is_standard_output(server: Program, directory: Path) -> None:
    for words in (["sub/inner", "-"], ["get", "sub/inner", "-d", "-"]):
        result = gclient(*address(server), *words, cwd=directory)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"sub/inner", b"")
    assert tree(directory) == {}


def test_get_fetches_every_file_into_one_folder(server: Program, directory: Path) -> None:
    result = gclient(*address(server), "get", "plain.txt", "list", "sub/inner", "-d", str(directory))
    assert result.returncode == 0
    assert tree(directory) == {"plain.txt": b"plain.txt", "list": b"list", "inner": b"sub/inner"}


def test_without_a_folder_files_land_where_it_runs(server: Program, directory: Path) -> None:
    for words in (["get", "plain.txt"], ["get", "100%", "what?"], ["a#b"]):
        assert gclient(*address(server), *words, cwd=directory).returncode == 0
    names = ["plain.txt", "100%", "what?", "a#b"]
    assert tree(directory) == {name: name.encode() for name in names}


def test_get_to_standard_output_joins_the_files(server: Program) -> None:
    result = gclient(*address(server), "get", "list", "stats", "sub/../list", "-d", "-")
    assert (result.returncode, result.stdout) == (22, b"liststats")
    result = gclient(*address(server), "get", "list", "stats", "list", "-d", "-")
    assert (result.returncode, result.stdout) == (0, b"liststatslist")


@pytest.mark.parametrize(
    ("names", "code"),
    [(["absent", "list", "..", "stats"], 22), (["list", "..", "stats", "absent"], 2), (["list", "stats"], 0)],
)
def test_every_file_is_tried_and_the_first_that_fails_decides(
    server: Program, directory: Path, names: list[str], code: int
) -> None:
    result = gclient(*address(server), "get", *names, "-d", str(directory))
    assert (result.returncode, result.stderr.count(b"gclient: ")) == (code, len(names) - 2)
    assert tree(directory) == {"list": b"list", "stats": b"stats"}


def test_80_mib_more_than_the_cache_arrive_unchanged(
    start: Callable[..., Program], folder: Path, directory: Path
) -> None:
    content = b"".join(os.urandom(1 << 20) for _ in range(80))
    (folder / "large").write_bytes(content)
    assert gclient(*address(start()), "large", str(directory)).returncode == 0
    with (directory / "large").open("rb") as landed:
        assert hashlib.file_digest(landed, "sha256").digest() == hashlib.sha256(content).digest()


# The command line


def test_list_prints_the_cached_names_one_a_line(folder: Path, directory: Path) -> None:
    for name in ("one", "two words", "ü"):
        (folder / name).write_text(name)
    with Program(folder) as server:
        assert gclient(*address(server), "list").stdout == b""
        gclient(*address(server), "get", "two words", "ü", "-d", str(directory))
        result = gclient(*address(server), "list")
    assert (result.returncode, result.stdout.decode(), result.stderr) == (0, "ü\ntwo words\n", b"")


def test_health_prints_ok(server: Program) -> None:
    result = gclient(*address(server), "health")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"ok\n", b"")


@pytest.mark.parametrize("name", ["list", "stats", "health"])
def test_a_word_followed_by_a_folder_is_a_file_whatever_it_is_called(
    server: Program, directory: Path, name: str
) -> None:
    assert gclient(*address(server), name, str(directory)).stdout == b""
    assert tree(directory) == {name: name.encode()}


def test_a_file_called_get_is_fetched_with_get(server: Program, directory: Path) -> None:
    assert gclient(*address(server), "get", "get", cwd=directory).returncode == 0
    assert tree(directory) == {"get": b"get"}
    assert gclient(*address(server), "get", "get", "-d", "-").stdout == b"get"


def test_get_is_the_command_also_before_the_name_of_a_folder_that_is_there(
    server: Program, directory: Path
) -> None:
    (directory / "list").mkdir()
    (directory / "into").mkdir()
    result = gclient(*address(server), "get", "list", "-d", "into", cwd=directory)
    assert result.returncode == 0
    result = gclient(*address(server), "get", "list", cwd=directory)
    assert (result.returncode, result.stderr) == (23, b"gclient: cannot write ./list: it is a folder\n")
    assert tree(directory) == {"into/list": b"list"}


@pytest.mark.parametrize(
    ("words", "command", "files", "into"),
    [
        ("list", "list", [], None),
        ("list --long", "list", [], None),
        ("stats --json", "stats", [], None),
        ("health", "health", [], None),
        ("-- health", "health", [], None),
        ("x", None, ["x"], "."),
        ("x y", None, ["x"], "y"),
        ("x -", None, ["x"], "-"),
        ("list -", None, ["list"], "-"),
        ("list stats", None, ["list"], "stats"),
        ("get x", None, ["x"], "."),
        ("get list", None, ["list"], "."),
        ("get get", None, ["get"], "."),
        ("-- get get", None, ["get"], "."),
        ("get .", None, ["."], "."),
        ("get -", None, ["-"], "."),
        ("get /", None, ["/"], "."),
        ("get tests -d in", None, ["tests"], "in"),
        ("get . x", None, [".", "x"], "."),
        ("get . -d .", None, ["."], "."),
        ("get x y", None, ["x", "y"], "."),
        ("get x y z -d in", None, ["x", "y", "z"], "in"),
        ("get x -d in y", None, ["x", "y"], "in"),
        ("-d in get x y", None, ["x", "y"], "in"),
        ("get -d in x y", None, ["x", "y"], "in"),
        ("get x --directory=in y", None, ["x", "y"], "in"),
        ("get -d in -- -x --long", None, ["-x", "--long"], "in"),
        ("get a/x b/x -d -", None, ["a/x", "b/x"], "-"),
        ("get a/x b/y --json -j 2", None, ["a/x", "b/y"], "."),
        ("-- -x in", None, ["-x"], "in"),
        ("--timeout 3 x --tries 2 in -q", None, ["x"], "in"),
    ],
)
def test_what_the_words_mean(words: str, command: str | None, files: list[str], into: str | None) -> None:
    options = client_module.parse_arguments(["h", "80", *words.split()])
    assert (options.host, options.port) == ("h", 80)
    assert (options.command, options.files) == (command, files)
    assert options.directory == into


@pytest.mark.parametrize(
    "arguments",
    ["--timeout 3 h 80 get x", "h --timeout 3 80 get x", "h 80 get --timeout 3 x", "h 80 get x --timeout=3"],
)
def test_options_may_stand_anywhere(arguments: str) -> None:
    options = client_module.parse_arguments(arguments.split())
    assert (options.host, options.port, options.files, options.timeout) == ("h", 80, ["x"], 3.0)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["localhost"],
        ["localhost", "80"],
        *(["localhost", text, "list"] for text in ("0", "65536", "http", "-1", "+80", "8_0", "٨٠", "")),
        ["localhost", "80", "get"],
        ["localhost", "80", "get", "-d", "."],
        ["localhost", "80", "list", "-d", "."],
        ["localhost", "80", "stats", "-d", "-"],
        ["localhost", "80", "a", "b", "c"],
        ["localhost", "80", "a", "-d", "."],
        ["localhost", "80", "a", ".", "-d", "."],
        ["localhost", "80", "list", "--nonsense"],
        ["localhost", "80", "list", "--long=1"],
        *(["localhost", "80", "list", f"--timeout={text}"] for text in ("x", "0", "-1", "nan", "inf", "1e7", "")),
        *(["localhost", "80", "a", f"--max-time={text}"] for text in ("x", "0", "nan")),
        *(["localhost", "80", "a", f"--tries={text}"] for text in ("x", "0", "-1", "1.5", "1001")),
        *(["localhost", "80", "a", f"--jobs={text}"] for text in ("x", "0", "65")),
        *(["localhost", "80", name, "."] for name in NOT_NAMES),
        ["localhost", "80", "a", "--checksum", "sha-256=x"],
        ["localhost", "80", "a", "--checksum", "md5=" + "0" * 64],
        ["localhost", "80", "list", "--token-file", "/no/such/file"],
        ["localhost", "80", "get", "a", "b", "--token-file", "/no/such/file"],
        ["localhost", "80", "get", "a", "b", "--token-file", "/no/such/file", "-j", "2"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2(arguments: list[str]) -> None:
    assert error_line(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("get x x", "two files would be called 'x'"),
        ("get a/x b y/x", "two files would be called 'x'"),
        ("get a/ b/", "two files would be called ''"),
        ("list --ca x", "--ca needs --tls"),
        ("stats --long", "--long is for list"),
        ("x --long", "--long is for list"),
        ("health --json", "--json is for list, stats, and files"),
        ("x - --json", "--json is for list, stats, and files"),
        ("get x y -d - --json", "--json is for list, stats, and files"),
        (f"get x y --checksum sha-256={'0' * 64}", "--checksum is for one file"),
        (f"list --checksum sha-256={'0' * 64}", "--checksum is for one file"),
        ("get x y -d - -j 2", "--jobs would mix the files on standard output"),
        ("get", "get which file?"),
        ("get -d .", "get which file?"),
        ("get get get", "two files would be called 'get'"),
        ("x -d .", "say list, stats, health, FILE [DIR], or get FILE..."),
    ],
)
def test_a_contradiction_exits_2_and_is_named(words: str, message: str) -> None:
    assert error_line("localhost", "80", *words.split()) == (2, f"{message} (see --help)")


def test_help_names_every_exit_code_and_every_option() -> None:
    result = gclient("--help")
    text = result.stdout.decode()
    assert (result.returncode, result.stderr) == (0, b"")
    paragraph = text.partition("Exit codes")[2].partition("\n\n")[0]
    assert {int(number) for number in re.findall(r"(?<![\w.])\d+", paragraph)} == CODES
    options = text.partition("\noptions:\n")[2]
    for option in ("-d", "-j", "--checksum sha-256=HEX", "--tries N", "--timeout S", "--max-time S", "--ca PEM"):
        assert f"\n  {option}" in options
    for option in ("--directory DIR", "--jobs N"):  # Python 3.13 has the metavariable only once
        assert option in options
    for option in ("--token-file PATH", "--tls", "--long", "--json", "-q", "-v"):
        assert f"\n  {option}" in options
    assert max(map(len, text.splitlines())) <= 115


def test_the_examples_of_the_help_are_right() -> None:
    text = gclient("--help").stdout.decode()
    examples = re.findall(r"^    gclient\.py ((?:localhost|::1) [^|\n]*)", text, re.MULTILINE)
    parsed = [client_module.parse_arguments(shlex.split(example)) for example in examples]
    assert [options.files for options in parsed] == [
        ["trips/rome.jpg"],
        ["a.iso", "b.iso"],
        ["table.csv"],
        ["a.iso"],
    ]


# Hosts


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "two words", "a..b", "x" * 70, "ü..x", "ü" * 70, "", "[::1"]
)
def test_a_host_that_cannot_be_resolved_exits_6(host: str) -> None:
    code, message = error_line(host, "80", "list")
    assert code == 6
    assert message.startswith("cannot resolve ")


def test_a_host_that_is_not_utf_8_exits_6_and_is_printed_safely() -> None:
    assert error_line(os.fsdecode(b"\xff"), "80", "list") == (6, "cannot resolve '\\udcff': not a host name")


def test_a_port_nobody_listens_on_exits_7(directory: Path) -> None:
    with socket.socket() as bound:  # and never listens: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = str(bound.getsockname()[1])
        for words in (["x", str(directory), "--tries", "1"], ["list"]):
            code, message = error_line("127.0.0.1", port, *words)
            refused = os.strerror(errno.ECONNREFUSED)
            assert (code, message) == (7, f"cannot connect to 127.0.0.1 port {port}: {refused}")
    assert tree(directory) == {}


@contextmanager
def served_on(folder: Path, listen: str, reached: str) -> Iterator[tuple[str, str]]:
    """HOST and PORT of a server that listens on `listen`, as seen from here; skips without such an address."""
    family = socket.AF_INET6 if ":" in reached else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.bind((reached.strip("[]"), 0))
    except OSError as error:
        pytest.skip(f"this machine has no {reached}: {error.strerror}")
    with Program(folder, "--host", listen) as server:
        yield reached, str(server.port)


@pytest.mark.parametrize(
    ("listen", "reached", "authority"),
    [
        ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "localhost", "localhost"),
        ("::1", "::1", "[::1]"),
        ("::1", "[::1]", "[::1]"),
        ("::", "::1", "[::1]"),
    ],
)
def test_a_server_at_another_address_is_reached(
    folder: Path, directory: Path, listen: str, reached: str, authority: str
) -> None:
    (folder / "x").write_bytes(b"content")
    with served_on(folder, listen, reached) as there:
        assert gclient(*there, "x", str(directory)).returncode == 0
        result = gclient(*there, "list", "-v")
    assert result.stdout == b"x\n"
    assert f"> Host: {authority}:{there[1]}\n" in result.stderr.decode()
    assert tree(directory) == {"x": b"content"}


def test_a_server_at_another_address_only_is_not_reached_at_this_one(folder: Path) -> None:
    with served_on(folder, "127.0.0.2", "127.0.0.2") as (_, port):
        assert error_line("127.0.0.1", port, "health")[0] == 7


@pytest.mark.parametrize(
    ("host", "port", "tls", "url"),
    [
        ("example.org", 8080, False, "http://example.org:8080/x"),
        ("example.org", 80, False, "http://example.org/x"),
        ("example.org", 443, False, "http://example.org:443/x"),
        ("example.org", 443, True, "https://example.org/x"),
        ("example.org", 80, True, "https://example.org:80/x"),
        ("::1", 80, False, "http://[::1]/x"),
        ("[::1]", 81, False, "http://[::1]:81/x"),
        ("fe80::1%eth0", 81, False, "http://[fe80::1]:81/x"),
        ("bücher.example", 80, False, "http://xn--bcher-kva.example/x"),
    ],
)
def test_a_host_is_named_to_the_server_as_a_url_has_it(host: str, port: int, tls: bool, url: str) -> None:
    observer = client_module.Observer()
    connection = client_module.Connection(host, port, tls=tls, ca=None, token=None, timeout_s=1, observer=observer)
    assert connection.url("/x") == url


def test_a_certificate_for_another_host_exits_60_and_one_for_this_host_does_not(
    folder: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with Program(folder, "--tls-cert", str(tmp_path / "server.pem")) as server:
        tls = (str(server.port), "health", "--tls", "--ca", str(tmp_path / "ca.pem"))
        assert gclient("localhost", *tls).stdout == b"ok\n"
        code, message = error_line("127.0.0.1", *tls)
        assert error_line("localhost", *tls[:3])[0] == 60
    assert code == 60
    assert message.startswith("the server's certificate is not to be trusted: IP address mismatch")


# What the server will not give


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file: absent"),
        ("sub", "the server says to ask for /sub/, which gclient does not"),
        ("../plain.txt", "no such file: ../plain.txt"),
        (os.fsdecode(b"\xff"), "no such file"),
    ],
)
def test_what_the_server_will_not_give_exits_22_with_its_words(
    server: Program, directory: Path, name: str, message: str
) -> None:
    assert error_line(*address(server), name, str(directory)) == (22, message)
    assert tree(directory) == {}


# Exit code 23: what cannot be written


@pytest.mark.parametrize("into", ["missing", "file", "file/below"])
def test_a_dir_that_is_none_exits_23(server: Program, directory: Path, into: str) -> None:
    (directory / "file").touch()
    code, message = error_line(*address(server), "list", str(directory / into))
    assert (code, message) == (23, f"cannot write: {directory / into} is not a folder")
    assert tree(directory) == {"file": b""}


def test_a_dir_that_is_read_only_exits_23(server: Program, directory: Path) -> None:
    directory.chmod(0o555)
    # No mode stops root, but nobody makes a file in /sys.
    into = Path("/sys") if os.access(directory, os.W_OK) else directory
    code, message = error_line(*address(server), "list", str(into))
    assert code == 23
    assert message.startswith(f"cannot write {into / 'list.part'}: ")
    assert tree(directory) == {}


def test_a_name_too_long_for_the_disk_exits_23_and_leaves_nothing(directory: Path) -> None:
    """And before anything is asked."""
    code, message = error_line("no-such-host.invalid", "80", "n" * 256, str(directory))
    assert code == 23
    assert message == f"cannot write {directory / ('n' * 256)}: {os.strerror(errno.ENAMETOOLONG)}"
    assert tree(directory) == {}


def test_a_name_too_long_for_the_disk_is_none_for_standard_output(server: Program) -> None:
    assert error_line(*address(server), "n" * 256, "-") == (22, f"no such file: {'n' * 256}")


@pytest.mark.parametrize("folder_name", ["list", "list.part", "list.part.json"])
def test_a_folder_in_the_way_exits_23_and_stays(server: Program, directory: Path, folder_name: str) -> None:
    (directory / folder_name).mkdir()
    (directory / folder_name / "kept").write_bytes(b"kept")
    code, message = error_line(*address(server), "list", str(directory))
    assert code == 23
    assert message.startswith(f"cannot write {directory / 'list'}")
    assert tree(directory) == {f"{folder_name}/kept": b"kept"}


def test_a_folder_under_the_name_is_seen_before_anything_is_asked(directory: Path) -> None:
    (directory / "x").mkdir()
    path = directory / "x"
    assert error_line("no-such-host.invalid", "80", "x", str(directory)) == (
        23,
        f"cannot write {path}: it is a folder",
    )


def test_a_disk_that_fills_up_exits_23_and_what_came_is_of_use_when_there_is_room(
    server: Program, directory: Path
) -> None:
    said = limited(1_000_000, *address(server), "big", str(directory))
    path = directory / "big.part"
    assert said == f"23 gclient: cannot write {path}: {os.strerror(errno.EFBIG)}\n"
    assert sorted(tree(directory)) == ["big.part", "big.part.json"]
    assert path.read_bytes() == b"b" * 1_000_000
    assert gclient(*address(server), "big", str(directory)).returncode == 0
    assert tree(directory) == {"big": b"b" * 3_000_000}


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("words", [["x", "-"], ["list"]])
def test_a_disk_too_small_by_one_byte_under_standard_output_exits_23(
    tmp_path: Path, words: list[str], unbuffered: bool
) -> None:
    content = b"x" * 999 + b"\n"
    with Misbehaving(says(head(len(content)) + content)) as fake, (tmp_path / "out").open("wb") as out:
        said = limited(len(content) - 1, *fake.address, *words, stdout=out.fileno(), unbuffered=unbuffered)
    assert said == f"23 gclient: cannot write: {os.strerror(errno.EFBIG)}\n"


@pytest.mark.parametrize("words", [["list", "-"], ["big", "-"], ["health"]])
def test_a_full_disk_under_standard_output_exits_23(server: Program, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command(*address(server), *words),
            stdout=full,
            stderr=subprocess.PIPE,
            env=BUFFERED,
            timeout=60,
            check=False,
        )
    message = f"gclient: cannot write: {os.strerror(errno.ENOSPC)}\n"
    assert (result.returncode, result.stderr.decode()) == (23, message)


@pytest.mark.parametrize("words", [["big", "-"], ["health"]])
def test_a_reader_that_left_exits_23_in_one_line(server: Program, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            command(*address(server), *words),
            stdout=writer,
            stderr=subprocess.PIPE,
            env=BUFFERED,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    message = f"gclient: cannot write: {os.strerror(errno.EPIPE)}\n"
    assert (result.returncode, result.stderr.decode()) == (23, message)


# Whole or not at all


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(directory: Path) -> None:
    (directory / "x").write_bytes(b"old")
    script = held(FIRST_PIECE, b"end")
    with Misbehaving(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for(b"[")
        assert (directory / "x").read_bytes() == b"old"
        fake.gate.set()
        assert client.finish() == 0
    assert tree(directory) == {"x": FIRST_PIECE + b"end"}


def test_a_file_that_is_there_survives_a_failed_transfer(directory: Path) -> None:
    (directory / "x").write_bytes(b"old")
    with Misbehaving(says(head(9) + b"new")) as fake:
        assert gclient(*fake.address, "x", str(directory), "--tries", "1").returncode == 18
    assert tree(directory) == {"x": b"old"}


def test_an_empty_part_is_in_nobodys_way(server: Program, directory: Path) -> None:
    (directory / "list.part").touch()
    assert gclient(*address(server), "list", str(directory)).returncode == 0
    assert tree(directory) == {"list": b"list"}


def test_a_file_of_somebody_elses_that_is_called_like_a_part_exits_23_and_stays(
    server: Program, directory: Path
) -> None:
    (directory / "list.part").write_bytes(b"somebody's")
    code, message = error_line(*address(server), "list", str(directory))
    assert (code, message.partition(":")[0]) == (23, f"cannot write {directory / 'list.part'}")
    assert tree(directory) == {"list.part": b"somebody's"}


def test_a_second_download_of_one_name_is_refused_and_the_first_goes_on(directory: Path) -> None:
    script = held(FIRST_PIECE, b"end")
    with Misbehaving(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as first:
        first.wait_for(b"[")
        later = error_line("no-such-host.invalid", "80", "x", str(directory))
        assert later == (23, "another gclient is fetching a file of this name to there")
        fake.gate.set()
        assert first.finish() == 0
    assert tree(directory) == {"x": FIRST_PIECE + b"end"}


@pytest.mark.parametrize("rest", [b"end", b""])
def test_a_part_that_was_taken_away_meanwhile_is_neither_renamed_nor_removed(directory: Path, rest: bytes) -> None:
    """The first ends whole, the second is cut; what is called like the part by then is somebody else's."""
    script = held(FIRST_PIECE, rest, missing=3 - len(rest))
    arguments = ("x", str(directory), "--tries", "1")
    with Misbehaving(script) as fake, OnATerminal(*fake.address, *arguments) as client:
        client.wait_for(b"[")
        (directory / "x.part").unlink()
        (directory / "x.part").write_bytes(b"somebody's")
        fake.gate.set()
        assert client.finish() == (23 if rest else 18)
    assert (directory / "x.part").read_bytes() == b"somebody's"
    assert not (directory / "x").exists()


def test_an_interrupt_while_a_transfer_hangs_exits_130_without_a_word_of_pythons(directory: Path) -> None:
    script = held(FIRST_PIECE, b"", missing=9)
    with Misbehaving(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for(b"[")
        assert "x.part" in tree(directory)
        client.process.send_signal(signal.SIGINT)
        assert client.finish() == 130
    assert b"Traceback" not in client.screen
    assert tree(directory) == {}


# Never outside DIR


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_name_writes_outside_dir(tmp_path: Path, directory: Path, name: str) -> None:
    with Misbehaving(says(head(4) + b"evil")) as fake:
        assert gclient(*fake.address, name, str(directory)).returncode == 0
    assert tree(tmp_path) == {f"outer/inner/into/{name.rpartition('/')[2]}": b"evil"}


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_part_of_a_hostile_name_is_outside_dir(tmp_path: Path, directory: Path, name: str) -> None:
    with Misbehaving(says(head(4, ETag='"1"') + b"ev")) as fake:
        assert gclient(*fake.address, name, str(directory), "--tries", "1").returncode == 18
    last = f"outer/inner/into/{name.rpartition('/')[2]}"
    assert sorted(tree(tmp_path)) == [f"{last}.part", f"{last}.part.json"]


@settings(max_examples=150, deadline=None)
@given(name=st.text(st.sampled_from("./\\~%:-a\0\n é"), max_size=12) | st.text(max_size=300))
def test_a_destination_is_one_file_in_dir_or_none(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outer = tmp_path_factory.mktemp("outer")
    directory = outer / "into"
    directory.mkdir()
    allowed = {}
    try:
        with client_module.destination(str(directory), name, "http://h/") as target:
            target.begin("", 1, is_hashed=False)
            target.write(memoryview(b"x"))
            target.finish(client_module.Answer("HTTP/1.1 200 OK\r\nContent-Length: 1"))
        allowed = {f"into/{name.rpartition('/')[2]}": b"x"}
    except client_module.Failure as failure:
        assert failure.code in (2, 23)  # noqa: PT017
    assert tree(outer) == allowed


@pytest.mark.parametrize("name", [*NOT_NAMES, "a\0b", "\0"])
def test_what_names_no_file_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(client_module.Failure) as caught:
        client_module.destination(str(directory), name, "http://h/")
    assert caught.value.code == 2
    assert str(caught.value).isprintable()
    assert tree(directory) == {}


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        *((f"a{sign}b", "characters") for sign in '\\:*?"<>|\x01\n\x1f'),
        ("..\\evil", "characters"),
        ("C:evil", "characters"),
        ("file:stream", "characters"),
        *((name, "space or a dot") for name in ("a.", "a ", "nul.", "...")),
        *((name, "device") for name in ("CON", "con", "Prn", "aux.txt", "NUL .tar.gz", "conin$", "CONOUT$")),
        *((name, "device") for name in ("com1", "COM9.txt", "lpt0", "LPT³", "com¹.x")),
        *(
            (name, "")
            for name in ("a", ".a", "a b", "a.b", "console", "com", "com10", "lpt", "aux1", "nul-a", "xcon")
        ),
        *((name, "") for name in ("CONIN", "com1a.txt", "ü", "'", "a;b", "100%")),
    ],
)
def test_what_windows_would_read_otherwise_is_no_name_there(last: str, problem: str) -> None:
    said = client_module.windows_problem(last)
    assert problem in said
    assert bool(said) == bool(problem)


@pytest.mark.parametrize("name", ["..\\evil", "C:evil", "a/b\\c", "what?", "a/con", "sub/x.", ".."])
def test_on_windows_such_a_name_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        assert client_module.last_component("con/plain.txt") == "plain.txt"
        with pytest.raises(client_module.Failure) as caught:
            client_module.last_component(name)
    assert caught.value.code == 2
    assert str(caught.value).startswith(repr(name))


def test_elsewhere_such_a_name_is_one_like_any_other() -> None:
    assert client_module.last_component("a/con:x.") == "con:x."


def test_a_planted_link_under_the_name_is_replaced_and_not_followed(
    server: Program, tmp_path: Path, directory: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (directory / "list").symlink_to(outside)
    assert gclient(*address(server), "list", str(directory)).returncode == 0
    assert outside.read_bytes() == b"untouched"
    assert not (directory / "list").is_symlink()
    assert tree(directory) == {"list": b"list"}


def plant(path: Path, kind: str, outside: Path) -> None:
    """Something that leads elsewhere, or to where a writer waits for ever."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(outside)
    elif kind == "link":
        path.symlink_to(outside)
    else:
        path.symlink_to(outside.with_name("absent"))


KINDS = ["link", "dangling link", "hard link", "fifo"]


@pytest.mark.parametrize("content", [b"untouched", b""])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_under_the_name_of_a_part_exits_23_and_stays(
    server: Program, tmp_path: Path, directory: Path, kind: str, content: bytes
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(content)
    plant(directory / "list.part", kind, outside)
    arguments = command(*address(server), "list", str(directory))
    result = subprocess.run(arguments, capture_output=True, timeout=GIVE_UP_S, check=False)
    assert (result.returncode, result.stderr.count(b"\n")) == (23, 1)
    assert result.stderr.startswith(b"gclient: cannot write ")
    assert os.listdir(directory) == ["list.part"]
    assert sorted(os.listdir(tmp_path)) == ["outer", "outside"]
    assert outside.read_bytes() == content


@pytest.mark.parametrize("part", [b"", b"part"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_under_the_name_of_its_state_is_neither_written_through_nor_waited_for(
    server: Program, tmp_path: Path, directory: Path, kind: str, part: bytes
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    plant(directory / "list.part.json", kind, outside)
    (directory / "list.part").write_bytes(part)
    arguments = command(*address(server), "list", str(directory))
    result = subprocess.run(arguments, capture_output=True, timeout=GIVE_UP_S, check=False)
    assert result.returncode in (0, 23), result.stderr
    assert sorted(os.listdir(tmp_path)) == ["outer", "outside"]
    assert outside.read_bytes() == b"untouched"
    if result.returncode == 0:
        assert tree(directory) == {"list": b"list"}
    else:
        assert result.stderr.startswith(b"gclient: cannot write ")
        assert not (directory / "list").exists()


def test_what_is_no_file_under_the_name_exits_23_before_anything_is_asked_and_stays(directory: Path) -> None:
    os.mkfifo(directory / "x")
    for path in (directory / "x", Path("/dev/null")):
        said = error_line("no-such-host.invalid", "80", path.name, str(path.parent))
        assert said == (23, f"cannot write {path}: it is there, and no file")
        assert not path.is_file()
    assert os.listdir(directory) == ["x"]


def test_what_becomes_no_file_meanwhile_exits_23_and_stays(directory: Path) -> None:
    script = held(FIRST_PIECE, b"end")
    with Misbehaving(script) as fake, OnATerminal(*fake.address, "x", str(directory)) as client:
        client.wait_for(b"[")
        os.mkfifo(directory / "x")
        fake.gate.set()
        assert client.finish() == 23
    assert (directory / "x").is_fifo()


@pytest.mark.parametrize(("name", "other"), [("x.part", "x.part.json"), ("x.part.json", "x.part")])
def test_a_name_that_is_anothers_part_exits_23_as_long_as_the_other_is_there(
    directory: Path, name: str, other: str
) -> None:
    (directory / other).write_bytes(b"other")
    said = error_line("no-such-host.invalid", "80", name, str(directory))
    assert said == (23, f"cannot write {directory / name}: it belongs to another download")
    assert tree(directory) == {other: b"other"}
    (directory / other).unlink()
    with Misbehaving(says(head(4) + b"file")) as fake:
        assert gclient(*fake.address, name, str(directory)).returncode == 0
    assert tree(directory) == {name: b"file"}


@pytest.mark.parametrize("content", [b"somebody's", b"[]", b"{}", b'{"url": "", "etag": ""}'])
def test_a_file_of_somebody_elses_that_is_called_like_a_state_exits_23_and_stays(
    server: Program, directory: Path, content: bytes
) -> None:
    path = directory / "list.part.json"
    path.write_bytes(content)
    said = error_line(*address(server), "list", str(directory))
    assert said == (23, f"cannot write {path}: it is there, and not gclient's")
    assert tree(directory) == {path.name: content}


@pytest.mark.parametrize("content", [b"", b'{"url": "", "etag": "", "size": 0}'])
def test_a_state_without_its_part_is_in_nobodys_way(server: Program, directory: Path, content: bytes) -> None:
    (directory / "list.part.json").write_bytes(content)
    assert gclient(*address(server), "list", str(directory)).returncode == 0
    assert tree(directory) == {"list": b"list"}


# What it is made of


def test_it_needs_nothing_but_the_standard_library() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import gclient; print(*sys.modules)"
    arguments = [sys.executable, "-I", "-S", "-c", program, str(PROJECT)]
    loaded = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    roots = {name.partition(".")[0] for name in loaded}
    assert "gclient" in roots
    assert roots - {"gclient", "__main__"} <= sys.stdlib_module_names


def test_the_one_file_alone_is_the_client(server: Program, tmp_path: Path) -> None:
    alone = tmp_path / "gclient.py"
    alone.write_bytes((PROJECT / "gclient.py").read_bytes())
    # -I and -S: no current folder, no installed packages.
    arguments = [sys.executable, "-I", "-S", str(alone), *address(server)]
    for words, output in ((["health"], b"ok\n"), (["sub/inner", "-"], b"sub/inner")):
        result = subprocess.run([*arguments, *words], capture_output=True, timeout=60, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (0, output, b"")


SLOW_TO_LOAD = {
    "asyncio", "bz2", "concurrent", "dataclasses", "datetime", "email", "encodings.idna", "fcntl", "fnmatch",
    "hashlib", "http", "inspect", "json", "logging", "lzma", "pathlib", "random", "shutil", "ssl", "subprocess",
    "tempfile", "threading", "typing", "unicodedata", "urllib", "zlib",
}  # fmt: skip


def slow_modules(*arguments: str) -> set[str]:
    """Which of those a call of gclient.py loads, where all is well."""
    program = [sys.executable, "-I", "-S", "-X", "importtime", *command(*arguments)[1:]]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    loaded = set(re.findall(r"^import time: .*\| +(\S+)$", result.stderr, re.MULTILINE))
    assert {"argparse", "socket"} <= loaded
    return SLOW_TO_LOAD & loaded


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_call_loads_only_what_it_needs(server: Program, host: str) -> None:
    there = (host, str(server.port))
    assert slow_modules(*there, "health") == set()
    assert slow_modules(*there, "list") == set()
    assert slow_modules(*there, "list", "--json") == {"json"}
    assert slow_modules(*there, "stats") == {"json"}


def test_a_file_without_a_digest_to_standard_output_loads_nothing_slow() -> None:
    with Misbehaving(says(head(1) + b"x")) as fake:
        assert slow_modules(*fake.address, "x", "-") == set()
