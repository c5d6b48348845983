"""Who may ask: what a token is, which Authorization carries one, what stays open, new tokens on SIGHUP, and
gclient.py with --tls, --ca and --token-file."""

import base64
import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from fileserver.replies import Reply
from fileserver.tokens import FILE_MAX_BYTES, Tokens
from fileserver.wire import OneLine, Request, RequestReader
from tests.house import House
from tests.program import PROJECT, Program, gclient

TOKEN = b"mF_9.B5f-4.1JqM"
"""RFC 6750's own example."""


@pytest.mark.parametrize(
    ("authorization", "permitted"),
    [
        (b"Bearer mF_9.B5f-4.1JqM", True),
        (b"Bearer second+/~token==", True),
        # RFC 9110 section 11.1: the scheme's case does not matter, and 1*SP follow it.
        (b"bearer mF_9.B5f-4.1JqM", True),
        (b"BEARER mF_9.B5f-4.1JqM", True),
        (b"Bearer   mF_9.B5f-4.1JqM", True),
        (None, False),
        (b"", False),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"mF_9.B5f-4.1JqM", False),
        (b"BearermF_9.B5f-4.1JqM", False),
        (b"Bearer\tmF_9.B5f-4.1JqM", False),
        (b" Bearer mF_9.B5f-4.1JqM", False),
        (b"Bearer mF_9.B5f-4.1JqM ", False),
        (b"Bearer mF_9.B5f-4.1JqM\n", False),
        (b"Bearer mF_9.B5f-4.1JqM mF_9.B5f-4.1JqM", False),
        # The token's case does.
        (b"Bearer MF_9.b5F-4.1jQm", False),
        (b"Bearer mF_9.B5f-4.1Jq", False),
        (b"Bearer mF_9.B5f-4.1JqMM", False),
        (b"Bearer mF_9.B5f-4.1JqM=", False),
        (b"Bearer second+/~token=", False),
        (b"Bearer mF_9,B5f-4,1JqM", False),
        (b"Basic mF_9.B5f-4.1JqM", False),
        (b"XBearer mF_9.B5f-4.1JqM", False),
        # Repeated fields are joined (RFC 9110 section 5.3), and nobody is meant by that.
        (b"Bearer mF_9.B5f-4.1JqM, Bearer mF_9.B5f-4.1JqM", False),
        (b"Bearer wrong, Bearer mF_9.B5f-4.1JqM", False),
        (b"Bearer mF_9.B5f-4.1JqM,", False),
        ("Bearer mF_9.B5f-4.1JqM\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), False),
        (b"Bearer \xff\xfe", False),
        (b"Bearer mF_9.B5f-4.1JqM\x00", False),
    ],
)
def test_only_a_bearer_token_that_is_on_the_list_opens(authorization: bytes | None, permitted: bool) -> None:
    assert Tokens([TOKEN, b"second+/~token=="]).permit(authorization) is permitted


def basic(credentials: bytes) -> bytes:
    """As RFC 7617 section 2 has it."""
    return b"Basic " + base64.b64encode(credentials)


@pytest.mark.parametrize(
    ("authorization", "permitted"),
    [
        (basic(b"me:" + TOKEN), True),
        (basic(b"me:second+/~token=="), True),
        # The user does not matter, and may be in any charset.
        (basic(b":" + TOKEN), True),
        (basic("j\N{LATIN SMALL LETTER O WITH DIAERESIS}rg:".encode() + TOKEN), True),
        (basic(b"j\xf6rg:" + TOKEN), True),
        (basic(b"\x00 \n:" + TOKEN), True),
        (basic(b"x" * 4000 + b":" + TOKEN), True),
        (basic(b"me:" + TOKEN).replace(b"Basic", b"basic"), True),
        (basic(b"me:" + TOKEN).replace(b"Basic ", b"BASIC   "), True),
        # A user has no colon, so all that follows the first is the password.
        (basic(b"me:x:" + TOKEN), False),
        (basic(b"me::" + TOKEN), False),
        (basic(b"me:" + TOKEN + b":"), False),
        (basic(b"me:" + TOKEN + b":x"), False),
        (basic(b"me: " + TOKEN), False),
        (basic(b"me:" + TOKEN + b"\n"), False),
        (basic(b"me:" + TOKEN + b"\x00"), False),
        (basic(b"me:" + TOKEN.lower()), False),
        (basic(b"me:" + TOKEN[:-1]), False),
        (basic(b"me:j\xf6rg"), False),
        (basic(b"me:"), False),
        (basic(b":"), False),
        (basic(b""), False),
        # No colon, or the token as the user.
        (basic(TOKEN), False),
        (basic(TOKEN + b":"), False),
        (basic(TOKEN + b":me"), False),
        # What is not base64.
        (b"Basic", False),
        (b"Basic ", False),
        (b"Basic =", False),
        (b"Basic ====", False),
        (b"Basic A", False),
        (b"Basic me:" + TOKEN, False),
        (basic(b"me:" + TOKEN)[:-1], False),
        (basic(b"me:" + TOKEN) + b"A", False),
        (basic(b"me:" + TOKEN) + b"!", False),
        (basic(b"me:" + TOKEN) + b" ", False),
        (basic(b"me:" + TOKEN) + b"\n", False),
        (basic(b"me:" + TOKEN).replace(b"Basic ", b"Basic"), False),
        (basic(b"me:" + TOKEN).replace(b"Basic ", b"Basic\t"), False),
        (basic(b"me:" + TOKEN).replace(b"Basic", b"XBasic"), False),
        (basic(b"me:" + TOKEN).replace(b"Basic", b"Bearer"), False),
        (b" " + basic(b"me:" + TOKEN), False),
        (basic(b"me:wrong") + b", " + basic(b"me:" + TOKEN), False),
        (basic(b"me:" + TOKEN) + b", Bearer " + TOKEN, False),
        (b"Basic \xff\xfe", False),
    ],
)
def test_a_token_also_opens_as_the_password_of_any_user(authorization: bytes, permitted: bool) -> None:
    assert Tokens([TOKEN, b"second+/~token=="]).permit(authorization) is permitted


@pytest.mark.parametrize(
    "tokens", [[], [b""], [TOKEN, b""], [b"with space"], [TOKEN, b"ne\xc3\xa9"], [b"a\n"], [b"=a"]]
)
def test_what_could_not_be_sent_is_no_token(tokens: list[bytes]) -> None:
    with pytest.raises(ValueError, match="a token is letters, digits"):
        Tokens(tokens)


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b"one", [b"one"]),
        (b"one\n", [b"one"]),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"\n\n  \none\n\t\n\r\ntwo", [b"one", b"two"]),
        (b"  one \t\n", [b"one"]),
        (b"a" * FILE_MAX_BYTES, [b"a" * FILE_MAX_BYTES]),
    ],
)
def test_a_token_file_has_one_token_a_line(tmp_path: Path, content: bytes, tokens: list[bytes]) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    loaded = Tokens.load(str(path))
    assert [loaded.permit(b"Bearer " + token) for token in tokens] == [True] * len(tokens)
    assert not loaded.permit(b"Bearer other")


BAD_FILES = [
    (b"", "a token is letters"),
    (b"\n \r\n", "a token is letters"),
    (b"two words\n", "a token is letters"),
    (b"one\n# a comment\n", "a token is letters"),
    ("t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken\n".encode(), "a token is letters"),
    (b"one\x00\n", "a token is letters"),
    (b"a" * (FILE_MAX_BYTES + 1), "more than 65536 bytes of tokens"),
    (b"\n" * (FILE_MAX_BYTES + 1), "more than 65536 bytes of tokens"),
]


@pytest.mark.parametrize(("content", "says"), BAD_FILES)
def test_a_bad_token_file_is_a_value_error(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        Tokens.load(str(path))


def test_a_token_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tokens.load(str(tmp_path / "missing"))


# What is open and what is not.


def answer(house: House, first_line: bytes, *lines: bytes) -> tuple[Reply, dict[bytes, bytes]]:
    """The site's answer to a request as it comes off the wire, and its fields: lower-case names, values a line."""
    reader = RequestReader()
    reader.feed(b"\r\n".join((first_line + b" HTTP/1.1", b"Host: x", *lines, b"", b"")))
    request = reader.next()
    assert isinstance(request, Request)
    reply = house.site.answer(request)
    reader.close()
    if reply.body is not None:
        reply.body.close()
    fields: dict[bytes, bytes] = {}
    for line in reply.fields.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        before = fields.get(name.lower())
        fields[name.lower()] = value if before is None else before + b"\n" + value
    return reply, fields


def makes_browsers_ask(challenges: bytes) -> bool:
    """Whether somewhere a line begins with Basic: Chromium reads one challenge in a line and skips the others."""
    return challenges.startswith(b"Basic ") or b"\nBasic " in challenges


def closed_house(folder: Path) -> House:
    house = House(folder, tokens=Tokens([TOKEN]))
    house.write("a", b"content")
    house.write("sub/b", b"")
    return house


CLOSED = [
    b"GET /a",
    b"HEAD /a",
    b"GET /",
    b"GET /sub",
    b"GET /sub/",
    b"GET /missing",
    b"GET /-/cache",
    b"GET /-/cache?format=json",
    b"GET /-/stats",
    b"GET /-/nothing",
    b"GET /..%2f",
    b"GET /%ff",
    b"POST /a",
    b"PUT /a",
    b"DELETE /-/cache",
    # What is nearly health.
    b"GET /-/health/",
    b"GET /-/healthy",
    b"GET //-/health",
    b"GET /x/-/health",
    b"GET /a?/-/health",
    b"GET /-/cache?x=/-/health",
]


@pytest.mark.parametrize("first_line", CLOSED)
@pytest.mark.parametrize("authorization", [None, b"Authorization: Bearer wrong", b"Authorization: Basic eDp5"])
def test_who_has_no_token_is_answered_401_before_anything_is_looked_at(
    folder: Path, first_line: bytes, authorization: bytes | None
) -> None:
    with closed_house(folder) as house:
        listed: list[str] = []
        house.root.before_list = listed.append
        reply, fields = answer(house, first_line, *([authorization] if authorization else []))
        assert reply.status == 401
        # RFC 9110 section 11.6.1, RFC 6750 section 3.
        assert b'Bearer realm="gserver"' in fields[b"www-authenticate"]
        assert b'Basic realm="gserver: the token as password", charset="UTF-8"' in fields[b"www-authenticate"]
        assert fields[b"cache-control"] == b"no-store"
        assert reply.content == b"a valid token is needed\n"
        assert house.root.opens == house.root.looks == listed == []
        stats = house.cache.stats()
        assert (stats.hits, stats.misses, house.site.traffic.file_answers) == (0, 0, 0)


def test_a_browser_understands_that_it_should_ask_for_a_password(folder: Path) -> None:
    with closed_house(folder) as house:
        assert makes_browsers_ask(answer(house, b"GET /-/")[1][b"www-authenticate"])


@pytest.mark.parametrize(
    ("first_line", "status"),
    [
        (b"GET /a", 200),
        (b"HEAD /a", 200),
        (b"GET /", 200),
        (b"GET /sub", 301),
        (b"GET /sub/", 200),
        (b"GET /missing", 404),
        (b"GET /-/cache", 200),
        (b"GET /-/stats", 200),
        (b"POST /a", 405),
    ],
)
def test_who_has_a_token_is_answered(folder: Path, first_line: bytes, status: int) -> None:
    with closed_house(folder) as house:
        password = base64.b64encode(b"me:" + TOKEN)
        for field in (
            b"Authorization: Bearer " + TOKEN,
            b"authorization:bearer  " + TOKEN,
            b"AUTHORIZATION:\tBEARER " + TOKEN,
            b"authorization:basic  " + password,
            b"AUTHORIZATION:\tBASIC " + password,
        ):
            reply, fields = answer(house, first_line, field)
            assert reply.status == status
            assert b"www-authenticate" not in fields


def test_two_authorization_fields_are_none(folder: Path) -> None:
    with closed_house(folder) as house:
        field = b"Authorization: Bearer " + TOKEN
        assert answer(house, b"GET /a", field)[0].status == 200
        assert answer(house, b"GET /a", field, field)[0].status == 401
        assert answer(house, b"GET /a", b"Authorization: Bearer wrong", field)[0].status == 401


@pytest.mark.parametrize(
    ("first_line", "status"),
    [
        (b"GET /-/health", 200),
        (b"HEAD /-/health", 200),
        (b"GET /-/health?probe=1", 200),
        (b"POST /-/health", 405),
        (b"OPTIONS /a", 204),
        (b"OPTIONS *", 204),
    ],
)
def test_health_and_options_are_open_to_everybody(folder: Path, first_line: bytes, status: int) -> None:
    with closed_house(folder) as house:
        assert answer(house, first_line)[0].status == status
        assert house.root.opens == house.root.looks == []


def test_web_pages_may_see_that_a_token_is_needed(folder: Path) -> None:
    with House(folder, tokens=Tokens([TOKEN]), cors="https://example.org") as house:
        reply, fields = answer(house, b"GET /a")
        assert (reply.status, fields[b"access-control-allow-origin"]) == (401, b"https://example.org")
        assert b"Authorization" in answer(house, b"OPTIONS /a")[1][b"access-control-allow-headers"]


@pytest.mark.parametrize("name", [b"a", b"missing", b"-/health", None])
def test_the_one_line_protocol_is_closed_where_tokens_are_asked_for(folder: Path, name: bytes | None) -> None:
    with closed_house(folder) as house:
        reply = house.site.answer_line(OneLine(name))
        assert reply.content == b"ERROR a token is needed, and this protocol has no place for one\n"
        assert reply.body is None
        assert house.root.opens == house.root.looks == []


def test_without_tokens_everybody_is_answered(folder: Path) -> None:
    with House(folder) as house:
        house.write("a", b"content")
        assert answer(house, b"GET /a")[0].status == 200
        assert answer(house, b"GET /a", b"Authorization: Bearer whatever")[0].status == 200


# As a whole program.


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_bytes(TOKEN + b"\n")
    return path


def bearer(token: bytes) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.decode()}"}


def test_a_server_with_tokens_answers_who_has_one(folder: Path, token_file: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--token-file", str(token_file)) as server:
        status, fields, content = server.get("/a")
        assert status == 401
        assert ' realm="gserver' in fields["www-authenticate"]
        assert content == b"a valid token is needed\n"
        assert server.get("/a", "HEAD")[::2] == (401, b"")
        assert server.get("/a", **bearer(TOKEN))[::2] == (200, b"content")
        password = {"Authorization": basic(b"me:" + TOKEN).decode()}
        assert server.get("/a", **password)[::2] == (200, b"content")
        assert server.get("/-/health")[::2] == (200, b"ok\n")
        for line in (b"GET a\n", b"LIST\n"):
            assert server.raw(line) == b"ERROR a token is needed, and this protocol has no place for one\n"


def test_a_refused_client_may_try_again_on_the_same_connection(folder: Path, token_file: Path) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--token-file", str(token_file)) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        statuses = []
        for headers in ({}, bearer(b"wrong"), bearer(TOKEN)):
            connection.request("POST" if not headers else "GET", "/a", body=b"x" * 100 or None, headers=headers)
            response = connection.getresponse()
            statuses.append(response.status)
            response.read()
        connection.close()
        assert statuses == [401, 401, 200]


def test_new_tokens_are_in_force_after_a_sighup_and_a_bad_file_changes_nothing(
    folder: Path, token_file: Path
) -> None:
    (folder / "a").write_bytes(b"content")
    with Program(folder, "--token-file", str(token_file)) as server:

        def reload(content: bytes | None) -> list[str]:
            if content is None:
                token_file.unlink()
            else:
                token_file.write_bytes(content)
            server.process.send_signal(signal.SIGHUP)
            assert server.process.stderr is not None
            line = server.process.stderr.readline()
            assert line, "the server ended"
            return [] if line.endswith("INFO reloaded\n") else [line]

        def permitted(*tokens: bytes) -> list[bool]:
            return [server.get("/a", **bearer(token))[0] == 200 for token in tokens]

        assert permitted(TOKEN, b"new") == [True, False]
        assert reload(TOKEN + b"\nnew\n") == []
        assert permitted(TOKEN, b"new") == [True, True]
        assert reload(b"new\n") == []
        assert permitted(TOKEN, b"new") == [False, True]
        for bad in (b"two words", b"", None):
            (line,) = reload(bad)
            assert f"ERROR cannot use the tokens in {token_file}: " in line
            assert line.endswith("; going on with what there was\n")
            assert permitted(TOKEN, b"new") == [False, True]
        assert server.get("/a")[0] == 401


@pytest.mark.parametrize(
    ("content", "says"),
    [(BAD_FILES[0]), BAD_FILES[2], BAD_FILES[6], (None, "No such file or directory")],
    ids=["empty", "two words", "too large", "missing"],
)
def test_a_token_file_that_cannot_be_used_is_one_line_and_exit_1(
    folder: Path, tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(folder), "--token-file", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"gserver: cannot use the tokens in {path}: {says}")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority's certificate, another authority's, and a server's certificate and key."""
    folder = tmp_path_factory.mktemp("papers")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


WARNING = "WARNING: in clear text (--tls-cert) and without a token (--token-file)"


REACHES = [
    ("127.0.0.1", None, None, "only this machine; --host 0.0.0.0 (or ::) for others"),
    ("127.0.0.2", None, None, "only this machine; --host 0.0.0.0 (or ::) for others"),
    ("::1", None, None, "only this machine; --host 0.0.0.0 (or ::) for others"),
    ("localhost", None, None, "only this machine; --host 0.0.0.0 (or ::) for others"),
    ("0.0.0.0", None, None, f"anyone who can reach it; {WARNING}"),
    ("::", None, None, f"anyone who can reach it; {WARNING}"),
    ("192.0.2.1", None, None, f"anyone who can reach it; {WARNING}"),
    ("example.org", None, None, f"anyone who can reach it; {WARNING}"),
    ("0.0.0.0", "cert", None, "anyone who can reach it"),
    ("0.0.0.0", None, "tokens", "anyone who can reach it"),
    ("0.0.0.0", "cert", "tokens", "anyone who can reach it"),
]


def test_the_start_line_warns_who_is_open_to_everybody() -> None:
    """In another process: importing gserver patches this one."""
    program = (
        "import argparse, json, sys, gserver\n"
        "for host, tls_cert, token_file, _ in json.load(sys.stdin):\n"
        "    asked = argparse.Namespace(host=host, tls_cert=tls_cert, token_file=token_file)\n"
        "    print(gserver.reach(asked))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(REACHES),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=PROJECT,
        check=True,
    )
    assert done.stdout.splitlines() == [said for *_, said in REACHES]


def test_the_warning_is_in_the_start_line(folder: Path, token_file: Path) -> None:
    with Program(folder, "--host", "127.0.0.1", changes="gserver.is_loopback = lambda host: False") as server:
        assert server.start_line.endswith(f"; anyone who can reach it; {WARNING})\n")
    options = ("--token-file", str(token_file))
    with Program(folder, *options, changes="gserver.is_loopback = lambda host: False") as server:
        assert server.start_line.endswith("; anyone who can reach it)\n")


# gclient.py.


def client(server: Program, *arguments: str) -> tuple[int, bytes, str]:
    done = gclient("127.0.0.1", str(server.port), *arguments)
    return done.returncode, done.stdout, done.stderr.decode()


def test_gclient_fetches_over_tls_with_a_token(
    folder: Path, papers: Path, token_file: Path, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(b"content" * 100_000)
    token_file.write_bytes(b"\r\n  \r\n" + TOKEN + b"\r\nsecond\r\n")
    options = ("--tls-cert", str(papers / "server.pem"), "--token-file", str(token_file))
    tls = ("--tls", "--ca", str(papers / "ca.pem"))
    token = ("--token-file", str(token_file))
    with Program(folder, *options) as server:
        assert client(server, "get", "a", "-d", str(tmp_path), *tls, *token) == (0, b"", "")
        assert (tmp_path / "a").read_bytes() == b"content" * 100_000
        assert client(server, "list", *tls, *token) == (0, b"a\n", "")
        assert client(server, "health", *tls) == (0, b"ok\n", "")
        assert client(server, "list", *tls) == (22, b"", "gclient: a valid token is needed\n")
        wrong = client(server, "list", "--tls", "--ca", str(papers / "other.pem"), *token)
        assert wrong[:2] == (60, b"")
        assert wrong[2].startswith("gclient: the server's certificate is not to be trusted: ")
        assert wrong[2].count("\n") == 1
        unknown = client(server, "list", "--tls", *token)
        assert unknown[:2] == (60, b"")
        code, out, said = client(server, "list", *token)
        assert (code, out, said.count("\n")) == (56, b"", 1)


def test_gclient_with_tls_and_a_server_without_is_exit_35(folder: Path, papers: Path) -> None:
    with Program(folder) as server:
        code, out, said = client(server, "list", "--tls", "--ca", str(papers / "ca.pem"))
        assert (code, out, said.count("\n")) == (35, b"", 1)
        assert said.startswith(f"gclient: no TLS with 127.0.0.1 port {server.port}: ")
        assert server.get("/-/health")[0] == 200


def test_gclient_says_why_a_token_file_cannot_be_used(folder: Path, tmp_path: Path, token_file: Path) -> None:
    with Program(folder, "--token-file", str(token_file)) as server:
        path = tmp_path / "mine"
        for content, says in [
            (None, "cannot read the token in {}: No such file or directory"),
            ("tök".encode(), "cannot read the token in {}: it is not ASCII"),
            (b"", "there is no token in {}"),
            (b"\n \n", "there is no token in {}"),
            (b"two words\n", "there is no token in {}"),
            (b"a\x7f\n", "there is no token in {}"),
        ]:
            if content is not None:
                path.write_bytes(content)
            done = client(server, "list", "--token-file", str(path))
            assert done == (2, b"", f"gclient: {says.format(path)}\n")
        assert client(server, "list", "--token-file", str(token_file)) == (0, b"", "")


def test_gclient_says_why_an_authority_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    assert gclient("127.0.0.1", "1", "list", "--ca", "x").returncode == 2
    (tmp_path / "garbage").write_bytes(b"garbage")
    with Program(folder) as server:
        done = client(server, "list", "--ca", "x")
        assert done == (2, b"", "gclient: --ca needs --tls (see --help)\n")
        for name in ("missing", "garbage"):
            code, out, said = client(server, "list", "--tls", "--ca", str(tmp_path / name))
            assert (code, out, said.count("\n")) == (2, b"", 1)
            assert said.startswith(f"gclient: cannot use the certificates in {tmp_path / name}: ")
