"""Objects instead of files: what a bucket answers, what it means, and what is said when it does not answer."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import gevent
import obstore
import pytest
from gevent.threadpool import ThreadPool
from obstore.store import S3Store

from fileserver import objects, root
from fileserver.objects import CannotServe, ObjectRoot, open_bucket
from lrucache import CHUNK_BYTES
from tests.buckets import BUCKET, S3, Misbehaving, moto
from tests.house import pattern
from tests.program import PROJECT, Program

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17]
ODD = [
    "b b",
    "100%.txt",
    "x%20y",
    "star*",
    "q?",
    "h#h",
    "br[1]",
    "ü",
    'quo"te',
    "<z>|",
    "m&m",
    "e=1+2;,@",
    "{^}`~",
]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One moto for all, since it takes a second to start; each test has a prefix of its own."""
    with moto(tmp_path_factory.mktemp("moto") / "log") as store:
        yield store


@pytest.fixture
def misbehaving() -> Iterator[Misbehaving]:
    with Misbehaving() as store:
        yield store


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A place of the test's own in the bucket."""
    name: str = request.node.name
    return "".join(each if each.isalnum() else "-" for each in name)


@pytest.fixture
def bucket(s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch) -> ObjectRoot:
    use(monkeypatch, s3.environment)
    return open_bucket(f"s3://{BUCKET}/{prefix}")


@pytest.fixture
def odd_bucket(misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> ObjectRoot:
    """Over the misbehaving store, with little patience."""
    use(monkeypatch, misbehaving.environment)
    monkeypatch.setattr(objects, "ATTEMPT_S", 0.3)
    monkeypatch.setattr(objects, "RETRY_S", 0.3)
    return open_bucket(f"s3://{BUCKET}")


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def url(prefix: str = "") -> str:
    return f"s3://{BUCKET}/{prefix}"


def whole(bucket: ObjectRoot, name: str) -> bytes:
    opened = bucket.open(name, 1 << 30)
    content = opened.first or b""
    while len(content) < opened.identity.size:
        content += bucket.read(opened.descriptor, opened.identity, len(content), CHUNK_BYTES)
    if opened.descriptor >= 0:
        bucket.close_descriptor(opened.descriptor)
    assert len(bucket) == 0
    return content


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "gserver.py"), "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )


# The root.


@pytest.mark.parametrize("size", SIZES)
def test_an_object_is_read_whole_whatever_its_size(s3: S3, bucket: ObjectRoot, prefix: str, size: int) -> None:
    content = s3.put(f"{prefix}/a", pattern(size))
    assert whole(bucket, "a") == content
    assert bucket.stat("a").size == size


@pytest.mark.parametrize("name", ODD)
def test_every_name_is_the_key_of_the_same_characters(s3: S3, bucket: ObjectRoot, prefix: str, name: str) -> None:
    content = s3.put(f"{prefix}/{name}", name.encode())
    assert whole(bucket, name) == content
    assert [entry.name for entry in bucket.list("").entries] == [name]


@pytest.mark.parametrize("name", ["", "/", "a//b", "../a", "a/..", "./a", "a\n", "x" * 256, "y/" * 600 + "y"])
def test_what_no_key_can_be_called_never_reaches_the_store(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, name: str
) -> None:
    misbehaving.requests.clear()
    for ask in (bucket_open, ObjectRoot.stat):
        with pytest.raises(root.NotFound):
            ask(odd_bucket, name)
    assert misbehaving.requests == []


def bucket_open(bucket: ObjectRoot, name: str) -> object:
    return bucket.open(name)


def test_opening_with_a_chunk_is_one_get_and_without_one_head(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving
) -> None:
    misbehaving.objects["a"] = pattern(2 * CHUNK_BYTES)
    misbehaving.requests.clear()
    first = odd_bucket.open("a", 1 << 30)
    assert first.first == pattern(CHUNK_BYTES)
    assert misbehaving.requests == [f"GET /{BUCKET}/a"]
    assert odd_bucket.open("a", -1).first is None
    assert misbehaving.requests[1:] == [f"HEAD /{BUCKET}/a"]
    assert odd_bucket.open("a", CHUNK_BYTES).first is None  # larger than was wanted


def test_what_waits_for_the_store_is_never_cached(odd_bucket: ObjectRoot, misbehaving: Misbehaving) -> None:
    misbehaving.objects["a"] = b"content"
    opened = odd_bucket.open("a", -1)
    misbehaving.requests.clear()
    with pytest.raises(BlockingIOError):
        odd_bucket.open("a", cached=True)
    with pytest.raises(BlockingIOError):
        odd_bucket.stat("a", cached=True)
    with pytest.raises(BlockingIOError):
        odd_bucket.read(opened.descriptor, opened.identity, 0, 1, cached=True)
    assert misbehaving.requests == []


@pytest.mark.parametrize("mode", ["", "no-etag", "ignore-conditions"])
def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, mode: str
) -> None:
    misbehaving.mode = mode
    misbehaving.objects["a"] = pattern(2 * CHUNK_BYTES)
    opened = odd_bucket.open("a", 1 << 30)
    other = pattern(2 * CHUNK_BYTES + (mode == "no-etag"), 9)  # without an ETag only date and size tell
    misbehaving.objects["a"] = other
    with pytest.raises(root.Changed):
        odd_bucket.read(opened.descriptor, opened.identity, CHUNK_BYTES, CHUNK_BYTES)


@pytest.mark.parametrize("left", [None, b"short"])
def test_an_object_that_is_deleted_or_cut_while_it_is_read_has_changed(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, left: bytes | None
) -> None:
    misbehaving.objects["a"] = pattern(2 * CHUNK_BYTES)
    opened = odd_bucket.open("a", 1 << 30)
    misbehaving.mode = "ignore-conditions"
    misbehaving.objects = {} if left is None else {"a": left}
    with pytest.raises(root.Changed):
        odd_bucket.read(opened.descriptor, opened.identity, CHUNK_BYTES, CHUNK_BYTES)


def test_chunks_are_asked_for_of_one_version_alone(odd_bucket: ObjectRoot, misbehaving: Misbehaving) -> None:
    """So that a store need not send what would be thrown away."""
    misbehaving.objects["a"] = pattern(3 * CHUNK_BYTES)
    assert whole(odd_bucket, "a") == misbehaving.objects["a"]
    assert len(misbehaving.conditions) == 2
    assert len(set(misbehaving.conditions)) == 1


def test_what_was_empty_when_it_was_asked_for_and_is_not_any_more_has_changed(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving
) -> None:
    misbehaving.objects["a"] = b"content"
    misbehaving.mode = "no-range"
    with pytest.raises(root.Changed):
        odd_bucket.open("a", 10)


def test_a_version_is_told_by_its_etag_alone_or_its_version_id(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving
) -> None:
    misbehaving.objects["a"] = b"one"
    one = odd_bucket.stat("a")
    assert odd_bucket.open("a", 10).identity == one == odd_bucket.stat("a")
    misbehaving.objects["a"] = b"two"
    assert odd_bucket.stat("a")._replace(inode=one.inode) == one
    assert odd_bucket.stat("a") != one
    assert one.mtime_ns == 1_000_000_000_000_000_000
    misbehaving.objects["a"], misbehaving.version = b"one", "2"
    assert odd_bucket.stat("a") not in (one, odd_bucket.stat("a")._replace(inode=one.inode))


@pytest.mark.parametrize(
    ("mode", "meaning"),
    [
        ("503", root.Exhausted),
        ("429", root.Exhausted),
        ("502", root.Exhausted),
        ("hang", root.Exhausted),
        ("cut", root.Exhausted),
        ("gone", root.Exhausted),
        ("401", root.Forbidden),
        ("403", root.Forbidden),
        ("500", root.DiskFailure),
        ("400", root.DiskFailure),
        ("404", root.NotFound),
    ],
)
def test_what_the_store_says_is_what_a_disk_would_have_said(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, mode: str, meaning: type[Exception]
) -> None:
    misbehaving.objects["a"] = pattern(2 * CHUNK_BYTES)
    opened = odd_bucket.open("a", 1 << 30)
    misbehaving.mode = mode
    with pytest.raises(root.FileError) as said:
        odd_bucket.read(opened.descriptor, opened.identity, CHUNK_BYTES, CHUNK_BYTES)
    assert type(said.value) is (root.Changed if mode == "404" else meaning)
    assert "something-secret" not in str(said.value)
    misbehaving.objects.clear()
    if mode not in ("404", "cut"):
        with pytest.raises(meaning):
            odd_bucket.open("a", 10)
        with pytest.raises(meaning):
            odd_bucket.list("")


def test_requests_are_tried_again_but_not_for_ever(odd_bucket: ObjectRoot, misbehaving: Misbehaving) -> None:
    misbehaving.mode = "503"
    misbehaving.requests.clear()
    with pytest.raises(root.Exhausted):
        odd_bucket.stat("a")
    assert 1 <= len(misbehaving.requests) <= 1 + objects.RETRIES


def test_the_patience_with_a_store_ends_within_half_a_minute() -> None:
    assert objects.RETRY_S + objects.ATTEMPT_S <= 30
    assert objects.CONNECT_S <= objects.ATTEMPT_S


def test_a_thread_that_waits_for_the_store_holds_nobody(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "ATTEMPT_S", 20)
    patient = open_bucket(url())
    misbehaving.objects["a"] = b"content"
    misbehaving.mode = "hang"
    misbehaving.requests.clear()
    pool = ThreadPool(1)
    try:
        asking = pool.spawn(whole, patient, "a")
        turns = 0
        while not misbehaving.requests or turns < 100:
            gevent.sleep(0.001)
            turns += 1
        assert not asking.ready()
        misbehaving.gate.set()
        assert asking.get(timeout=20) == b"content"
    finally:
        misbehaving.gate.set()
        pool.kill()


# Folders.


def test_a_folder_is_what_keys_begin_with(s3: S3, bucket: ObjectRoot, prefix: str) -> None:
    for key in ("b", "a/1", "a/2/x", "a.txt", "a/.hidden/x", ".hidden", "marked/", "marked/x", "empty/"):
        s3.put(f"{prefix}/{key}", b"" if key.endswith("/") else key.encode())
    s3.put(f"{prefix}2/beside")
    found = bucket.list("")
    assert [(entry.name, entry.is_folder, entry.size) for entry in found.entries] == [
        ("a", True, 0), ("marked", True, 0), ("a.txt", False, 5), ("b", False, 1), ("empty", False, 0),
    ]  # fmt: skip
    assert [entry.name for entry in bucket.list("a").entries] == ["2", "1"]
    assert bucket.list("empty").entries == []
    assert not found.truncated
    for name in ("a", "marked", "empty", "a/2"):
        with pytest.raises(root.IsFolder):
            bucket.stat(name)
        with pytest.raises(root.IsFolder):
            bucket.open(name)
    for name in ("c", "a/1/x", "a/3"):
        with pytest.raises(root.NotFound):
            bucket.stat(name)
        with pytest.raises(root.NotFound):
            bucket.list(name)


def test_hidden_entries_are_listed_where_they_are_served(
    s3: S3, prefix: str, bucket: ObjectRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put(f"{prefix}/.a/x")
    assert bucket.list("").entries == []
    assert [entry.name for entry in open_bucket(url(prefix), hidden=True).list("").entries] == [".a"]


def test_folders_that_fill_pages_are_stepped_over(
    s3: S3, bucket: ObjectRoot, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 gives 1,000 keys at a time, and most of these are beneath two folders, one of them hidden."""
    store = S3Store(BUCKET, prefix=prefix, client_options={"allow_http": True, "timeout": timedelta(seconds=20)})
    for number in range(1100):
        obstore.put(store, f"many/{number:04}", b"")
        obstore.put(store, f".git/{number:04}", b"")
    for key in ("a", "many0", "z/z"):
        obstore.put(store, key, b"x")
    asked: list[object] = []
    lists = obstore.list

    def counted(*where: Any, **how: Any) -> Any:
        asked.append(how)
        return lists(*where, **how)

    monkeypatch.setattr(obstore, "list", counted)
    found = bucket.list("")
    assert [entry.name for entry in found.entries] == ["many", "z", "a", "many0"]
    assert not found.truncated
    assert len(asked) == 3
    assert len(bucket.list("many").entries) == 1100


@pytest.mark.parametrize("key", ["b//x", "b/../x"])
def test_a_key_that_is_no_name_fails_the_listings_that_come_across_it_and_nothing_else(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, key: str
) -> None:
    misbehaving.objects = {"a/1": b"content", key: b""}
    with pytest.raises(root.DiskFailure, match="b/"):
        odd_bucket.list("")
    assert [entry.name for entry in odd_bucket.list("a").entries] == ["1"]
    assert whole(odd_bucket, "a/1") == b"content"


def test_a_listing_is_bounded_and_says_so(
    odd_bucket: ObjectRoot, misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    misbehaving.objects = {f"{number}": b"" for number in range(8)} | {"a/x": b"", "b/x": b""}
    monkeypatch.setattr(objects, "LISTING_MAX", 10)
    assert not odd_bucket.list("").truncated
    misbehaving.objects["c/x"] = b""
    found = odd_bucket.list("")
    assert (len(found.entries), found.truncated) == (10, True)
    monkeypatch.setattr(objects, "LISTING_MAX", 100)
    monkeypatch.setattr(objects, "PAGES_MAX", 1)
    assert odd_bucket.list("").truncated
    monkeypatch.setattr(objects, "PAGES_MAX", 2)
    monkeypatch.setattr(objects, "LISTING_S", 0.0)
    assert odd_bucket.list("").truncated


# The program.


def test_objects_are_served_like_files(s3: S3, prefix: str) -> None:
    content = s3.put(f"{prefix}/dir/a.txt", pattern(2 * CHUNK_BYTES + 5))
    s3.put(f"{prefix}/-/reserved")
    s3.put(f"{prefix}/site/index.html", b"<p>hello")
    with Program(url(prefix) + "/", "--io", "auto", env=s3.environment) as program:
        assert f"serves {url(prefix)} (" in program.start_line
        status, fields, got = program.get("/dir/a.txt")
        assert (status, got, fields["x-cache"]) == (200, content, "MISS")
        assert fields["content-type"] == "text/plain; charset=utf-8"
        status, fields, got = program.get("/dir/a.txt", Range="bytes=262140-262149")
        assert (status, got, fields["x-cache"]) == (206, content[262140:262150], "HIT")
        assert program.get("/dir/a.txt", If_None_Match=fields["etag"])[0] == 304
        assert program.get("/dir/a.txt", If_Modified_Since=fields["last-modified"])[0] == 304
        assert program.get("/dir/a.txt", "HEAD")[1]["content-length"] == str(len(content))
        status, fields, _ = program.get("/dir")
        assert (status, fields["location"]) == (301, "/dir/")
        assert [program.get(path)[0] for path in ("/nothing", "/nothing/", "/dir/a.txt/", "/%ff")] == [404] * 4
        assert program.get("/site/")[2] == b"<p>hello"
        listing = json.loads(program.get("/", Accept="application/json")[2])
        assert [(each["name"], each["type"], each["mtime"]) for each in listing["entries"]] == [
            ("dir", "folder", None), ("site", "folder", None),
        ]  # fmt: skip
        page = program.get("/dir/")[2].decode()
        assert "a.txt" in page
        assert "1970" not in program.get("/")[2].decode()
        assert program.names() == ["site/index.html", "dir/a.txt"]
        assert program.stats()["disk_reads_pool"] > 0
        assert "something-secret" not in json.dumps(program.stats()) + program.start_line


def test_a_cached_object_that_was_replaced_is_seen_within_the_window(s3: S3, prefix: str) -> None:
    s3.put(f"{prefix}/a", b"old")
    with Program(url(prefix), "--revalidate", "0", env=s3.environment) as program:
        # What is younger than two seconds is not stored when every request looks.
        assert program.get("/a")[2] == b"old"
        assert program.get("/a")[2] == b"old"
        new = s3.put(f"{prefix}/a", b"new")
        assert program.get("/a")[2] == new


def test_a_stored_object_is_looked_at_and_read_again_only_when_it_changed(misbehaving: Misbehaving) -> None:
    misbehaving.objects["a"] = b"old"
    with Program(url(), "--revalidate", "0", env=misbehaving.environment) as program:
        assert program.get("/a")[1]["x-cache"] == "MISS"
        misbehaving.requests.clear()
        assert program.get("/a")[1]["x-cache"] == "HIT"
        assert set(misbehaving.requests) == {f"HEAD /{BUCKET}/a"}
        misbehaving.objects["a"] = b"new"
        status, fields, content = program.get("/a")
        assert (status, fields["x-cache"], content) == (200, "MISS", b"new")


def test_an_object_that_is_replaced_while_it_is_sent_is_cut(misbehaving: Misbehaving) -> None:
    old = misbehaving.objects["a"] = pattern(64 << 20)
    with Program(url(), "--cache", "1MiB", env=misbehaving.environment) as program:
        client = http.client.HTTPConnection(program.host, program.port, timeout=30)
        client.request("GET", "/a")
        answer = client.getresponse()
        got = answer.read(1000)
        misbehaving.objects["a"] = pattern(64 << 20, 7)
        with suppress(http.client.IncompleteRead, ConnectionError):
            while piece := answer.read1(1 << 16):
                got += piece
        assert old.startswith(got)
        assert len(got) < len(old)
        client.close()


@pytest.mark.parametrize("mode", ["503", "cut"])
def test_a_store_that_is_busy_is_503_with_retry_after_and_then_as_before(
    misbehaving: Misbehaving, mode: str
) -> None:
    misbehaving.objects["a"] = b"content"
    with Program(url(), env=misbehaving.environment) as program:
        misbehaving.mode = mode
        status, fields, _ = program.get("/a")
        assert (status, fields["retry-after"]) == (503, "1")
        misbehaving.mode = ""
        assert program.get("/a")[2] == b"content"


def test_hits_go_on_while_the_store_hangs(misbehaving: Misbehaving) -> None:
    misbehaving.objects |= {"hot": b"hot", "cold": b"cold"}
    with Program(url(), "--revalidate", "1000", env=misbehaving.environment) as program:
        program.get("/hot")
        misbehaving.mode = "hang"
        misbehaving.requests.clear()
        with program.connect() as waiting:
            waiting.sendall(b"GET /cold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while not misbehaving.requests:
                gevent.sleep(0.001)
            for _ in range(10):
                assert program.get("/hot")[1]["x-cache"] == "HIT"
            misbehaving.mode = ""
            misbehaving.gate.set()
            assert waiting.makefile("rb").read().endswith(b"\r\n\r\ncold")


# What cannot be served is said at the start.


@pytest.mark.parametrize(
    ("mode", "code", "reason"),
    [
        ("403", "InvalidAccessKeyId", "the credentials are not valid"),
        ("403", "SignatureDoesNotMatch", "the credentials are not valid"),
        ("400", "ExpiredToken", "the credentials are not valid"),
        ("403", "AccessDenied", f"may not list the bucket {BUCKET}"),
        ("400", "AuthorizationHeaderMalformed", "in another region"),
        ("301", "PermanentRedirect", "in another region"),
        ("404", "NoSuchBucket", f"there is no bucket {BUCKET}"),
        ("503", "SlowDown", "is too busy"),
        ("hang", "", "does not answer"),
    ],
)
def test_why_a_bucket_cannot_be_served(
    misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch, mode: str, code: str, reason: str
) -> None:
    use(monkeypatch, misbehaving.environment)
    monkeypatch.setattr(objects, "ATTEMPT_S", 0.3)
    monkeypatch.setattr(objects, "RETRY_S", 0.3)
    misbehaving.mode, misbehaving.code = mode, code
    with pytest.raises(CannotServe, match=reason):
        open_bucket(url())


def test_credentials_that_are_wrong_are_refused_by_a_store_that_checks(tmp_path: Path) -> None:
    with moto(tmp_path / "log", strict=True) as store:
        done = run(url(), env=store.environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"gserver: cannot serve {url()}: the credentials are not valid")


def test_no_such_bucket_is_one_line_and_exit_1(s3: S3) -> None:
    done = run("s3://another", env=s3.environment)
    assert (done.returncode, done.stderr) == (
        1,
        "gserver: cannot serve s3://another: there is no bucket another\n",
    )


@pytest.mark.parametrize(
    ("directory", "changes", "reason"),
    [
        (url(), {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached"),
        (url(), {"AWS_ENDPOINT_URL": "elsewhere"}, "AWS_ENDPOINT_URL is not a URL like https://HOST:PORT"),
        (url(), {"AWS_ENDPOINT_URL": "http://me:hush@host"}, "AWS_ENDPOINT_URL is not a URL"),
        (url(), {"AWS_SECRET_ACCESS_KEY": ""}, "AWS_"),
        ("s3://", {}, "not a URL like s3://BUCKET/PREFIX"),
        ("s3://me:hush@bucket/x", {}, "not a URL like s3://BUCKET/PREFIX"),
        ("s3://bucket/a//b", {}, "the prefix has a component that no name may have"),
        ("gs://bucket", {}, "DIR is a folder, file:///PATH or s3://BUCKET/PREFIX"),
        ("file://elsewhere/x", {}, "DIR is a folder, file:///PATH or s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_no_store_is_one_line_and_exit_1(
    s3: S3, directory: str, changes: dict[str, str], reason: str
) -> None:
    given = {name: value for name, value in (s3.environment | changes).items() if value}
    done = run(directory, env=given)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert reason in done.stderr
    assert "hush" not in done.stderr


def test_a_missing_obstore_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "obstore.py").write_text("raise ModuleNotFoundError('gone', name='obstore')")
    done = run(url(), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == (
        f"gserver: cannot serve {url()}: obstore is missing; install it with: pip install -r requirements-s3.txt\n"
    )


def test_dropping_pages_is_for_folders(s3: S3) -> None:
    done = run(url(), "--page-cache", "drop", env=s3.environment)
    assert done.returncode == 2
    assert "--page-cache drop is for folders" in done.stderr


@pytest.mark.parametrize("host", ["", "localhost"])
def test_a_file_url_is_the_folder_itself(folder: Path, host: str) -> None:
    named = folder / "a b"
    named.mkdir()
    (named / "x").write_bytes(b"content")
    (named / "out").symlink_to("/etc/hostname")
    with Program(f"file://{host}{folder}/a%20b", "--page-cache", "drop") as program:
        assert program.get("/x")[2] == b"content"
        assert program.get("/out")[0] == 404
        assert f"serves {named} (" in program.start_line


def test_obstore_is_loaded_for_urls_alone() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import gserver, sys; print('obstore' in sys.modules)"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
    )
    assert loaded.stdout == "False\n"
