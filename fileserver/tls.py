"""The server's side of TLS: which versions and which certificate, and a transport through it."""

import math
import ssl
from contextlib import suppress
from typing import Any

from fileserver.pauses import pause
from fileserver.transport import RECEIVE_BYTES, Buffer, Gone, Transport, Waiting

TLS_SEND_BYTES = 64 * 1024
"""The most one send is offered, and so the most ciphertext of an answer that waits for a slow client: four records
(nginx ssl_buffer_size is one, and costs four times the calls)."""

TLS_PENDING_MAX = 4 * TLS_SEND_BYTES
"""Beyond it the client makes TLS itself answer and reads nothing."""
TLS_TAKES_MAX = 4
"""Receives that may bring nothing but TLS's own messages before others get their turn."""
NONE = memoryview(b"")

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (those of 1.3 are all as good): with forward secrecy, and authenticated."""


def load(certificate: str, key: str | None) -> ssl.SSLContext:
    """A context with the certificate chain and the private key in these PEM files (`key` None: both in one).

    TLS 1.2 and later, forward secrecy, no renegotiation. Raises OSError, and ValueError when the files are not
    what they should be. Blocks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key would make OpenSSL ask on the terminal, and hold everything until somebody answers.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as problem:
        detail = f" ({problem.reason})" if problem.reason else ""
        raise ValueError(f"not a certificate and its key in PEM{detail}") from problem
    return context


class TlsTransport(Transport):
    """A transport through TLS. What is encrypted waits here while the socket is full, at most TLS_PENDING_MAX."""

    is_bare = False
    __slots__ = ("_ciphertext", "_incoming", "_outgoing", "_tls")

    def __init__(self, client: Any, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(client, **options)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ciphertext = NONE
        self.send_bytes = TLS_SEND_BYTES

    def handshake(self, seconds: float) -> bool:
        until_s = self.clock() + seconds
        while True:
            try:
                self._tls.do_handshake()
                self.deadline_s = math.inf
                return True
            except ssl.SSLWantReadError:
                self._push()
            except ssl.SSLError:
                return False  # the alert that says why goes with the goodbye
            self.deadline_s = until_s
            while self.is_full:
                self._wait(self._writable, Waiting.WRITABLE)
                self._push()
            received = self._receive_raw(Waiting.REST_OF_REQUEST)
            if not received:
                return False
            self._incoming.write(received)

    def receive(self, waiting: Waiting) -> bytes:
        # What has been received already makes no socket readable.
        while (received := self.receive_now()) is None:
            self._wait(self._readable, waiting)
        return received

    def receive_now(self) -> bytes | None:
        takes = 0
        while True:
            try:
                return self._tls.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                self._push()  # what TLS itself has to say: the end of the handshake, tickets
            except ssl.SSLError as problem:
                raise Gone from problem
            received = self._take()
            if not received:
                return received
            self._incoming.write(received)
            takes += 1
            if takes % TLS_TAKES_MAX == 0:
                pause()

    def offer(self, buffers: list[Buffer]) -> int:
        taken = 0
        records = [bytes(self._ciphertext)]
        try:
            for buffer in buffers:
                rest = memoryview(buffer)
                while rest:
                    written = self._tls.write(rest)
                    # A record at a time: a BIO keeps the room that it once needed.
                    records.append(self._outgoing.read())
                    rest = rest[written:]
                    taken += written
        except ssl.SSLError as problem:
            raise Gone from problem
        self._ciphertext = memoryview(b"".join(records))
        self._push()
        return taken

    def wait_writable(self) -> None:
        while self.is_full:
            super().wait_writable()
            self._push()

    def _say_goodbye(self) -> None:
        with suppress(ssl.SSLError):
            self._tls.unwrap()  # raises once our close_notify is written; the client's is not waited for
        self._push()

    def _push(self) -> None:
        """Hand over what is encrypted, as far as the socket takes it. Raises Gone."""
        if self._outgoing.pending:
            self._ciphertext = memoryview(bytes(self._ciphertext) + self._outgoing.read())
        if self._ciphertext:
            rest = self._ciphertext[super().offer([self._ciphertext]) :]
            self._ciphertext = rest if rest else NONE  # even an empty slice keeps all of it alive
        self.is_full = bool(self._ciphertext)
        if len(self._ciphertext) > TLS_PENDING_MAX:
            raise Gone
