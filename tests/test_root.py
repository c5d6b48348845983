"""The real tree, hostile and odd, under both containments: the kernel's, and the portable comparison of paths."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path

import pytest

from fileserver import names, openat2, positioned
from fileserver import root as rooms
from fileserver.root import (
    Changed,
    DiskFailure,
    Exhausted,
    FileError,
    FolderEntry,
    Forbidden,
    Identity,
    IsFolder,
    NotFound,
    Root,
)
from lrucache import CHUNK_BYTES
from tests.program import PROJECT

SECRET = b"beside the root"
LARGE = bytes(range(251)) * (2 * CHUNK_BYTES // 251) + b"the end"

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the tree has pipes, sockets and links"),
    pytest.mark.timeout(20),  # an open that waits for a pipe's writer waits for ever
]


@pytest.fixture
def large(folder: Path) -> Path:
    """A file of the test's own to change, and another to change it for."""
    (folder / "plain").write_bytes(b"plain")
    (folder / "large").write_bytes(LARGE)
    return folder / "large"


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"))


@pytest.fixture(autouse=True)
def _every_descriptor_is_given_back() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() <= before


@contextmanager
def contained(folder: Path, containment: str) -> Iterator[Root]:
    """A root over `folder`, kept in by the "kernel" or by the "portable" comparison."""
    root = Root(str(folder), portable=containment == "portable")
    try:
        if root.kernel_enforced is not (containment == "kernel"):
            pytest.skip("this kernel has no openat2")
        yield root
    finally:
        root.close()


@pytest.fixture(params=["kernel", "portable"])
def root(request: pytest.FixtureRequest, folder: Path) -> Iterator[Root]:
    """A root over a folder of the test's own, once for each containment."""
    with contained(folder, request.param) as root:
        yield root


@pytest.fixture(params=["kernel", "portable"])
def tree_root(request: pytest.FixtureRequest, tree: Path) -> Iterator[Root]:
    """A root over `tree`, once for each containment."""
    with contained(tree, request.param) as root:
        yield root


@pytest.fixture
def kernel_root(tree: Path) -> Iterator[Root]:
    """A root over `tree` that knows what the kernel has cached."""
    root = Root(str(tree))
    if not root.knows_cached:
        root.close()
        pytest.skip("the temporary folder is on no file system that openat2 answers for from memory")
    yield root
    root.close()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of thing that can lie in a folder or beside it; tests leave it as it is."""
    beside = tmp_path_factory.mktemp("beside")
    folder = beside / "served"
    (beside / "secret").write_bytes(SECRET)
    (beside / "served-too").mkdir()
    (beside / "served-too" / "secret").write_bytes(SECRET)
    (folder / "folder" / "deep").mkdir(parents=True)
    (folder / "folder" / "inner").write_bytes(b"inner")
    for name in ("plain", "a b", "100%", "a%2Fb", "a#b", "a?b", "-", "grün", "n" * 255, "ü" * 127, ".hidden"):
        (folder / name).write_bytes(name.encode())
    (folder / "empty").touch()
    (folder / "large").write_bytes(LARGE)
    links: dict[str, str | Path] = {
        "link": "plain",
        "link-to-link": "link",
        "link-to-folder": "folder",
        "folder/up": "../plain",
        "absolute-in": folder / "plain",
        "out-and-in": "../served/plain",
        "out": "../secret",
        "out-absolute": beside / "secret",
        "out-sibling": "../served-too/secret",
        "out-folder": "..",
        "out-folder-absolute": beside,
        "out-by-link": "out",
        "folder/out": "../../secret",
        "dangling": "missing",
        "loop": "loop",
        "magic": "/proc/self/root/etc/passwd",
        "magic-descriptor": "/proc/self/fd/0",
        "link-to-pipe": "pipe",
    }
    for link, target in links.items():
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with chdir(folder), socket.socket(socket.AF_UNIX) as listener:  # a socket's path is at most 108 bytes
        listener.bind("socket")
    return folder


def content(root: Root, name: str) -> bytes:
    """All of the file, chunk by chunk."""
    descriptor, identity, first = root.open(name, 1 << 30)
    assert first is not None
    if descriptor < 0:
        return first
    try:
        rest = range(len(first), identity.size, CHUNK_BYTES)
        return first + b"".join(root.read(descriptor, identity, offset, CHUNK_BYTES) for offset in rest)
    finally:
        os.close(descriptor)


# What both containments agree on. Most of these never get past `names`; containment must not depend on that.
ANSWERS: list[tuple[str, bytes | type[FileError]]] = [
    ("plain", b"plain"),
    ("folder/inner", b"inner"),
    ("empty", b""),
    ("large", LARGE),
    *((name, name.encode()) for name in ("a b", "100%", "a%2Fb", "a#b", "a?b", "-", "grün", ".hidden")),
    ("n" * 255, b"n" * 255),
    ("ü" * 127, "ü".encode() * 127),
    ("n" * 256, NotFound),
    ("ü" * 128, NotFound),
    ("n/" * 3000 + "n", NotFound),
    ("Plain ", NotFound),
    ("missing", NotFound),
    ("missing/inner", NotFound),
    ("plain/inner", NotFound),
    (".", IsFolder),
    ("folder", IsFolder),
    ("folder/deep", IsFolder),
    ("link", b"plain"),
    ("link-to-link", b"plain"),
    ("link-to-folder", IsFolder),
    ("link-to-folder/inner", b"inner"),
    ("folder/up", b"plain"),
    ("..", NotFound),
    ("../secret", NotFound),
    ("../served-too/secret", NotFound),
    ("folder/../../secret", NotFound),
    ("link-to-folder/../../secret", NotFound),
    ("/etc/passwd", NotFound),
    ("//etc/passwd", NotFound),
    ("{beside}/secret", NotFound),
    ("out", NotFound),
    ("out-absolute", NotFound),
    ("out-sibling", NotFound),
    ("out-folder", NotFound),
    ("out-folder/secret", NotFound),
    ("out-folder-absolute/secret", NotFound),
    ("out-by-link", NotFound),
    ("folder/out", NotFound),
    ("link-to-folder/out", NotFound),
    ("dangling", NotFound),
    ("loop", NotFound),
    ("loop/inner", NotFound),
    ("magic", NotFound),
    ("magic-descriptor", NotFound),
    ("pipe", NotFound),
    ("link-to-pipe", NotFound),
    ("socket", NotFound),
]


@pytest.mark.parametrize(("name", "expected"), ANSWERS, ids=[name[:30] for name, _ in ANSWERS])
def test_a_name_is_a_regular_file_beneath_the_root_or_the_right_error(
    tree_root: Root, tree: Path, name: str, expected: bytes | type[FileError]
) -> None:
    name = name.replace("{beside}", str(tree.parent))
    if isinstance(expected, bytes):
        assert content(tree_root, name) == expected
        assert tree_root.stat(name).size == len(expected)
        return
    for ask in (tree_root.open, tree_root.stat):
        with pytest.raises(FileError) as raised:
            ask(name)
        assert type(raised.value) is expected


@pytest.mark.parametrize("name", ["absolute-in", "out-and-in"])
def test_a_link_that_comes_back_by_way_of_the_outside_is_refused_by_the_kernel_only(
    tree_root: Root, name: str
) -> None:
    if tree_root.kernel_enforced:
        with pytest.raises(NotFound):
            tree_root.open(name)
    else:
        assert content(tree_root, name) == b"plain"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only /proc has magic links")
@pytest.mark.parametrize("portable", [False, True])
def test_a_magic_link_of_the_root_itself_leads_nowhere(folder: Path, portable: bool) -> None:
    (folder / "plain").write_bytes(b"plain")
    root = Root("/proc/self", portable=portable)
    with (folder / "plain").open("rb") as file:
        for name in ("root/etc/passwd", "cwd/pyproject.toml", "exe", f"fd/{file.fileno()}"):
            with pytest.raises(NotFound):
                root.open(name)
    root.close()


def test_a_device_is_not_found(root: Root, folder: Path) -> None:
    try:
        os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(NotFound):
        root.open("null")


def test_a_link_put_in_place_after_the_portable_check_is_not_followed(folder: Path) -> None:
    class Raced(Root):
        def _resolved(self, name: str) -> str:
            real = super()._resolved(name)
            os.unlink(real)
            os.symlink("../secret", real)
            return real

    (folder.parent / "secret").write_bytes(SECRET)
    (folder / "plain").write_bytes(b"plain")
    root = Raced(str(folder), portable=True)
    with pytest.raises(NotFound):
        root.open("plain", 1000)
    root.close()


AS_NOBODY = """
import os, sys
from fileserver.root import Root
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
root = Root(sys.argv[1], portable=sys.argv[2] == "portable")
for name in ("readable", "unreadable", "closed/inner"):
    try:
        print(name, root.open(name, 100).first)
    except Exception as error:
        print(name, type(error).__name__)
"""


@pytest.mark.parametrize("containment", ["kernel", "portable"])
def test_a_file_this_process_may_not_read_is_forbidden(containment: str) -> None:
    with tempfile.TemporaryDirectory() as served:  # tmp_path is closed to other users
        folder = Path(served)
        (folder / "closed").mkdir()
        for name in ("readable", "unreadable", "closed/inner"):
            (folder / name).write_bytes(b"x")
        (folder / "unreadable").chmod(0)
        (folder / "closed").chmod(0)
        folder.chmod(0o755)
        command = [sys.executable, "-c", AS_NOBODY, served, containment]
        said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False)
        (folder / "closed").chmod(0o700)
    assert said.stdout.splitlines() == ["readable b'x'", "unreadable Forbidden", "closed/inner Forbidden"], said


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (errno.EACCES, Forbidden),
        (errno.EPERM, Forbidden),
        (errno.EMFILE, Exhausted),
        (errno.ENFILE, Exhausted),
        (errno.ENOMEM, Exhausted),
        (errno.ENXIO, NotFound),
        (errno.EIO, DiskFailure),
        (errno.ESTALE, DiskFailure),
    ],
)
def test_what_the_system_says_becomes_one_error_wherever_it_says_it(
    root: Root, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, meaning: type[FileError]
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    (folder / "plain").write_bytes(b"plain")
    asks: dict[tuple[object, str], list[Callable[[], object]]] = {
        (openat2.Opener if root.kernel_enforced else os, "open"): [
            lambda: root.open("plain"),
            lambda: root.stat("plain"),
            lambda: root.list(""),
        ],
        (positioned, "read"): [lambda: root.open("plain", 5)],
        (os, "fstat"): [lambda: root.open("plain"), lambda: root.stat("plain")],
    }
    for (room, function), doing in asks.items():
        with monkeypatch.context() as patched:
            patched.setattr(room, function, fail)
            for ask in doing:
                with pytest.raises(FileError) as raised:
                    ask()
                assert type(raised.value) is meaning


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")
def test_an_open_that_may_wait_never_says_that_it_would(root: Root, folder: Path) -> None:
    import fcntl

    (folder / "leased").write_bytes(b"leased")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with (folder / "leased").open("r+b") as holder:
            try:
                fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError:
                pytest.skip("this file system has no leases")
            with suppress(FileError):
                content(root, "leased")
    finally:
        signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize("which", ["missing", "plain"])
def test_a_root_is_a_folder_or_an_error(folder: Path, which: str) -> None:
    (folder / "plain").touch()
    with pytest.raises(OSError, match=which):
        Root(str(folder / which))


def test_no_public_traversal_reaches_a_file_beside_the_root(shared_lists: Path, tree: Path) -> None:
    secret = tree.parent / "secret"
    templates = (shared_lists / "traversal_templates.txt").read_bytes().splitlines()
    wanted: set[str] = set()
    for template in templates:
        for file in (b"etc/passwd", b"secret", os.fsencode(secret)[1:]):
            target = template.replace(b"{FILE}", file)
            with suppress(names.BadTarget):
                name, _ = names.decode_target(target if target.startswith(b"/") else b"/" + target)
                wanted.add(name or "")
    assert sum(map(names.is_valid, wanted)) > 500
    aimed_well = [name for name in wanted if os.path.realpath(os.path.join(tree, name)) == str(secret)]
    assert aimed_well
    assert not any(map(names.is_valid, aimed_well))

    passwd = Path("/etc/passwd").read_bytes()
    for portable in (False, True):
        root = Root(str(tree), portable=portable)
        for name in wanted:  # the valid ones, and those that containment alone has to stop
            with suppress(FileError):
                assert content(root, name) not in (SECRET, passwd), name
        root.close()


# Listings


def test_a_listing_shows_folders_first_and_only_what_can_be_asked_for(root: Root, folder: Path) -> None:
    (folder.parent / "secret").write_bytes(SECRET)
    long = "n" * 200
    for name in ("zoo", "Bar", ".git"):
        (folder / name).mkdir()
    for name in ("b", "B", "a", "ä", long, ".hidden", "two\nlines"):
        (folder / name).write_bytes(b"12345")
    Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe4")).touch()
    for link, target in {
        "link": "b",
        "link-to-folder": "zoo",
        "out": "../secret",
        "out-folder": "..",
        "dangling": "missing",
        "loop": "loop",
        "link-to-pipe": "pipe",
    }.items():
        (folder / link).symlink_to(target)
    os.mkfifo(folder / "pipe")
    for name in (*os.listdir(folder), "."):
        with suppress(OSError):
            os.utime(folder / name, ns=(0, 10**9), follow_symlinks=False)
    os.utime(folder / "b", ns=(0, 1_500_000_000))

    listing = root.list("")
    assert not listing.truncated
    assert listing.entries == [
        FolderEntry("Bar", True, 0, 1.0),
        FolderEntry("link-to-folder", True, 0, 1.0),
        FolderEntry("zoo", True, 0, 1.0),
        FolderEntry("B", False, 5, 1.0),
        FolderEntry("a", False, 5, 1.0),
        FolderEntry("b", False, 5, 1.5),
        FolderEntry("link", False, 5, 1.5),
        FolderEntry(long, False, 5, 1.0),
        FolderEntry("ä", False, 5, 1.0),
    ]


@pytest.mark.parametrize("portable", [False, True])
def test_hidden_names_are_listed_only_when_they_can_be_asked_for(folder: Path, portable: bool) -> None:
    (folder / ".hidden").touch()
    (folder / ".git").mkdir()
    for hidden, expected in ((False, []), (True, [".git", ".hidden"])):
        root = Root(str(folder), hidden=hidden, portable=portable)
        assert [entry.name for entry in root.list("").entries] == expected
        root.close()


@pytest.mark.parametrize("name", ["folder", "link-to-folder"])
def test_a_listing_below_the_root_judges_links_from_where_they_are(tree_root: Root, name: str) -> None:
    assert [entry[:3] for entry in tree_root.list(name).entries] == [
        ("deep", True, 0),
        ("inner", False, 5),
        ("up", False, 5),
    ]


@pytest.mark.parametrize("name", ["..", "out-folder", "missing", "plain", "pipe", "loop", "magic", "n" * 256])
def test_what_is_no_folder_beneath_the_root_cannot_be_listed(tree_root: Root, name: str) -> None:
    with pytest.raises(NotFound):
        tree_root.list(name)


@pytest.mark.parametrize(("files", "truncated"), [(2, False), (3, False), (4, True)])
def test_a_listing_ends_at_its_limit_and_says_so(
    root: Root, folder: Path, monkeypatch: pytest.MonkeyPatch, files: int, truncated: bool
) -> None:
    monkeypatch.setattr(rooms, "LISTING_MAX", 3)
    for number in range(files):
        (folder / str(number)).touch()
    listing = root.list("")
    assert (len(listing.entries), listing.truncated) == (min(files, 3), truncated)


def test_what_is_not_shown_truncates_no_listing(root: Root, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "LISTING_MAX", 3)
    for name in ("a", "b", "c", ".hidden"):
        (folder / name).touch()
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name.startswith("."))
    assert not root._listing("", iter(in_order)).truncated


# Opening


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_file_of_one_chunk_comes_whole_and_closed(root: Root, folder: Path, size: int) -> None:
    (folder / "file").write_bytes(LARGE[:size])
    descriptor, identity, first = root.open("file", size)
    assert identity.size == size
    assert first == LARGE[: min(size, CHUNK_BYTES)]
    assert (descriptor < 0) == (size <= CHUNK_BYTES)
    if descriptor >= 0:
        os.close(descriptor)


@pytest.mark.parametrize(("size", "first_max"), [(0, -1), (1, 0), (1000, 999), (CHUNK_BYTES + 1, CHUNK_BYTES)])
def test_a_file_larger_than_the_first_chunk_is_wanted_for_comes_unread(
    root: Root, folder: Path, size: int, first_max: int
) -> None:
    (folder / "file").write_bytes(LARGE[:size])
    descriptor, identity, first = root.open("file", first_max)
    assert first is None
    assert root.read(descriptor, identity, 0, CHUNK_BYTES) == LARGE[: min(size, CHUNK_BYTES)]
    os.close(descriptor)


def test_the_identity_is_what_stat_says(root: Root, folder: Path) -> None:
    (folder / "file").write_bytes(b"12345")
    os.utime(folder / "file", ns=(0, 1_234_567_891))
    status = os.stat(folder / "file")
    expected = Identity(status.st_dev, status.st_ino, 5, 1_234_567_891, status.st_ctime_ns)
    assert root.stat("file") == root.open("file", 5).identity == expected


# Asking only what the kernel has in memory


@pytest.mark.parametrize("name", ["plain", "empty", "missing", "folder", "out", ".."])
def test_the_portable_way_never_knows_what_is_cached(tree: Path, name: str) -> None:
    root = Root(str(tree), portable=True)
    assert not root.knows_cached
    for ask in (root.open, root.stat):
        with pytest.raises(BlockingIOError):
            ask(name, cached=True)
    root.close()


def test_the_kernel_opens_what_it_has_cached_and_waits_for_nothing_else(kernel_root: Root) -> None:
    identity = kernel_root.stat("plain")
    assert kernel_root.stat("plain", cached=True) == identity
    with pytest.raises(IsFolder):
        kernel_root.open("folder", cached=True)
    with pytest.raises(NotFound):
        kernel_root.open("pipe", cached=True)
    for leads_out in ("..", "../secret", "/etc/passwd", "out", "out-folder/secret", "magic"):
        with pytest.raises(BlockingIOError):
            kernel_root.open(leads_out, 1000, cached=True)


def test_a_cached_open_whose_read_would_wait_comes_unread(
    kernel_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cold(*_: object) -> bytes:
        raise BlockingIOError

    monkeypatch.setattr(positioned, "read_cached", cold)
    descriptor, identity, first = kernel_root.open("plain", 1000, cached=True)
    assert first is None
    with pytest.raises(BlockingIOError):
        kernel_root.read(descriptor, identity, 0, 5, cached=True)
    assert kernel_root.read(descriptor, identity, 0, 5) == b"plain"
    os.close(descriptor)


# Reading


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, CHUNK_BYTES), (1, CHUNK_BYTES), (CHUNK_BYTES, 17), (len(LARGE) - 5, 100), (len(LARGE), 100)],
)
@pytest.mark.parametrize("cached", [False, True])
def test_a_read_gives_exactly_its_range_and_less_only_at_the_end(
    tree_root: Root, offset: int, length: int, cached: bool
) -> None:
    descriptor, identity, _ = tree_root.open("large")
    try:
        assert (
            tree_root.read(descriptor, identity, offset, length, cached=cached) == LARGE[offset : offset + length]
        )
    except BlockingIOError:
        pytest.skip("this file system cannot say what it has cached")
    finally:
        os.close(descriptor)


def grow_under_the_old_stamp(path: Path) -> None:
    before = path.stat().st_mtime_ns
    os.truncate(path, len(LARGE) + 1)
    os.utime(path, ns=(0, before))


def rewrite(path: Path) -> None:
    before = path.stat().st_mtime_ns
    path.write_bytes(LARGE[::-1])
    os.utime(path, ns=(0, before + 1))  # the clock of the stamps may not have ticked


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: os.truncate(path, 10), id="truncated"),
        pytest.param(lambda path: os.truncate(path, 0), id="emptied"),
        pytest.param(lambda path: os.truncate(path, len(LARGE) + 1), id="grown"),
        pytest.param(grow_under_the_old_stamp, id="grown-under-the-old-stamp"),
        pytest.param(rewrite, id="rewritten"),
        pytest.param(lambda path: os.utime(path, ns=(0, 10**9)), id="touched"),
    ],
)
@pytest.mark.parametrize("during", [False, True], ids=["before", "during"])
def test_a_file_that_changes_under_its_reader_is_changed(
    root: Root,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    during: bool,
) -> None:
    read = positioned.read

    def read_then_change(descriptor: int, length: int, offset: int) -> bytes:
        got = read(descriptor, length, offset)
        change(large)
        return got

    descriptor, identity, _ = root.open("large")
    if during:
        monkeypatch.setattr(positioned, "read", read_then_change)
    else:
        change(large)
    with pytest.raises(Changed):
        root.read(descriptor, identity, CHUNK_BYTES, 100)
    os.close(descriptor)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.rename(path.with_name("other")), id="renamed"),
        pytest.param(lambda path: os.link(path, path.with_name("other")), id="linked"),
        pytest.param(lambda path: path.chmod(0o400), id="chmod"),
        pytest.param(lambda path: path.unlink(), id="deleted"),
        pytest.param(lambda path: path.with_name("plain").replace(path), id="replaced"),
    ],
)
def test_a_file_whose_name_or_mode_alone_changes_is_the_same_to_its_reader(
    root: Root, large: Path, change: Callable[[Path], None]
) -> None:
    descriptor, identity, _ = root.open("large")
    change(large)
    assert root.identity(descriptor) != identity, "the change must show in ctime"
    assert root.read(descriptor, identity, 7, 100) == LARGE[7:107]
    os.close(descriptor)
