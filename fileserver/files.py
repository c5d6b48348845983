"""What a request for a file is answered with: the whole, a part, or why neither; as it is or precompressed."""

from typing import NamedTuple

from fileserver import conditional, digests, wire
from fileserver.fills import Stored
from fileserver.negotiation import CODINGS, accepted_codings, wants_sha_256
from fileserver.precompressed import Precompressed
from fileserver.replies import Reply, cache_fields, error
from fileserver.representation import Representation
from fileserver.root import Changed, Forbidden, IsFolder, NotFound
from fileserver.store import Body, Store
from fileserver.traffic import Traffic
from lrucache import Entry, Outcome


class Variant(NamedTuple):
    """Which file answers a request for another: itself, or its form in a content coding."""

    name: str
    coding: str
    original: str

    def described(self, representation: Representation) -> Representation:
        """What is in that file, as the form of the one that was asked for."""
        return representation.encoded(self.coding, self.original) if self.coding else representation


class Whole(NamedTuple):
    """A file in memory, and the header lines, to the end of the head, with which the whole of it is answered."""

    entry: Entry
    outcome: Outcome
    fields: bytes


class Files:
    """The files of one store over HTTP. Methods may switch greenlets and raise FileError.

    `download` has browsers save what they get; `precompressed` (None: off) knows the files' other forms.
    """

    def __init__(
        self,
        store: Store,
        traffic: Traffic,
        *,
        download: bool = False,
        precompressed: Precompressed | None = None,
        every_fields: bytes = b"",
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._precompressed = precompressed
        self._digests = digests.Digests()
        self._disposition = b"Content-Disposition: attachment\r\n" if download else b""
        self._vary = b"Vary: Accept-Encoding\r\n" if precompressed is not None else b""
        self._every_fields = every_fields

    def answer(self, request: wire.Request, name: str) -> Reply:
        """The answer to a GET or HEAD of `name`."""
        itself = Variant(name, "", name)
        if self._precompressed is None:
            return self._answer(request, itself)
        variant = self._variant(request, itself, self._precompressed)
        try:
            return self._answer(request, variant)
        except (NotFound, IsFolder, Forbidden, Changed):
            if variant is itself:
                raise
            self._precompressed.forget(name)  # it has gone since it was seen
            return self._answer(request, itself)

    def hit_fields(self, entry: Entry) -> bytes:
        """The header lines, to the end of the head, with which a HIT of the whole of `entry` is answered.

        The same as `answer` would give; rendered once and kept in its `meta`.
        """
        stored: Stored = entry.meta
        if not stored.hit_fields:
            stored.hit_fields = self._whole_fields(stored.representation, cache_fields(Outcome.HIT))
        return stored.hit_fields

    def whole_now(self, name: str, now_s: float) -> Whole | None:
        """A valid name's file, if that takes no wait; else `answer` knows. Never switches greenlets."""
        found = self._store.get_now(name, now_s)
        if found is None:
            return None
        entry, outcome, detail = found
        if outcome is Outcome.HIT:
            return Whole(entry, outcome, self.hit_fields(entry))
        return Whole(entry, outcome, self._whole_fields(entry.meta.representation, cache_fields(outcome, detail)))

    def _whole_fields(self, representation: Representation, cache_status: bytes) -> bytes:
        return b"".join(
            (representation.fields, self._disposition, self._vary, cache_status, self._every_fields, b"\r\n")
        )

    def whole(self, name: str) -> Reply:
        """The file without a head, for the one-line protocol."""
        body = self._body(name)
        return Reply(200, b"", body=body, end=body.size)

    def _variant(self, request: wire.Request, itself: Variant, precompressed: Precompressed) -> Variant:
        """The precompressed form that the client likes best, if it likes one and there is one."""
        accepted = accepted_codings(request.fields.get(b"accept-encoding", b""))
        there = precompressed.codings(itself.name) if accepted else frozenset()
        for coding in accepted:
            if coding in there:
                return Variant(itself.name + CODINGS[coding], coding, itself.name)
        return itself

    def _answer(self, request: wire.Request, variant: Variant) -> Reply:
        is_head = request.method == b"HEAD"
        wants_digest = wants_sha_256(request.fields.get(b"want-repr-digest", b""))
        if is_head or not conditional.FIELDS.isdisjoint(request.fields):
            # Judged on a look, so that what needs no payload starts no fill and counts as no answer.
            described = self._store.describe(variant.name)
            cache_status = cache_fields(Outcome.HIT) if described.stored is not None else b""
            if is_head and wants_digest and described.stored is not None:
                cache_status += digests.field(described.stored.digest)
            reply = self._reply(request, variant.described(described.representation), cache_status)
            if is_head or reply.status not in (200, 206):
                return reply
        body = self._body(variant.name)
        try:
            cache_status = cache_fields(body.outcome, body.detail)
            if wants_digest:
                cache_status += digests.field(self._digests.of(body))
            reply = self._reply(request, variant.described(body.representation), cache_status, body)
        except BaseException:
            body.close()
            raise
        if reply.body is None:
            # Another version has come since the look. It has been counted as an answer, and is none.
            body.close()
        return reply

    def _body(self, name: str) -> Body:
        body = self._store.get(name)
        self._traffic.file_answers += 1
        return body

    def _reply(
        self, request: wire.Request, representation: Representation, cache_status: bytes, body: Body | None = None
    ) -> Reply:
        """Status and fields; of 200 and 206 also which bytes of `body`, and where they come from."""
        status, start, end = conditional.evaluate(request.fields, representation)
        if status == 304:
            return Reply(304, representation.not_modified_fields + self._vary)
        if status == 412:
            return error(412, "the file is another version")
        if status == 416:
            size = representation.identity.size
            return error(416, f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
        described = representation.fields if status == 200 else representation.part_fields(start, end)
        return Reply(status, described + self._disposition + self._vary + cache_status, b"", body, start, end)
