"""Stores of objects on loopback: moto's S3 as a subprocess, and one of our own that misbehaves as it is told."""

import hashlib
import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

BUCKET = "bucket"
_SOMEBODY = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
"""Who signs, without having signed: moto lets nobody else replace an object."""


def environment(port: int) -> dict[str, str]:
    """What tells obstore where the store is, and nothing else of the machine's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return ours | {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "NO_PROXY": "127.0.0.1",
    }


class S3:
    """A running moto."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.environment = environment(port)

    def put(self, key: str, content: bytes = b"") -> bytes:
        """Make or replace an object; with no key the bucket."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            path = f"/{BUCKET}/{quote(key)}".rstrip("/") + "/" * key.endswith("/")
            client.request("PUT", path, content, {"Authorization": _SOMEBODY})
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
        finally:
            client.close()
        return content


@contextmanager
def moto(log: Path, *, strict: bool = False) -> Iterator[S3]:
    """moto's server, with an empty bucket unless it is `strict` about credentials."""
    asks_for_credentials = {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if strict else {}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | asks_for_credentials,
        )
        try:
            while not (match := re.search(r"Running on http://127\.0\.0\.1:(\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                threading.Event().wait(0.02)
            store = S3(int(match[1]))
            if not strict:
                store.put("")
            yield store
        finally:
            process.terminate()
            process.wait()


class Misbehaving:
    """A store with `objects` that does what `mode` says: a status as a number, `hang` until `gate` is set, be
    `gone` without an answer, `cut` a body in its middle, have `no-range` or `no-etag`, `ignore-conditions`, or
    nothing special."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.mode = ""
        self.code = "SlowDown"
        self.gate = threading.Event()
        self.version = ""
        """The version id of all objects; none if empty."""
        self.requests: list[str] = []
        self.conditions: list[str] = []
        """The If-Match of those that had one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *each: _Answering(self, *each))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.environment = environment(self.port)

    def __enter__(self) -> "Misbehaving":
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, store: Misbehaving, *arguments: Any) -> None:
        self.store = store
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.store.requests.append(f"{self.command} {self.path}")
        mode = self.store.mode
        if mode == "hang":
            self.store.gate.wait(60)
        if mode == "gone":
            self.close_connection = True
            return None
        if mode.isdecimal():
            body = f"<Error><Code>{self.store.code}</Code></Error>".encode()
            return self.say(int(mode), body)
        if "list-type" in url.query:
            return self.say(200, self.listing(parse_qs(url.query)["prefix"][0] if "prefix=" in url.query else ""))
        content = self.store.objects.get(unquote(url.path).removeprefix(f"/{BUCKET}/"))
        if content is None:
            return self.say(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self.send_object(content, mode)

    def listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2001-09-09T01:46:40.000Z</LastModified>"
            f'<ETag>"x"</ETag><Size>{len(content)}</Size></Contents>'
            for key, content in sorted(self.store.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()

    def send_object(self, content: bytes, mode: str) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = self.headers["If-Match"]
        self.store.conditions += filter(None, [wanted])
        if wanted not in (None, etag) and mode != "ignore-conditions":
            return self.say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        fields = {"Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT"} | ({} if mode == "no-etag" else {"ETag": etag})
        if self.store.version:
            fields["x-amz-version-id"] = self.store.version
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if match is None:
            return self.say(200, content, fields)
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        if start >= len(content) or mode == "no-range":
            return self.say(416, b"<Error><Code>InvalidRange</Code></Error>")
        fields["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        return self.say(206, content[start:end], fields)

    def say(self, status: int, body: bytes, fields: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.store.mode == "cut" and status == 206:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)
