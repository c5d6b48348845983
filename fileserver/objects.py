"""The objects of a bucket as a root: `s3://BUCKET/PREFIX`, asked through obstore, in the words of root.py.

A version is what the store calls one (ETag, version id, size and time), a look is a HEAD, a chunk a ranged GET of
just that version, and a folder whatever keys have in common up to a slash. Every method blocks for as long as the
store takes, at most some half a minute, and is safe in any native thread: obstore gives the interpreter's lock
back while it waits, and needs neither a hub nor an event loop of ours. Nothing is kept open.

A room of its own because only who serves a URL has obstore, and waits for its import.
"""

import errno
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from fileserver import names
from fileserver.root import (
    LISTING_MAX,
    Changed,
    DiskFailure,
    Exhausted,
    FileError,
    Folder,
    FolderEntry,
    Forbidden,
    Identity,
    IsFolder,
    NotFound,
    Opened,
)
from lrucache import CHUNK_BYTES

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig

CONNECT_S = 5
"""How long a connection to the store may take to stand; the AWS tools wait 60 s, and nobody waits for those."""
ATTEMPT_S = 10
"""How long one attempt at a request may take, with its body: a chunk at 26 KiB/s."""
RETRIES = 2
"""Attempts after the first, with 0.1 to 1 s between them: what AWS's `standard` mode has."""
RETRY_S = 15
"""No attempt begins later than this after the first, so that none ends later than RETRY_S + ATTEMPT_S."""

KEY_BYTES = 1024
"""The longest key that S3 has."""
PAGE_ENTRIES = 1000
"""Keys in one answer to LIST: S3 gives no more."""
PAGES_MAX = 100
"""Pages looked through for one folder. Each folder beneath it that fills a page takes one to be stepped over."""
LISTING_S = 15.0
"""How long a listing asks for more pages; then it says that there are some."""

LOOK_THREADS = 16
"""Threads for looks at stored files: each waits for a HEAD of some 10 to 30 ms, where a disk's wait is rare."""


class CannotServe(ValueError):
    """Why a URL cannot be served, in words for the operator; without what could be a secret."""


class OutOfRange(FileError):
    """The object has no such bytes (416)."""


_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}"
_URL = re.compile(rf"s3://(?P<bucket>{_BUCKET})(?:/(?P<prefix>.*))?", re.DOTALL)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = "\U0010ffff"
"""Sorts behind every character that a key is likely to have."""
_STRUCTURE = "\n\nDebug source:"
"""Behind it an error of obstore's has its structure, in which line feeds and quotes of others are escaped."""
_STATUSES: dict[str, type[FileError]] = {
    "401": Forbidden,
    "403": Forbidden,
    "404": NotFound,
    "408": Exhausted,
    "412": Changed,
    "416": OutOfRange,
    "429": Exhausted,
    "502": Exhausted,
    "503": Exhausted,
    "504": Exhausted,
}

_REASONS = (
    (r"/latest/|169\.254\.", "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (r"Missing\w*AccessKey|MissingAccessKeyId", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together"),
    (
        r"incorrectly configured region|AuthorizationHeaderMalformed|PermanentRedirect",
        "the bucket {bucket} is in another region: set AWS_REGION",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|InvalidClientTokenId|\bstatus: 401\b",
        "the credentials are not valid (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN)",
    ),
    (r"\bstatus: 403\b", "these credentials may not list the bucket {bucket} (s3:ListBucket)"),
    (r"\bstatus: 404\b", "there is no bucket {bucket}"),
    (r"\bstatus: (?:408|429|502|503|504)\b", "{store} is too busy"),
    (r"\bkind: Timeout\b", "{store} does not answer"),
    (r"\bkind: (?:Connect|Request|Interrupted)\b", "{store} cannot be reached"),
)
"""What the first LIST may say, and what the operator can do about it. What a machine in the cloud has instead of
credentials, an address that begins with 169.254, is asked only when there are none."""

log = logging.getLogger("gserver")


class _Entries:
    """What keys beneath a folder tell of its own entries."""

    def __init__(self, folder: str, *, hidden: bool) -> None:
        self._folder = folder
        self._hidden = hidden
        self._files: dict[str, FolderEntry] = {}
        self._folders: dict[str, FolderEntry] = {}
        self.pages = 0

    @property
    def is_full(self) -> bool:
        """Whether there are more than can be shown, or more were looked through than is good."""
        return len(self._files) + len(self._folders) > LISTING_MAX or self.pages >= PAGES_MAX

    def take(self, pages: Iterable[Sequence[Any]], until_s: float) -> str | None:
        """Look through pages; from where on to ask for others, or None when nobody has to."""
        for page in pages:
            self.pages += 1
            beneath = ""
            for meta in page:
                beneath = self._take(meta)
            if beneath and len(page) >= PAGE_ENTRIES:
                return f"{self._folder}/{beneath}/{_LAST}".lstrip("/")
            if self.is_full or time.monotonic() >= until_s:
                return meta["path"]  # type: ignore[no-any-return]
        return None

    def _take(self, meta: Any) -> str:
        """One key; the folder among the entries that it is beneath, if it is."""
        path: str = meta["path"]
        name, slash, _ = (path[len(self._folder) + 1 :] if self._folder else path).partition("/")
        if names.is_valid(name, hidden=self._hidden):
            if slash:
                self._folders.setdefault(name, FolderEntry(name, True, 0, None))
            else:
                self._files[name] = FolderEntry(name, False, meta["size"], meta["last_modified"].timestamp())
        return name if slash else ""

    def listing(self, *, truncated: bool) -> Folder:
        """Folders first, each kind by name; an empty file that is called like a folder is that one's marker."""
        files = [file for name, file in self._files.items() if file.size or name not in self._folders]
        entries = sorted(self._folders.values()) + sorted(files)
        return Folder(entries[:LISTING_MAX], truncated)


class Handle(NamedTuple):
    """What an object root keeps of an open version: enough to ask for no other."""

    name: str
    etag: str | None


class ObjectRoot:
    """The objects of `store`, with the interface of `root.Root`; `path` is how they are called in public.

    A descriptor is a number of a table here. Nothing is known without asking, so `cached=True` always raises
    BlockingIOError. There are no links, and so nothing to be led out by.
    """

    knows_cached = False
    closes_at_once = True

    def __init__(self, store: S3Store | LocalStore, path: str, *, prefix: str = "", hidden: bool = False) -> None:
        self.path = path
        self._store = store
        self._prefix_bytes = len(prefix.encode()) + 1
        self._hidden = hidden
        self._handles: dict[int, Handle] = {}
        self._numbers = count()

    def __len__(self) -> int:
        """Versions that are open."""
        return len(self._handles)

    def close(self) -> None:
        """Nothing to give back."""

    def open(self, name: str, first_max: int = 0, *, cached: bool = False) -> Opened:
        """Open the object `name`, with its first chunk (one GET) unless `first_max` < 0 (one HEAD).

        The chunk is left unread when the object has more than `first_max` bytes. Raises FileError; IsFolder when
        there is no such object, but some beneath the name.
        """
        _refuse(cached=cached)
        try:
            meta, first = self._begin(name, first_max)
        except NotFound as missing:
            raise self._absence(name) from missing
        identity = self._identity(name, meta)
        if first is not None and len(first) == identity.size:
            return Opened(-1, identity, first)
        descriptor = next(self._numbers)
        self._handles[descriptor] = Handle(name, meta["e_tag"])
        return Opened(descriptor, identity, first)

    def close_descriptor(self, descriptor: int) -> None:
        """Forget an open version; asks nobody."""
        self._handles.pop(descriptor, None)

    def stat(self, name: str, *, cached: bool = False) -> Identity:
        """The identity of the object `name`: one HEAD. Raises FileError as `open` does."""
        _refuse(cached=cached)
        try:
            return self._identity(name, self._head(name))
        except NotFound as missing:
            raise self._absence(name) from missing

    def read_settled(self, name: str, before_ns: int) -> Opened | None:
        """None: everything takes a wait."""

    def read(
        self, descriptor: int, identity: Identity, offset: int, length: int, *, cached: bool = False
    ) -> bytes:
        """The bytes [offset, offset + length) of the version `identity`, fewer only at its end: one GET.

        Raises Changed when the name is another version by now, or gone: the store keeps no old one for us.
        """
        _refuse(cached=cached)
        name, etag = self._handles[descriptor]
        end = min(offset + length, identity.size)
        if end <= offset:
            return b""
        try:
            meta, content = self._get(name, offset, end, etag=etag)
        except (NotFound, OutOfRange) as problem:
            raise Changed(str(problem)) from problem
        if content is None or len(content) != end - offset or self._identity(name, meta) != identity:
            raise Changed("the object changed while it was read")
        return content

    def was_read(self, descriptor: int) -> None:
        """Nothing of it is kept here."""

    def list(self, folder: str) -> Folder:
        """What keys beneath `folder` begin with, up to the next slash; `""` is the root. Raises FileError.

        S3 gives keys in order, 1,000 at a time. obstore could leave out what is beneath folders, but only with all
        pages at once, however many; so pages are asked for one by one, and where one ends beneath a folder, the
        next begins behind that. An empty folder has nothing but its marker, a key that ends in a slash.
        """
        found = _Entries(folder, hidden=self._hidden)
        key = self._key(folder) if folder else None
        until_s = time.monotonic() + LISTING_S
        behind: str | None = None
        while True:
            with _translated():
                pages = obstore.list(self._store, key, offset=behind, chunk_size=PAGE_ENTRIES)
                behind = found.take(pages, until_s)
            if behind is None or found.is_full or time.monotonic() >= until_s:
                break
        if folder and not found.pages:
            raise NotFound("no key begins with it")
        return found.listing(truncated=found.is_full or behind is not None)

    def _begin(self, name: str, first_max: int) -> tuple[Any, bytes | None]:
        """The version of `name` now, and its first chunk if that was asked for."""
        if first_max < 0:
            return self._head(name), None
        try:
            return self._get(name, 0, CHUNK_BYTES, size_max=first_max)
        except OutOfRange as problem:  # what is empty has no first byte
            meta = self._head(name)
            if meta["size"]:
                raise Changed("the object changed while it was opened") from problem
            return meta, b""

    def _head(self, name: str) -> Any:
        with _translated():
            return obstore.head(self._store, self._key(name))

    def _get(
        self, name: str, start: int, end: int, *, etag: str | None = None, size_max: float = math.inf
    ) -> tuple[Any, bytes | None]:
        """The bytes [start, end) and their version, from one answer; no bytes if it has more than `size_max`."""
        options: GetOptions = {"range": (start, end)}
        if etag is not None:
            options["if_match"] = etag
        with _translated():
            found = obstore.get(self._store, self._key(name), options=options)
            return found.meta, found.bytes().to_bytes() if found.meta["size"] <= size_max else None

    def _identity(self, name: str, meta: Any) -> Identity:
        """A version, as far as the store tells them apart: `inode` stands for its ETag and version id."""
        mark = blake2b(f"{meta['e_tag']}\n{meta['version']}".encode(), digest_size=16).digest()
        changed_ns = (meta["last_modified"] - _EPOCH) // timedelta(microseconds=1) * 1000
        return Identity(0, int.from_bytes(mark), meta["size"], changed_ns, changed_ns)

    def _absence(self, name: str) -> FileError:
        """Why there is no object of that name: it may be a folder."""
        with _translated():
            for _ in obstore.list(self._store, self._key(name), chunk_size=1):
                return IsFolder("keys go on beneath it")
        return NotFound("no such key")

    def _key(self, name: str) -> str:
        """The name, if a key can be called that: the store is not asked for anything else."""
        if not names.is_valid(name, hidden=True) or len(name.encode()) + self._prefix_bytes > KEY_BYTES:
            raise NotFound("not a key")
        return name


def open_bucket(url: str, *, hidden: bool = False) -> ObjectRoot:
    """The objects of `s3://BUCKET/PREFIX`; credentials, region and endpoint come from the environment.

    Asks for one LIST, and blocks for at most some half a minute. Raises CannotServe.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise CannotServe("not a URL like s3://BUCKET/PREFIX (credentials belong into the environment)")
    bucket, prefix = match["bucket"], (match["prefix"] or "").strip("/")
    if prefix and not names.is_valid(prefix, hidden=True):
        raise CannotServe("the prefix has a component that no name may have")
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    if endpoint and not re.match(r"https?://[^/@\s]+/?\Z", endpoint):
        raise CannotServe("AWS_ENDPOINT_URL is not a URL like https://HOST:PORT")
    try:
        store = S3Store(
            bucket,
            prefix=prefix or None,
            client_options=_client_options(allow_http=endpoint.startswith("http:")),
            retry_config=_retry_config(),
        )
        is_empty = not any(True for _ in obstore.list(store, chunk_size=1))
    except (exceptions.BaseError, OSError, ValueError) as problem:
        raise CannotServe(_why_not(str(problem), bucket, endpoint)) from problem
    root = ObjectRoot(store, "/".join(filter(None, ("s3:/", bucket, prefix))), prefix=prefix, hidden=hidden)
    if is_empty:
        log.warning("no key begins with %s/", root.path)
    return root


def _client_options(*, allow_http: bool) -> "ClientConfig":
    return {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=ATTEMPT_S),
    }


def _retry_config() -> "RetryConfig":
    return {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {"max_backoff": timedelta(seconds=1)},
    }


def _why_not(text: str, bucket: str, endpoint: str) -> str:
    """What the operator can do about the answer to the first LIST."""
    for pattern, reason in _REASONS:
        if re.search(pattern, text):
            return reason.format(bucket=bucket, store=endpoint or "the store")
    return _brief(text)


@contextmanager
def _translated() -> Iterator[None]:
    """obstore's errors as FileErrors."""
    try:
        yield
    except (exceptions.BaseError, OSError, ValueError) as problem:
        raise _meaning(problem)(_brief(str(problem))) from problem


def _meaning(problem: Exception) -> type[FileError]:
    """obstore has classes for some of what a store can say; the rest only its text tells apart."""
    if isinstance(problem, FileNotFoundError):
        return NotFound
    if isinstance(problem, exceptions.PreconditionError):
        return Changed
    text = str(problem)
    if "Requested range was invalid" in text:  # LocalStore, which has no statuses
        return OutOfRange
    return _STATUSES.get(_status(text) or "", Exhausted if _is_lost(text) else DiskFailure)


def _status(text: str) -> str | None:
    """The HTTP status in an error's structure, which comes after everything that others have written."""
    found = re.search(r"\bStatus \{\s*status: (\d{3})\b", text.rpartition(_STRUCTURE)[2])
    return found[1] if found else None


def _is_lost(text: str) -> bool:
    """Whether it was the connection to the store that failed."""
    lost = r"\bHttpError \{\s*kind: (?:Timeout|Connect|Request|Interrupted)\b"
    return re.search(lost, text.rpartition(_STRUCTURE)[2]) is not None


def _brief(text: str) -> str:
    """An error for a line of the log: without its structure, and without a password in a URL."""
    said = " ".join(text.partition(_STRUCTURE)[0].split())
    return re.sub(r"//[^/@\s]*@", "//", said)[:300]


def _refuse(*, cached: bool) -> None:
    if cached:
        raise BlockingIOError(errno.EAGAIN, "only the store knows")
