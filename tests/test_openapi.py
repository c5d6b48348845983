"""`/-/openapi.json`: it describes what is there, all of it and nothing else. Real answers against its schemas, and
schemathesis against a real server."""

import base64
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31

from fileserver.about import changes, pages
from fileserver.tokens import Tokens
from tests.exchange import split
from tests.house import House
from tests.program import PROJECT, Program, sparse
from tests.test_admin import TOKEN, ask, own_address

FILE = PROJECT / "fileserver" / "about" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]

Json = Any


def validator(schema: dict[str, Any], *, is_closed: bool = True) -> jsonschema_rs.Validator:
    """Of a schema of the document. Closed: an object has the properties that are written there, and no others."""
    components = {"schemas": {name: closed(each) for name, each in SCHEMAS.items()} if is_closed else SCHEMAS}
    whole = {**(closed(schema) if is_closed else schema), "components": components}
    return jsonschema_rs.Draft202012Validator(whole)


def closed(schema: Json) -> Json:
    """The schema with `additionalProperties: false` wherever properties are written."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(each) for key, each in schema.items()}
    return {"additionalProperties": False, **found} if isinstance(found.get("properties"), dict) else found


def schema_of(path: str, content_type: str = "application/json") -> dict[str, Any]:
    """What a page's 200 is said to be."""
    schema: dict[str, Any] = DOCUMENT["paths"][path]["get"]["responses"]["200"]["content"][content_type]["schema"]
    return schema


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """What is behind a reference to a schema."""
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def walk(document: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Everything in it, with where it is."""
    yield path, document
    inside = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, each in inside:
        yield from walk(each, f"{path}/{key}")


# The file.


def test_the_file_is_served_byte_for_byte(folder: Path) -> None:
    with Program(folder) as server:
        status, fields, content = server.get("/-/openapi.json")
        assert (status, fields["content-type"], content) == (200, "application/json", FILE.read_bytes())
        status, fields, nothing = server.get("/-/openapi.json", "HEAD")
        assert (status, fields["content-length"], nothing) == (200, str(len(content)), b"")


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    jsonschema_rs.Draft202012Validator(OPENAPI_31).validate(DOCUMENT)


def test_every_schema_in_it_is_a_json_schema_without_unknown_words() -> None:
    known = {
        "type", "properties", "required", "items", "prefixItems", "minItems", "maxItems", "enum", "const",
        "minimum", "maximum", "description", "$ref", "additionalProperties",
    }  # fmt: skip
    found = [(where, each) for where, each in walk(DOCUMENT) if is_schema(where)]
    assert len(found) > 100
    for where, schema in found:
        jsonschema_rs.meta.validate(schema)
        assert schema.keys() <= known, where
        assert schema.keys() & {"type", "$ref"}, where
        assert set(schema.get("required", ())) <= schema.get("properties", {}).keys(), where
        if "$ref" in schema:
            assert schema["$ref"].removeprefix("#/components/schemas/") in SCHEMAS
        if schema.get("type") == "array":
            assert "items" in schema or "prefixItems" in schema, where


def is_schema(where: str) -> bool:
    """Whether a schema is there."""
    inside = r"(/(properties/[^/]+|items|prefixItems/\d+|additionalProperties))*"
    return bool(re.fullmatch(rf"(/components/schemas/[^/]+|/.*/schema){inside}", where))


def test_everything_that_is_named_is_used_and_everything_used_is_named() -> None:
    references = {each["$ref"] for _, each in walk(DOCUMENT) if isinstance(each, dict) and "$ref" in each}
    components = DOCUMENT["components"]
    named = {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in components[kind]}
    assert references == named
    assert {name for security in DOCUMENT["security"] for name in security} == components["securitySchemes"].keys()


def test_every_number_is_explained() -> None:
    for where, each in walk(SCHEMAS):
        if re.fullmatch(r".*/properties/[^/]+", where) and each.get("type") in ("integer", "number"):
            assert (
                "description" in each or each.keys() & {"const", "enum", "maximum"} or where.endswith("/count")
            ), where


# The pages.


PAGES_THERE = {path: methods["get"] for path, methods in DOCUMENT["paths"].items() if "get" in methods}
CHANGES_THERE = {path: methods["post"] for path, methods in DOCUMENT["paths"].items() if "post" in methods}


def test_what_changes_something_is_described_and_answers_post_only(folder: Path) -> None:
    (folder / "a").write_bytes(b"x")
    assert CHANGES_THERE.keys() == {f"/{name}" for name in changes.CHANGES}
    assert {path for path, methods in DOCUMENT["paths"].items() if "post" in methods and len(methods) > 1} == set()
    with House(folder) as house:
        for path in CHANGES_THERE:
            for method in ("GET", "HEAD", "PUT"):
                assert ask(house, f"{path}?name=a", "127.0.0.1", method=method).status == 405
            assert ask(house, f"{path}?name=a", "127.0.0.1", method="POST").status == 200


def test_every_page_is_described_and_every_description_is_of_a_page(folder: Path) -> None:
    with House(folder) as house:
        routes = {f"/{name}" for name in house.site.about._pages}
        every = routes | {"/-/health", "/-/cache", "/-/openapi.json"}
        assert PAGES_THERE.keys() == every
        for path in every:
            assert ask(house, path, "127.0.0.1").status == 200
    # Nor is a name in that room that is none of these, but the one that redirects.
    source = Path(pages.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r'"(-(?:/[a-z.]*)?)"', source))
    assert {f"/{name}" for name in named} - {"/-"} == every


def test_every_page_answers_get_only_and_head_with_it(folder: Path) -> None:
    with House(folder) as house:
        for path in PAGES_THERE:
            assert DOCUMENT["paths"][path].keys() == {"get"}
            assert ask(house, path, "127.0.0.1", method="HEAD").status == 200
            assert ask(house, path, "127.0.0.1", method="POST").status == 405
    operations = [each["operationId"] for each in (*PAGES_THERE.values(), *CHANGES_THERE.values())]
    assert len(set(operations)) == len(operations)


def test_the_statuses_that_are_described_are_those_that_come(folder: Path) -> None:
    """403 for what is not for strangers, 401 for all but health; and a type for each 200."""
    authorization = b"Authorization: Bearer " + TOKEN.encode()
    for path, page in PAGES_THERE.items():
        described = page["responses"].keys()
        with House(folder, admin="loopback") as house:
            assert ask(house, path, "192.0.2.1").status == (403 if "403" in described else 200)
        with House(folder, tokens=Tokens([TOKEN.encode()])) as house:
            assert ask(house, path, "127.0.0.1").status == (401 if "401" in described else 200)
            reply = ask(house, path, "127.0.0.1", authorization, b"Accept: */*")
            assert reply.status == 200
            kind = re.search(rb"(?:^|\r\n)Content-Type: ([^;\r]+)", reply.fields)
            assert kind is not None
            assert kind[1].decode() in page["responses"]["200"]["content"]
        assert ("security" in page) == (path == "/-/health")


# Real answers.


def event(server: Program) -> tuple[bytes, bytes]:
    """Head and data of the first event."""
    with server.connect() as client:
        client.sendall(b"GET /-/events HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while received.count(b"\n\n") < 2:
            piece = client.recv(1 << 16)
            assert piece
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    retry, data = body.split(b"\n\n")[:2]
    assert retry.startswith(b"retry: ")
    return head, data.removeprefix(b"data: ")


PAGES: dict[str, Callable[[Program], bytes]] = {
    "/-/stats": lambda server: server.get("/-/stats")[2],
    "/-/cache": lambda server: server.get("/-/cache?format=json")[2],
    "/-/evictions": lambda server: server.get("/-/evictions?format=json")[2],
    "/-/snapshot": lambda server: server.get("/-/snapshot")[2],
    "/-/openapi.json": lambda server: server.get("/-/openapi.json")[2],
}


def check_all(server: Program) -> dict[str, Json]:
    """Every JSON page against its schema, and with nothing in it that is not written there; the answers."""
    answers = {path: json.loads(get(server)) for path, get in PAGES.items()}
    for path, answer in answers.items():
        validator(schema_of(path), is_closed=path != "/-/openapi.json").validate(answer)
    answers["/-/events"] = json.loads(event(server)[1])
    validator({"$ref": "#/components/schemas/Snapshot"}).validate(answers["/-/events"])
    return answers


@contextmanager
def under_load(folder: Path, *options: str) -> Iterator[Program]:
    """A server whose cache is too small for what eight clients go on asking for until the end."""
    for number in range(40):
        sparse(folder / f"f{number}", 100_000)
    sparse(folder / "huge", 2 << 20)
    with Program(folder, "--cache", "1MiB", *options) as server, ThreadPoolExecutor(4) as crowd:
        done = False

        def client(seed: int) -> int:
            asked = 0
            while not done:
                asked += server.get(f"/f{(asked * seed) % 40}")[0] == 200
                server.get("/huge" if asked % 10 == 0 else "/missing")
            return asked

        clients = [crowd.submit(client, seed) for seed in (3, 7, 11, 13)]
        try:
            while server.stats()["evictions"] < 60:
                time.sleep(0.01)
            yield server
        finally:
            done = True
        assert all(each.result(timeout=30) for each in clients)


@pytest.mark.parametrize("what_if", [False, True], ids=["plain", "what-if"])
def test_what_a_fresh_server_says_is_as_described(folder: Path, what_if: bool) -> None:
    with Program(folder, *["--what-if"] * what_if) as server:
        answers = check_all(server)
    assert ("what_if" in answers["/-/stats"]) is what_if
    assert answers["/-/evictions"] == {"evictions": []}


@pytest.mark.parametrize("what_if", [False, True], ids=["plain", "what-if"])
def test_what_a_server_under_load_says_is_as_described(folder: Path, what_if: bool) -> None:
    with under_load(folder, *["--what-if"] * what_if) as server:
        for method in ("HEAD", "OPTIONS", "POST", "PUT", "PROPFIND"):
            server.get("/f1", method)
        server.raw(b"GET f1\n")
        for _ in range(3):
            answers = check_all(server)
    snapshot = answers["/-/snapshot"]
    assert len(answers["/-/evictions"]["evictions"]) >= 50
    assert len(snapshot["evictions"]) == 50
    assert snapshot["entries"]
    requests = snapshot["stats"]["requests"]
    assert {each["cache"] for each in requests} >= {"miss", "bypass", "none"}
    assert {each["method"] for each in requests} == {"GET", "HEAD", "OPTIONS", "line", "other"}
    assert ("what_if" in snapshot["stats"]) is what_if


def test_the_rates_of_a_second_are_as_described(folder: Path) -> None:
    """The first is noted a second after the start, with answers of files and later without."""
    (folder / "a").write_bytes(b"x")
    with Program(folder) as server:
        server.get("/a")
        while len(rates := json.loads(server.get("/-/snapshot")[2])["rates"]) < 2:
            time.sleep(0.1)
        check_all(server)
    assert rates[0][-1] is not None
    assert rates[-1][-1] is None
    assert all(len(rate) == 5 for rate in rates)


def test_many_files_and_the_longest_names_are_as_described(folder: Path) -> None:
    long = "\N{SNOWMAN}" * 80
    for number in range(1200):
        (folder / f"{long}{number}").write_bytes(b"x" * (number % 7))
    with Program(folder) as server:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        for number in range(1200):
            connection.request("GET", quote(f"/{long}{number}"))
            assert connection.getresponse().read() == b"x" * (number % 7)
        connection.close()
        answers = check_all(server)
    assert len(answers["/-/cache"]["entries"]) == 1200
    shown, others = answers["/-/snapshot"]["entries"], answers["/-/snapshot"]["others"]
    assert 0 < len(shown) < 1000
    assert len(shown) + others["entries"] == 1200
    assert sum(entry["size"] for entry in shown) + others["size"] == answers["/-/snapshot"]["stats"]["cached"]


@pytest.mark.parametrize("what_if", [False, True], ids=["plain", "what-if"])
def test_the_schema_of_the_stats_has_exactly_their_keys(folder: Path, what_if: bool) -> None:
    """Recursively, and those that are always there are required."""
    (folder / "a").write_bytes(b"x")
    with Program(folder, *["--what-if"] * what_if) as server:
        server.get("/a")
        stats = server.stats()
    optional = set() if what_if else {"what_if"}
    assert SCHEMAS["Stats"]["properties"].keys() - optional == stats.keys()
    assert set(SCHEMAS["Stats"]["required"]) == stats.keys() - {"what_if"}
    compare(SCHEMAS["Stats"], stats, "")


def compare(schema: dict[str, Any], value: Json, where: str) -> None:
    """Every object has the keys that are written for it, and all of them are required."""
    schema = resolved(schema)
    if isinstance(value, dict) and "properties" in schema:
        if where:
            assert value.keys() == schema["properties"].keys(), where
            assert value.keys() == set(schema["required"]), where
        for key, each in value.items():
            compare(schema["properties"][key], each, f"{where}.{key}")
    elif isinstance(value, dict):
        for key, each in value.items():
            compare(schema["additionalProperties"], each, f"{where}.{key}")
    elif isinstance(value, list):
        for each in value:
            compare(schema["items"], each, f"{where}[]")


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("Stats", {"hits": -1}),
        ("Stats", {"hits": "1"}),
        ("Stats", {"hits": 1.5}),
        ("Stats", {"hits": None}),
        ("Stats", {"schema": 2}),
        ("Stats", {"novel": 1}),
        ("Stats", {"connections_by_state": {}}),
        ("Stats", {"requests": [{"method": "POST", "status": 200, "cache": "hit", "count": 1}]}),
        ("Stats", {"requests": [{"method": "GET", "status": 199, "cache": "hit", "count": 1}]}),
        ("Stats", {"requests": [{"method": "GET", "status": 200, "cache": "HIT", "count": 1}]}),
        ("Stats", {"latency": {}}),
        ("Stats", {"disk_read_s": {"inline": {"count": 0}, "pool": {"count": 0}}}),
        ("Snapshot", {"rates": [[1, 2, 3, 4]]}),
        ("Snapshot", {"rates": [[1, 2, 3, 4, 1.5]]}),
        ("Snapshot", {"others": {"entries": 0}}),
        ("Snapshot", {"entries": [{"name": "a"}]}),
    ],
)
def test_the_schemas_do_refuse_something(folder: Path, name: str, broken: dict[str, Json]) -> None:
    """Or nothing above would mean anything."""
    with House(folder) as house:
        answer = json.loads(ask(house, f"/-/{name.lower()}", "127.0.0.1").content)
    check = validator({"$ref": f"#/components/schemas/{name}"})
    check.validate(answer)
    assert not check.is_valid(answer | broken)


# Schemathesis.


def schemathesis(tmp_path: Path, server: Program, *options: str, headers: dict[str, str] | None = None) -> str:
    """Its run over the served description of a server, which must end with 0; what it prints.

    By file, since it leaves out the page that it has the description from.
    """
    description = tmp_path / "served.json"
    description.write_bytes(server.get("/-/openapi.json", **(headers or {}))[2])
    home = tmp_path / "home"  # what it and Hypothesis leave behind
    home.mkdir()
    url = f"http://{server.host}:{server.port}/"
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(description), "--url", url, "--checks", "all"]
    quiet = ["--no-color", "--warnings", "off", "--generation-database", "none"]
    bounded = ["--exclude-path", "/-/events", "--max-examples", "3", "--seed", "1", "--request-timeout", "20"]
    for name, value in (headers or {}).items():
        bounded += ["--header", f"{name}: {value}"]
    done = subprocess.run(
        [*command, *quiet, *bounded, *options], cwd=home, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


BRIEFLY = ("--phases", "examples,coverage")


def leavings() -> set[str]:
    """What the tools might leave in the project's folder."""
    return {each.name for each in PROJECT.iterdir() if "schemathesis" in each.name}


def asked(log: Path) -> set[str]:
    """The pages that were asked for, and answered 200."""
    return set(re.findall(r'"(?:GET|POST) (/-/[^? ]*)[^"]* HTTP/1\.1" 200 ', log.read_text(encoding="utf-8")))


def test_schemathesis_finds_nothing(folder: Path, tmp_path: Path) -> None:
    before, log = leavings(), tmp_path / "log"
    for number in range(20):
        sparse(folder / f"f{number}", 100_000)
    (folder / "a").write_bytes(b"x")  # what the examples name
    with Program(folder, "--cache", "1MiB", "--what-if", "--access-log", str(log)) as server:
        for number in range(20):
            server.get(f"/f{number}")
        said = schemathesis(tmp_path, server)
        assert server.stats()["evictions"]
    assert "10 selected / 11 total" in said
    assert asked(log) == DOCUMENT["paths"].keys() - {"/-/events"}
    assert leavings() == before


def test_schemathesis_finds_nothing_where_a_token_is_needed(folder: Path, tmp_path: Path) -> None:
    """Also that the pages which say so do refuse who has none."""
    (folder / "a").write_bytes(b"x")
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    log = tmp_path / "log"
    password = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with Program(folder, "--token-file", str(tmp_path / "tokens"), "--access-log", str(log)) as server:
        said = schemathesis(tmp_path, server, *BRIEFLY, headers={"Authorization": f"Basic {password}"})
    assert "10 selected / 11 total" in said
    assert asked(log) == DOCUMENT["paths"].keys() - {"/-/events"}


def test_schemathesis_finds_nothing_as_a_stranger(folder: Path, tmp_path: Path) -> None:
    log, address = tmp_path / "log", own_address()
    with Program(folder, "--host", "0.0.0.0", "--admin", "loopback", "--access-log", str(log)) as server:
        server.host = address
        said = schemathesis(tmp_path, server, *BRIEFLY, "--exclude-checks", "positive_data_acceptance")
    assert "10 selected / 11 total" in said
    assert asked(log) == {"/-/health", "/-/cache", "/-/openapi.json"}


def test_the_head_of_the_events_is_as_described(folder: Path) -> None:
    with Program(folder) as server:
        status, fields, _ = split(event(server)[0] + b"\r\n\r\n")
    assert status == 200
    assert fields[b"content-type"].decode() in DOCUMENT["paths"]["/-/events"]["get"]["responses"]["200"]["content"]
