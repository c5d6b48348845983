"""Three ways to read at an offset give the same bytes; the cached one waits for nothing. And who has openat2."""

import ctypes
import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fileserver import openat2, positioned
from fileserver.positioned import read_cached, read_seeking, read_whole
from lrucache import CHUNK_BYTES

Reader = Callable[[int, int, int], bytes]

CONTENT = os.urandom(CHUNK_BYTES + 1000)

needs_nowait = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux has RWF_NOWAIT")
needs_pread = pytest.mark.skipif(not hasattr(os, "pread"), reason="no pread here")


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """CONTENT, open for reading."""
    (tmp_path / "file").write_bytes(CONTENT)
    with (tmp_path / "file").open("rb") as file:
        yield file.fileno()


@pytest.fixture(
    params=[
        pytest.param(read_cached, marks=needs_nowait),
        pytest.param(read_whole, marks=needs_pread),
        read_seeking,
    ],
    ids=["cached", "whole", "seeking"],
)
def reader(request: pytest.FixtureRequest, descriptor: int) -> Reader:
    """Each way of reading."""
    read: Reader = request.param
    try:
        read(descriptor, 1, 0)
    except BlockingIOError:
        pytest.skip("the temporary folder's file system cannot say what it has cached")
    return read


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 1),
        (0, CHUNK_BYTES),
        (1000, CHUNK_BYTES),
        (1001, CHUNK_BYTES),
        (len(CONTENT) - 1, 10),
        (len(CONTENT), 10),
        (len(CONTENT) + 10, 10),
    ],
)
def test_every_way_of_reading_gives_the_same_bytes(
    reader: Reader, descriptor: int, offset: int, length: int
) -> None:
    content = reader(descriptor, length, offset)
    reader(descriptor, 100, 5)
    assert type(content) is bytes, "a view of the scratch buffer would change under its holder"
    assert content == CONTENT[offset : offset + length]


def test_every_way_of_reading_asks_on_while_the_system_gives_little(
    reader: Reader, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv, pread, read = os.preadv, os.pread, os.read

    def little_preadv(descriptor: int, buffers: Sequence[Any], offset: int, flags: int) -> int:
        return preadv(descriptor, [buffers[0][:7]], offset, flags)

    monkeypatch.setattr(os, "preadv", little_preadv)
    monkeypatch.setattr(os, "pread", lambda descriptor, length, offset: pread(descriptor, min(length, 7), offset))
    monkeypatch.setattr(os, "read", lambda descriptor, length: read(descriptor, min(length, 7)))
    assert reader(descriptor, 100, 3) == CONTENT[3:103]
    assert reader(descriptor, 100, len(CONTENT) - 20) == CONTENT[-20:]


def test_threads_that_share_a_position_do_not_move_it_under_each_other(descriptor: int) -> None:
    def agrees(offset: int) -> bool:
        return read_seeking(descriptor, 64, offset) == CONTENT[offset : offset + 64]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(agrees, range(0, CHUNK_BYTES, 64)))


def test_a_system_without_nowait_never_says_what_it_has_cached(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    with pytest.raises(BlockingIOError):
        read_cached(descriptor, 1, 0)


@needs_nowait
@pytest.mark.parametrize(
    ("number", "waits"),
    [(errno.EAGAIN, True), (errno.EOPNOTSUPP, True), (errno.EINVAL, True), (errno.EIO, False)],
)
@pytest.mark.parametrize("got_before", [0, 7])
def test_a_cached_read_is_all_or_blocking_and_a_fault_stays_a_fault(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, number: int, waits: bool, got_before: int
) -> None:
    answers = [got_before] if got_before else []
    flags_seen = set()

    def preadv(_descriptor: int, _buffers: object, _offset: int, flags: int) -> int:
        flags_seen.add(flags)
        if answers:
            return answers.pop()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match=r".") as raised:
        read_cached(descriptor, 100, 0)
    assert isinstance(raised.value, BlockingIOError) is waits
    assert waits or raised.value.errno == number
    assert flags_seen == {os.RWF_NOWAIT}


@needs_nowait
def test_bytes_that_only_the_disk_has_are_not_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "cold").open("w+b", buffering=0) as file:
        file.write(CONTENT)
        try:
            read_cached(file.fileno(), 1, 0)
        except BlockingIOError:
            pytest.skip("the temporary folder's file system cannot say what it has cached")
        for _ in range(100):  # advice that the kernel may leave for later while somebody else uses the pages
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                read_cached(file.fileno(), 100, CHUNK_BYTES // 2)
            except BlockingIOError:
                break
            time.sleep(0.01)
        else:
            pytest.fail("what only the disk has was read without waiting")
        assert read_whole(file.fileno(), CHUNK_BYTES, 0) == CONTENT[:CHUNK_BYTES]
        assert read_cached(file.fileno(), CHUNK_BYTES, 0) == CONTENT[:CHUNK_BYTES]


# Who has openat2


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a folder."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def syscall_that_fails(number: int) -> Callable[..., int]:
    def syscall(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return syscall


def no_c_library(*_: object, **__: object) -> object:
    raise OSError("no C library here")


def test_other_systems_have_no_openat2(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syscall=lambda *_: os.dup(directory)))
    for platform in ("darwin", "win32", "freebsd14"):
        monkeypatch.setattr(sys, "platform", platform)
        assert openat2.probe(directory, os.O_RDONLY) is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_or_sandbox_without_openat2_is_noticed(
    directory: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    library = SimpleNamespace(syscall=syscall_that_fails(number))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    assert openat2.probe(directory, os.O_RDONLY) is None


@pytest.mark.parametrize("library", [no_c_library, lambda *_, **__: SimpleNamespace()])
def test_a_system_without_a_c_library_has_no_openat2(
    directory: int, monkeypatch: pytest.MonkeyPatch, library: Callable[..., object]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", library)
    assert openat2.probe(directory, os.O_RDONLY) is None


@pytest.fixture
def local(directory: int) -> openat2.Opener:
    """The opener of a kernel and a file system that know what is cached."""
    opener = openat2.probe(directory, os.O_RDONLY)
    if opener is None or not opener.knows_cached:
        pytest.skip("no openat2 with RESOLVE_CACHED for the temporary folder")
    return opener


def test_a_kernel_that_knows_no_resolve_cached_keeps_the_rest(
    local: openat2.Opener, directory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ctypes.CDLL(None, use_errno=True)

    def old_syscall(number: int, at: int, name: bytes, how: Any, size: int) -> int:
        if how._obj.resolve & 0x20:
            return syscall_that_fails(errno.EINVAL)()
        descriptor: int = library.syscall(number, at, name, how, size)
        return descriptor

    old = SimpleNamespace(syscall=old_syscall, fstatfs=library.fstatfs)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: old)
    opener = openat2.probe(directory, os.O_RDONLY)
    assert opener is not None
    assert not opener.knows_cached
    os.close(opener.open("."))
    with pytest.raises(BlockingIOError):
        opener.open(".", cached=True)


def test_only_file_systems_known_to_answer_from_memory_claim_to(local: openat2.Opener) -> None:
    directory = os.open("/proc", os.O_RDONLY)
    opener = openat2.probe(directory, os.O_RDONLY)
    assert opener is not None
    assert not opener.knows_cached
    os.close(opener.open("version"))
    with pytest.raises(BlockingIOError):
        opener.open("version", cached=True)
    os.close(directory)


def test_a_cached_open_stays_on_the_roots_own_file_system() -> None:
    directory = os.open("/", os.O_RDONLY)
    opener = openat2.probe(directory, os.O_RDONLY)
    try:
        if opener is None or not opener.knows_cached or not os.path.ismount("/dev/shm"):
            pytest.skip("no openat2 with RESOLVE_CACHED for /, or no other file system in it")
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
            os.close(opener.open(file.name[1:]))
            with pytest.raises(BlockingIOError):
                opener.open(file.name[1:], cached=True)
    finally:
        os.close(directory)


def test_the_reading_in_use_is_the_one_without_a_shared_position() -> None:
    assert positioned.read is (read_whole if hasattr(os, "pread") else read_seeking)
