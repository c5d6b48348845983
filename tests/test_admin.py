"""Who may see statistics, metrics and dashboard: `--admin`, strangers and neighbours, tokens as a browser brings
them. And what the dashboard's page is allowed to do, once somebody has it."""

import base64
import hashlib
import http.client
import json
import re
import socket
import subprocess
import sys
from contextlib import closing
from html.parser import HTMLParser
from ipaddress import ip_address
from pathlib import Path

import pytest

from fileserver import options
from fileserver.replies import Reply
from fileserver.tokens import Admin, Tokens, is_loopback
from fileserver.wire import OneLine, Request, RequestReader
from tests.exchange import LAST, split
from tests.house import House, connect, receive_all
from tests.program import PROJECT, Program, read_all

CLOSED = ["/-/", "/-/stats", "/-/metrics", "/-/evictions", "/-/events", "/-/snapshot"]
"""What is not for strangers."""
OPEN = ["/-/cache", "/-/cache?format=json", "/-/health", "/-/openapi.json", "/", "/a"]
"""What is for everybody."""

STRANGERS = [
    "192.0.2.1",
    "10.0.0.1",
    "0.0.0.0",
    "128.0.0.1",
    "::",
    "::2",
    "fe80::1%eth0",
    "2001:db8::1",
    "::ffff:192.0.2.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "-",
    "",
    "garbage",
    "127.0.0.1 ",
    "127.1",
    "2130706433",
    "example.org",
    "127.0.0.1.example.org",
    "localhost.example.org",
]
NEIGHBOURS = ["127.0.0.1", "127.9.9.9", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f09:909"]

TOKEN = "mF_9.B5f-4.1JqM"
NO_TOKEN = b"a valid token is needed\n"
NOT_FOR_STRANGERS = b"statistics are not for strangers (--admin)\n"


def ask(house: House, path: str, address: str, *lines: bytes, method: str = "GET") -> Reply:
    """The site's answer to who asks from `address`; what comes with it is closed."""
    reader = RequestReader()
    reader.feed(b"\r\n".join((f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", *lines, b"", b"")))
    request = reader.next()
    assert isinstance(request, Request)
    reply = house.site.answer(request, address.encode())
    reader.close()
    for held in (reply.body, reply.stream):
        if held is not None:
            held.close()
    return reply


def house_of_loopback(folder: Path) -> House:
    house = House(folder, admin="loopback")
    house.write("a", b"content")
    return house


# The option.


def words(part: list[str] | str) -> str:
    """Arguments as they are typed."""
    return part if isinstance(part, str) else " ".join(part) or "none"


@pytest.mark.parametrize(
    ("arguments", "admin"),
    [
        ([], "open"),
        (["--host", "127.0.0.1"], "open"),
        (["--host", "127.3.2.1"], "open"),
        (["--host", "localhost"], "open"),
        (["--host", "::1"], "open"),
        (["--host", "0.0.0.0"], "loopback"),
        (["--host", "::"], "loopback"),
        (["--host", "192.0.2.1"], "loopback"),
        (["--host", "example.org"], "loopback"),
        (["--token-file", "t"], "token"),
        (["--host", "0.0.0.0", "--token-file", "t"], "token"),
        (["--admin", "open", "--host", "0.0.0.0"], "open"),
        (["--admin", "open", "--token-file", "t"], "open"),
        (["--admin", "loopback"], "loopback"),
        (["--admin", "loopback", "--token-file", "t"], "loopback"),
        (["--admin", "token", "--token-file", "t"], "token"),
    ],
    ids=words,
)
def test_who_may_see_the_statistics_depends_on_who_can_ask(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], admin: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["gserver", "0", ".", *arguments])
    assert options.parse().admin == admin


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--admin", "token"], "--admin token needs --token-file"),
        (["--admin", "everybody"], "argument --admin: invalid choice: 'everybody'"),
        (["--admin"], "argument --admin: expected one argument"),
    ],
    ids=words,
)
def test_what_nobody_could_be_is_a_usage_error(folder: Path, arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROJECT / "gserver.py"), "0", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"gserver: {says}")


# Strangers and neighbours.


@pytest.mark.parametrize("address", STRANGERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_stranger_sees_no_statistics(folder: Path, address: str, method: str) -> None:
    assert not is_loopback(address)
    with house_of_loopback(folder) as house:
        for path in [*CLOSED, *(f"{path}?format=json" for path in CLOSED)]:
            reply = ask(house, path, address, b"Accept: application/json", method=method)
            assert (reply.status, reply.content, reply.stream) == (403, NOT_FOR_STRANGERS, None)
        assert house.site.about.stats()["viewers"] == 0


@pytest.mark.parametrize("address", NEIGHBOURS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_asks_on_this_machine_is_no_stranger(folder: Path, address: str, method: str) -> None:
    with house_of_loopback(folder) as house:
        for path in [*CLOSED, *OPEN]:
            assert ask(house, path, address, method=method).status == 200


@pytest.mark.parametrize("address", [*STRANGERS, *NEIGHBOURS])
def test_without_the_restriction_nobody_is_a_stranger(folder: Path, address: str) -> None:
    with House(folder) as house:
        for path in CLOSED:
            assert ask(house, path, address).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_list_health_and_files_are_for_strangers_too(folder: Path, method: str) -> None:
    with house_of_loopback(folder) as house:
        for path in OPEN:
            assert ask(house, path, "192.0.2.1", method=method).status == 200


def test_a_strangers_list_in_json_has_all_entries_and_no_counters(folder: Path) -> None:
    with house_of_loopback(folder) as house:
        house.fetch("a")
        for path, *lines in (["/-/cache?format=json"], ["/-/cache", b"Accept: application/json"]):
            stranger = json.loads(ask(house, path, "192.0.2.1", *lines).content)  # type: ignore[arg-type]
            neighbour = json.loads(ask(house, path, "127.0.0.1", *lines).content)  # type: ignore[arg-type]
            assert stranger.keys() == {"entries"}
            assert neighbour.keys() == {"stats", "entries"}
            assert [entry["name"] for entry in stranger["entries"]] == ["a"]
            assert stranger["entries"] == neighbour["entries"]


def test_list_is_the_same_text_for_all(folder: Path) -> None:
    with house_of_loopback(folder) as house:
        house.fetch("a")
        for address in ("192.0.2.1", "127.0.0.1"):
            assert ask(house, "/-/cache", address).content == b"a\n"
        assert house.site.answer_line(OneLine(None)).content == b"a\n"


@pytest.mark.parametrize(
    "path",
    ["/%2d/stats", "/-%2fstats", "/-%2Fstats", "/-/%73tats", "/-/stats?", "//-/stats", "/./-/stats", "/-/./stats",
     "/-/stats/", "/-//stats", "/-/cache/../stats", "/-/STATS", "/-/stats#x", "http://x/-/stats"],
)  # fmt: skip
def test_no_other_spelling_leads_a_stranger_to_them(folder: Path, path: str) -> None:
    with house_of_loopback(folder) as house:
        reply = ask(house, path, "192.0.2.1")
        assert reply.status in (400, 403, 404)
        assert b"hits" not in reply.content


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1"])
def test_what_is_no_page_is_404_for_all(folder: Path, address: str) -> None:
    with house_of_loopback(folder) as house:
        for path in ("/-/nothing", "/-/stats/", "/-/dashboard", "/-/page.js", "/-/x/y", "/-/index.html", "/-x/"):
            assert ask(house, path, address).status == 404
        for path in CLOSED:
            assert ask(house, path, address, method="POST").status == 405


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1"])
def test_the_dashboard_without_its_slash_is_a_redirect(folder: Path, address: str) -> None:
    with house_of_loopback(folder) as house:
        for method in ("GET", "HEAD"):
            reply = ask(house, "/-", address, method=method)
            assert reply.status == 301
            assert b"\r\nLocation: /-/\r\n" in reply.fields


def test_it_is_the_address_of_the_connection_that_counts(folder: Path) -> None:
    """Whatever a client says of itself, and in the one-line protocol as well."""
    forged = (
        b"GET /-/stats HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
    )
    for address, status in ((b"192.0.2.1", 403), (b"127.0.0.1", 200)):
        with house_of_loopback(folder) as house, house.serving(address=address) as port:
            with connect(port, forged + b"X-Real-IP: ::1\r\nConnection: close\r\n\r\n") as client:
                assert split(receive_all(client))[0] == status
            with connect(port, LAST % b"a") as client:
                assert split(receive_all(client))[::2] == (200, b"content")
            with connect(port, b"LIST\n") as client:
                assert receive_all(client) == b"a\n"


def first_bytes(server: Program, path: str, *lines: bytes) -> bytes:
    """The beginning of an answer that may never end."""
    with server.connect() as client:
        client.sendall(b"\r\n".join((f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *lines, b"", b"")))
        return client.recv(1 << 16)


def own_address() -> str:
    """An address of this machine that is not loopback. No packet is sent; skips without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect(("192.0.2.1", 9))
        except OSError as problem:
            pytest.skip(f"this machine has loopback addresses only: {problem.strerror}")
        found = str(trial.getsockname()[0])
    if ip_address(found).is_loopback or ip_address(found).is_unspecified:
        pytest.skip("this machine has loopback addresses only")
    return found


@pytest.mark.parametrize(
    ("arguments", "is_closed"),
    [((), True), (("--admin", "loopback"), True), (("--admin", "open"), False)],
    ids=str,
)
def test_a_real_server_tells_strangers_from_neighbours(
    folder: Path, arguments: tuple[str, ...], is_closed: bool
) -> None:
    (folder / "a").write_bytes(b"content")
    stranger = own_address()
    with Program(folder, "--host", "0.0.0.0", *arguments) as server:
        server.host = stranger
        for path in CLOSED:
            for method in ("GET", "HEAD"):
                if path != "/-/events":
                    assert server.get(path, method)[0] == (403 if is_closed else 200)
        assert [server.get(path)[0] for path in OPEN] == [200] * len(OPEN)
        assert ("stats" in json.loads(server.get("/-/cache?format=json")[2])) is not is_closed
        assert server.names() == ["a"]
        assert server.raw(b"LIST\n") == b"a\n"
        assert first_bytes(server, "/-/events").startswith(b"HTTP/1.1 403 " if is_closed else b"HTTP/1.1 200 ")
        server.host = "127.0.0.1"
        assert server.get("/-/stats")[0] == 200
        assert "stats" in json.loads(server.get("/-/cache?format=json")[2])


def test_a_server_that_only_this_machine_can_reach_can_be_closed_to_nobody_there(folder: Path) -> None:
    with Program(folder, "--admin", "loopback") as server:
        assert [server.get(path)[0] for path in CLOSED if path != "/-/events"] == [200] * (len(CLOSED) - 1)


def test_a_neighbour_who_comes_by_ipv4_to_a_server_on_ipv6_is_one(folder: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::", 0))
            is_dual = not trial.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    except OSError as problem:
        pytest.skip(f"this machine has no IPv6: {problem.strerror}")
    with Program(folder, "--host", "::") as server:
        assert server.get("/-/stats")[0] == 200
        if is_dual:
            server.host = "127.0.0.1"
            assert server.get("/-/stats")[0] == 200


# Tokens.


def basic(user: bytes, password: str = TOKEN) -> bytes:
    return b"Basic " + base64.b64encode(user + b":" + password.encode())


PERMITTED = [f"Bearer {TOKEN}".encode(), basic(b"me"), basic(b""), basic("j\xf6rg".encode()), basic(b"\xff")]
REFUSED = [
    None,
    b"Bearer wrong",
    basic(b"me", "wrong"),
    basic(b"me", f"x:{TOKEN}"),
    basic(b"me", f"{TOKEN}:"),
    b"Basic " + base64.b64encode(TOKEN.encode()),
    b"Basic !!!",
    basic(b"me")[:-1],
    basic(b"me") + b"A",
]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.mark.parametrize("authorization", PERMITTED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_token_opens_every_page_also_as_a_password(folder: Path, authorization: bytes, method: str) -> None:
    with House(folder, tokens=Tokens([TOKEN.encode()])) as house:
        house.write("a", b"content")
        for path in [*CLOSED, *OPEN]:
            reply = ask(house, path, "192.0.2.1", b"Authorization: " + authorization, method=method)
            assert reply.status == 200


@pytest.mark.parametrize("authorization", REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_without_a_token_every_page_is_closed_also_on_this_machine(
    folder: Path, authorization: bytes | None, method: str
) -> None:
    lines = [] if authorization is None else [b"Authorization: " + authorization]
    with House(folder, tokens=Tokens([TOKEN.encode()])) as house:
        house.write("a", b"content")
        for path in [*CLOSED, *OPEN, "/-", "/-/nothing"]:
            reply = ask(house, path, "127.0.0.1", *lines, method=method)
            expected = (200, b"ok\n") if path == "/-/health" else (401, NO_TOKEN)
            assert (reply.status, reply.content) == expected
            challenges = [reply.fields.count(scheme) for scheme in (b'Bearer realm="', b'Basic realm="')]
            assert challenges == ([1, 1] if reply.status == 401 else [0, 0])
        assert house.site.about.stats()["viewers"] == 0


def test_a_stranger_with_a_token_is_one_where_only_this_machine_may_look(folder: Path) -> None:
    with House(folder, tokens=Tokens([TOKEN.encode()]), admin="loopback") as house:
        for path in CLOSED:
            assert ask(house, path, "192.0.2.1", b"Authorization: " + PERMITTED[0]).status == 403
            assert ask(house, path, "127.0.0.1", b"Authorization: " + PERMITTED[1]).status == 200
            assert ask(house, path, "127.0.0.1").status == 200, "as Prometheus on this machine asks"
        assert ask(house, "/-/cache", "127.0.0.1").status == ask(house, "/a", "127.0.0.1").status == 401


def test_open_statistics_need_no_token_and_all_else_does(folder: Path) -> None:
    with House(folder, tokens=Tokens([TOKEN.encode()]), admin="open") as house:
        for path in CLOSED:
            assert ask(house, path, "192.0.2.1").status == 200
        for path in ("/-/cache", "/-/%73tats", "/a"):
            assert ask(house, path, "192.0.2.1").status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost.:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhostevil", 403),
    ],
)
def test_a_page_whose_name_leads_to_this_machine_is_a_stranger(folder: Path, host: str, status: int) -> None:
    """DNS rebinding: a browser on this machine asks for another's page, and we are what its name leads to."""
    with House(folder, admin="loopback") as house:
        for path in CLOSED:
            request = Request(b"GET", path.encode(), {b"host": host.encode()}, 1, True)
            assert house.site.answer(request, b"127.0.0.1").status == status


@pytest.mark.parametrize(("admin", "is_shared"), [("open", True), ("loopback", False)])
def test_what_is_kept_from_strangers_is_kept_from_their_web_pages(
    folder: Path, admin: Admin, is_shared: bool
) -> None:
    with House(folder, cors="*", admin=admin) as house:
        house.write("a", b"a")
        for path in ("/-/stats", "/-/cache?format=json", "/-/%73tats"):
            assert (b"Access-Control-Allow-Origin" in ask(house, path, "127.0.0.1").fields) == is_shared
        for path, address in (("/a", "127.0.0.1"), ("/-/cache?format=json", "192.0.2.1")):
            assert b"Access-Control-Allow-Origin: *" in ask(house, path, address).fields


def test_a_real_server_takes_a_token_as_a_password_on_every_page(folder: Path, token_file: Path) -> None:
    with Program(folder, "--token-file", str(token_file)) as server:
        for path in CLOSED:
            for authorization in PERMITTED:
                assert first_bytes(server, path, b"Authorization: " + authorization).startswith(b"HTTP/1.1 200 ")
            for authorization in filter(None, REFUSED):
                assert first_bytes(server, path, b"Authorization: " + authorization).startswith(b"HTTP/1.1 401 ")
            assert server.get(path)[::2] == (401, NO_TOKEN)
            assert server.get(path, "HEAD")[::2] == (401, b"")


# The dashboard's page, and who links to it.


class Document(HTMLParser):
    """What a page holds and where it leads."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        self._inside = tag
        if tag in self.inline:
            self.inline[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, text: str) -> None:
        if self._inside in self.inline:
            self.inline[self._inside][-1] += text


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """Its header fields and its text."""
    with Program(tmp_path_factory.mktemp("served")) as server:
        status, fields, content = server.get("/-/")
        again = server.get("/-/", "HEAD")
    assert status == 200
    assert (again[0], again[2]) == (200, b"")
    for name in ("content-length", "content-type", "content-security-policy", "cache-control"):
        assert again[1][name] == fields[name]
    return fields, content.decode()


def test_the_page_is_one_document_of_ours(dashboard: tuple[dict[str, str], str]) -> None:
    fields, html = dashboard
    assert fields["content-type"] == "text/html; charset=utf-8"
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["cache-control"] == "no-store"
    assert int(fields["content-length"]) == len(html.encode())
    page = Document(html)
    assert html.lower().startswith("<!doctype html>")
    assert [page.tags.count(tag) for tag in ("html", "style", "script", "iframe", "object", "base")] == [
        1, 1, 1, 0, 0, 0,
    ]  # fmt: skip
    assert html.count("</html>") == 1
    assert html.endswith("</html>\n")
    assert all(map(str.strip, page.inline["style"] + page.inline["script"]))


def directives(policy: str) -> dict[str, list[str]]:
    """A Content-Security-Policy taken apart."""
    parts = (part.split() for part in policy.split(";"))
    return {name: sources for name, *sources in parts}


def test_the_policy_lets_run_exactly_what_is_on_the_page(dashboard: tuple[dict[str, str], str]) -> None:
    fields, html = dashboard
    page = Document(html)
    hashes = {
        tag: [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
        for tag, texts in page.inline.items()
    }
    assert directives(fields["content-security-policy"]) == {
        "default-src": ["'none'"],
        "style-src": hashes["style"],
        "script-src": hashes["script"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
    # These the policy would refuse.
    assert [name for name, _ in page.attributes if name == "style" or name.startswith("on")] == []


def test_nothing_on_the_page_comes_from_elsewhere(dashboard: tuple[dict[str, str], str]) -> None:
    page = Document(dashboard[1])
    for name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"/(?!/)|#|data:(?:,$|image/)", value), (name, value)
    everything = "".join(page.inline["style"] + page.inline["script"] + [value for _, value in page.attributes])
    assert set(re.findall(r"\w+://[^\s\"'`<>)]*", everything)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bimport\b|(?<![:\w])//\w+\.\w", "".join(page.inline["style"]))
    assert set(re.findall(r"(?:fetch|EventSource)\(([^,)]*)", page.inline["script"][0])) == {
        '"/-/snapshot"',
        '"/-/events"',
    }


def test_every_link_of_the_page_leads_somewhere(folder: Path, dashboard: tuple[dict[str, str], str]) -> None:
    links = {value for name, value in Document(dashboard[1]).attributes if name == "href" and value[0] == "/"}
    assert {"/-/cache", "/-/stats", "/-/metrics", "/-/evictions", "/-/openapi.json"} <= links
    with House(folder) as house:
        for link in links:
            assert ask(house, link, "127.0.0.1").status == 200


def test_every_listing_links_to_the_dashboard(folder: Path) -> None:
    with house_of_loopback(folder) as house:
        house.write("sub/b", b"")
        for path in ("/", "/sub/"):
            for address in ("192.0.2.1", "127.0.0.1"):
                assert b'<a href="/-/">Dashboard</a>' in ask(house, path, address).content


def test_the_page_may_be_asked_for_again_and_again_on_one_connection(folder: Path) -> None:
    """HEAD sends no body, or the next answer would begin in the middle of it."""
    with (
        Program(folder) as server,
        closing(http.client.HTTPConnection(server.host, server.port, timeout=30)) as one,
    ):
        for method in ("HEAD", "GET", "HEAD", "GET"):
            for path in ("/-/", "/-/metrics", "/-/openapi.json", "/-/snapshot"):
                one.request(method, path)
                response = one.getresponse()
                assert (response.status, bool(response.read())) == (200, method == "GET")
        with server.connect() as client:
            client.sendall(b"HEAD /-/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            status, fields, body = split(read_all(client))
    assert (status, fields[b"content-type"], body) == (200, b"text/event-stream", b"")
