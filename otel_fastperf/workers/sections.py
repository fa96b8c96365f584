"""Several texts in one: a line with their names and lengths, and then the texts."""

import json
from collections.abc import Mapping


def packed(sections: Mapping[str, bytes]) -> bytes:
    """Put named texts together."""
    head = json.dumps([[name, len(text)] for name, text in sections.items()]).encode()
    return b"\n".join((head, b"".join(sections.values())))


def section(text: bytes, name: str) -> bytes:
    """One of the texts; empty if it is absent."""
    head, _, rest = text.partition(b"\n")
    start = 0
    for each, length in json.loads(head) if head else ():
        if each == name:
            return rest[start : start + length]
        start += length
    return b""
