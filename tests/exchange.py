"""Requests as bytes, and answers taken apart: what every test that looks at the wire itself needs."""

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def split(answer: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields (lower-case names), body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    return int(first.split()[1]), fields, body
