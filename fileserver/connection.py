"""One client's connection: read a request, answer it, keep alive. The greenlet that StreamServer spawns runs this.

One rule shapes it. Payload is referred to only during a non-blocking send: when the socket is full, every buffer
is dropped, the greenlet waits until it is writable and asks the Body again, so ten thousand slow readers hold no
more of the cache's memory than none.
"""

import logging

from fileserver import heads, site, wire
from fileserver.accesslog import Access
from fileserver.fastpath import JOIN_BYTES, FastPath, Unfinished, log_plain
from fileserver.pauses import pause
from fileserver.replies import Reply, Stream, one_line
from fileserver.root import FileError
from fileserver.store import Body
from fileserver.traffic import METHODS
from fileserver.transport import Buffer, Expired, Gone, Stalled, Transport, Waiting
from lrucache import Outcome

HEAD_S = 10.0
"""From a request's first byte to the end of its head and body, and for a handshake (Apache mod_reqtimeout; nginx
has 60). Whoever was told to go on with the body has it once more."""
IDLE_S = 60.0
"""Between two requests (nginx keepalive_timeout is 75)."""
FIRST_S = 1.0
"""How long a stop waits for who has connected and said nothing yet: a round trip, most likely, after which his
request comes (nginx has keepalive_min_timeout for it)."""

BURST = 128
"""Answers that one connection may have without waiting before others get their turn."""

log = logging.getLogger("gserver")


class Connection:
    """Serves one client until either side ends it. Owns the transport and closes it.

    `address` is the client's, for the access log.
    """

    __slots__ = (
        "_address",
        "_asked_s",
        "_began_s",
        "_fast",
        "_first_s",
        "_head_bytes",
        "_idle_s",
        "_is_last",
        "_is_whole",
        "_reader",
        "_sent",
        "_site",
        "_statuses",
        "_traffic",
        "_transport",
        "_was_slow",
    )

    def __init__(
        self,
        transport: Transport,
        pages: site.Site,
        statuses: heads.StatusLines,
        *,
        idle_s: float = IDLE_S,
        address: bytes = b"-",
    ) -> None:
        self._transport = transport
        self._site = pages
        self._traffic = pages.traffic
        self._statuses = statuses
        self._idle_s = idle_s
        self._address = address
        self._reader = wire.RequestReader()
        self._is_last = False
        self._was_slow = False
        """The last answer took its time: the client may have sent more than was asked of it."""
        self._fast = (
            FastPath(transport, pages, statuses, idle_s=idle_s, address=address)
            if pages.has_fast_path and transport.is_bare
            else None
        )
        # Of the answer under way, to be counted and logged: when the request began to come, and when all of it
        # was there, which is when the answer's time begins; when its first byte was sent.
        self._began_s = self._asked_s = self._first_s = transport.clock()
        self._sent = self._head_bytes = 0
        self._is_whole = False

    def serve(self) -> None:
        """Answer requests in order until the connection ends. Never raises; the socket is closed afterwards."""
        self._traffic.enter(self._transport)
        linger = False
        try:
            linger = not self._transport.handshake(HEAD_S) or self._converse()
        except wire.WireError as problem:
            linger = self._refuse(problem)
        except Expired:
            pass
        except Gone as end:
            self._count_stall(end)
            self._transport.reset()
        except Exception:
            log.exception("a connection failed")
            if self._sent:  # in the middle of an answer nothing else can be said
                self._transport.reset()
            else:
                linger = self._refuse(wire.WireError(500, "internal error"))
        finally:
            self._close(linger)

    def turn_away(self, *, linger: bool = True) -> None:
        """The server is full: say so instead of `serve`. Lingering holds a descriptor for some seconds."""
        self._traffic.enter(self._transport, turned_away=True)
        told = self._refuse(wire.WireError(503, "too many connections, try again"))
        self._close(told and linger)

    def _close(self, linger: bool) -> None:
        try:
            self._transport.close(linger=linger)
        finally:
            self._traffic.leave(self._transport)
            self._reader.close()

    # Reading.

    def _converse(self) -> bool:
        """Answer every request. True when the client may still be sending something we will not read."""
        answered = 0
        while (request := self._next_request()) is not None:
            if isinstance(request, wire.OneLine):
                self._answer_line(request)
                return not self._transport.is_silent()
            if not self._answer(request):
                return not self._reader.is_empty or not self._transport.is_silent()
            self._begin(self._transport.clock())
            answered += 1
            if answered % BURST == 0:
                pause()
        return self._was_slow and not self._transport.is_silent()

    def _begin(self, now_s: float) -> None:
        """What is sent from here on is another answer, to what came then."""
        self._began_s = self._asked_s = now_s
        self._sent = self._head_bytes = 0
        self._is_whole = False

    def _next_request(self) -> wire.Request | wire.OneLine | None:
        """The next request, or None when the client is done. Raises WireError, 408 among them."""
        waiting = Waiting.NOTHING
        while True:
            request = self._reader.next()
            if request is not None:
                return request
            if not self._reader.is_empty:
                if self._reader.expects_continue():
                    self._send_all(heads.CONTINUE)
                    self._begin(self._began_s)
                    waiting = Waiting.NOTHING
                if waiting is not Waiting.REST_OF_REQUEST:
                    waiting = Waiting.REST_OF_REQUEST
                    self._transport.deadline_s = self._transport.clock() + HEAD_S
                received: bytes | None = self._receive_rest()
            else:
                received = self._receive_first()
            if not received:
                return None
            if self._reader.is_empty:
                self._began_s = self._transport.clock()
            self._reader.feed(received)

    def _receive_first(self) -> bytes | None:
        """The beginning of a request. Who may wait no longer still gets an answer to what has come already."""
        while not (self._is_last or self._traffic.draining):
            self._transport.deadline_s = self._transport.clock() + self._idle_s
            heard = self._rest()
            if isinstance(heard, bytes):
                return heard
            if heard is not None:
                try:
                    self._finish(heard)
                except FileError:  # nothing of it was sent, so it can be answered anew
                    return heard.request
                if heard.is_last:
                    self._was_slow = True
                    return b""
        if self._traffic.draining and self._reader.is_new:
            return self._receive_only()
        return self._transport.receive_now()

    def _receive_only(self) -> bytes | None:
        """The same from who was accepted before the server stopped and has said nothing: he is not let down."""
        self._transport.deadline_s = self._transport.clock() + FIRST_S
        try:
            return self._transport.receive(Waiting.REQUEST)
        except Expired:
            return None

    def _rest(self) -> bytes | Unfinished | None:
        """Wait among the idle for what the fast path does not answer; None when the wait has expired."""
        self._traffic.rest(self._transport)
        try:
            if self._fast is not None:
                return self._fast.listen()
            return self._transport.receive(Waiting.REQUEST)
        except Expired:
            self._is_last = True
            return None
        finally:
            if self._fast is not None and self._fast.has_answered:
                self._reader.note_http()
            # A request may have come between the word to give way and its effect.
            self._is_last = self._traffic.wake(self._transport) or self._is_last

    def _finish(self, answer: Unfinished) -> None:
        """Send the rest of what the fast path began."""
        head, body, taken, _, request, began_s = answer
        self._begin(began_s)
        self._first_s, self._sent = self._transport.clock(), taken
        is_answered = True
        try:
            self._send_body(head[taken:], body, max(0, taken - len(head)), body.size, is_begun=taken > 0)
        except FileError:
            is_answered = False
            raise
        finally:
            now_s = self._transport.clock()
            if is_answered:
                self._count("GET", 200, body.outcome, now_s)
            log = self._site.access_log
            if log is not None and is_answered:
                head_bytes, sent, seconds = len(head), self._sent, now_s - began_s
                log_plain(
                    log, self._address, request, body.outcome, head_bytes=head_bytes, sent=sent, seconds=seconds
                )
        self._begin(now_s)

    def _receive_rest(self) -> bytes:
        try:
            return self._transport.receive(Waiting.REST_OF_REQUEST)
        except Expired:
            raise wire.WireError(408, "the request did not arrive in time") from None

    # Answering.

    def _answer(self, request: wire.Request) -> bool:
        """Send one answer. Whether the connection goes on."""
        self._asked_s = self._transport.clock()
        reply = self._site.answer(request, self._address)
        keep_alive = (
            request.keep_alive and not self._traffic.draining and not self._is_last and reply.stream is None
        )
        method = request.method.decode()
        try:
            try:
                self._send_reply(reply, request, keep_alive)
            except FileError as problem:
                reply = self._site.explain(problem)
                self._send_reply(reply, request, keep_alive)
        except Exception as problem:
            self._note_cut(problem, method, reply, request.fields)
            raise
        self._note(method, reply, request.fields)
        return keep_alive

    def _send_reply(self, reply: Reply, request: wire.Request, keep_alive: bool) -> None:
        ending = heads.connection_field(keep_alive=keep_alive, minor=request.minor)
        head = self._statuses[reply.status] + reply.fields + ending
        self._head_bytes = len(head)
        if reply.body is not None:
            self._send_body(head, reply.body, reply.start, reply.end)
        elif reply.stream is not None:
            self._send_stream(head, reply.stream)
        elif request.method == b"HEAD":
            self._send_all(head)
        else:
            self._send_all(head + reply.content)

    def _answer_line(self, line: wire.OneLine) -> None:
        self._asked_s = self._transport.clock()
        reply = self._site.answer_line(line)
        try:
            try:
                if reply.body is not None:
                    self._send_body(b"", reply.body, reply.start, reply.end)
                else:
                    self._send_all(reply.content)
            except FileError as problem:
                reply = self._site.explain(problem)
                self._send_all(one_line(reply).content)
        except Exception as problem:
            self._note_cut(problem, "line", reply)
            raise
        self._note("line", reply)

    def _refuse(self, problem: wire.WireError) -> bool:
        """Say why and close. True when the client may still be sending."""
        reply = self._site.refuse(problem)
        began_s = self._began_s
        self._begin(self._transport.clock())
        self._began_s, method = began_s, "other"
        if isinstance(problem, wire.OneLineError):
            method, answer = "line", one_line(reply).content
        else:
            head = self._statuses[reply.status] + reply.fields + heads.connection_field(keep_alive=False, minor=1)
            answer, self._head_bytes = head + reply.content, len(head)
        try:
            self._send_all(answer)
        except Gone as end:
            self._count_stall(end)
            return False
        finally:
            self._note(method, reply)
        return True

    def _count_stall(self, end: Gone) -> None:
        if isinstance(end, Stalled):
            self._traffic.expired[Waiting.WRITABLE] += 1

    def _count(self, method: str, status: int, outcome: Outcome | None, now_s: float) -> None:
        self._traffic.answered(
            (method if method in METHODS else "other", status, outcome),
            (self._first_s if self._sent else now_s) - self._asked_s,
            now_s - self._asked_s if self._is_whole else None,
        )

    def _note_cut(
        self, problem: Exception, method: str, reply: Reply, fields: dict[bytes, bytes] | None = None
    ) -> None:
        """The same when it ends with `problem`: unless nobody expected that and nothing was sent, for then it is
        answered anew."""
        if self._sent or isinstance(problem, Gone):
            self._note(method, reply, fields)

    def _note(self, method: str, reply: Reply, fields: dict[bytes, bytes] | None = None) -> None:
        """Count the answer that has ended, and log it."""
        now_s = self._transport.clock()
        self._count(method, reply.status, reply.body.outcome if reply.body is not None else None, now_s)
        if self._site.access_log is not None:
            self._site.access_log.add(
                Access(
                    address=self._address,
                    line=self._reader.line,
                    status=reply.status,
                    body_bytes=max(0, self._sent - self._head_bytes),
                    referer=(fields or {}).get(b"referer", b""),
                    agent=(fields or {}).get(b"user-agent", b""),
                    cache=reply.body.outcome.name.encode() if reply.body is not None else b"",
                    bytes_sent=self._sent,
                    seconds=now_s - self._began_s,
                )
            )

    # Writing.

    def _send_all(self, content: bytes) -> None:
        """Send bytes of our own, which are counted as long as they are held. Raises Gone."""
        self._traffic.page_bytes += len(content)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._offer([rest[: self._transport.send_bytes]]) :]
                if self._transport.is_full:
                    self._transport.wait_writable()
            self._is_whole = True
        finally:
            self._traffic.page_bytes -= len(content)

    def _send_stream(self, head: bytes, stream: Stream) -> None:
        """Send a head, and what comes as it comes. Raises Gone."""
        self._traffic.streams.add(self._transport)
        try:
            self._send_all(head)
            while (piece := stream.next()) is not None:
                self._send_all(piece)
        finally:
            self._is_whole = False  # how long somebody watched is no measure of us
            self._traffic.streams.discard(self._transport)
            stream.close()

    def _send_body(self, head: bytes, body: Body, start: int, end: int, *, is_begun: bool = False) -> None:
        """Send a head and the bytes [start, end) of a body, and close the body.

        Raises the body's FileError as long as nothing was sent; later it raises Gone, because a short answer must
        not look whole.
        """
        offset = start
        try:
            while head or offset < end:
                taken = self._offer(self._next_buffers(head, body, offset, end))
                is_begun = is_begun or taken > 0
                offset += max(0, taken - len(head))
                head = head[taken:]
                if self._transport.is_full:
                    if offset < end:
                        body.hold()
                    self._transport.wait_writable()
                elif offset < end:
                    pause()
            self._is_whole = True
        except FileError as problem:
            if not is_begun:
                raise
            self._site.cut_short(body.representation.name, problem)
            raise Gone from problem
        finally:
            body.close()

    def _next_buffers(self, head: bytes, body: Body, offset: int, end: int) -> list[Buffer]:
        """What comes next: of a small file all at once, copied together; of a large one the chunks themselves."""
        if offset >= end:
            return [head]
        buffers = body.read(offset, min(self._transport.send_bytes, end - offset))
        if head and len(buffers) == 1 and len(buffers[0]) <= JOIN_BYTES:
            return [b"".join((head, *buffers))]
        return [head, *buffers] if head else buffers

    def _offer(self, buffers: list[Buffer]) -> int:
        taken = self._transport.offer(buffers)
        if not self._sent:
            self._first_s = self._transport.clock()
        self._sent += taken
        self._traffic.bytes_sent += taken
        return taken
