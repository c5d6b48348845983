"""What a service manager hands over, and what it wants to be told: systemd's protocols, which others speak too.

A listening socket (sd_listen_fds(3)), and datagrams that say "ready", "reloading", "stopping" and, as long as the
loop turns, "alive" (sd_notify(3)). Both are a few environment variables; without them nothing here does anything.
"""

import os
import socket
import time
from collections.abc import MutableMapping

import gevent

from fileserver.bursts import Burst

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


def inherited_socket(environment: MutableMapping[str, str] = os.environ) -> socket.socket | None:
    """The listening TCP socket that this process was started with, if it was; the caller's to close.

    Raises ValueError when there are several, or it is of another kind, OSError when it is not there. The variables
    are removed, so that no child takes it for its own.
    """
    process = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise ValueError(f"{count} of them, and one process serves one")
    os.set_inheritable(FIRST_DESCRIPTOR, False)
    found = socket.socket(fileno=FIRST_DESCRIPTOR)
    is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not is_tcp or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("it is no TCP socket that listens")
    return found


class Manager:
    """Who started us and waits for word, if anybody does. Never waits; what cannot be said is not said."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period_us = environment.pop("WATCHDOG_USEC", "")
        is_ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._period_s = int(period_us) / 1e6 if is_ours and period_us.isdecimal() else 0.0
        self._unheard = Burst("cannot tell the service manager")
        self._watchdog: gevent.Greenlet[[], None] | None = None

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    def serving(self, status: str) -> None:
        """We are ready, and alive from now on; `status` is for people, who get it as one line."""
        self._say(f"READY=1\nSTATUS={' '.join(status.splitlines())}")
        if self._period_s and self._watchdog is None:
            self._watchdog = gevent.spawn(self._feed)

    def reloading(self) -> None:
        """Until `reloaded`."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Ready again, as it was before."""
        self._say("READY=1")

    def stopping(self) -> None:
        """From now on we only finish what we have."""
        self._say("STOPPING=1\nSTATUS=finishing what is being sent")

    def _feed(self) -> None:
        """From a greenlet: a loop that stands still says nothing, and is restarted."""
        while True:
            self._say("WATCHDOG=1")
            gevent.sleep(self._period_s / 2)

    def _say(self, words: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(words.encode(errors="backslashreplace"), self._address)
        except OSError as problem:
            self._unheard(problem.strerror)
