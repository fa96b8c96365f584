"""Attributes that many spans have in common, which are kept and encoded once."""

from typing import Any


class SharedAttributes(dict[str, Any]):
    """Attributes of plain types, and fewer than any sensible limit. Never changed once a span has them.

    Attributes:
        encoded: The fields of a span with them, once the encoder has made these.
    """

    __slots__ = ("encoded",)

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__(attributes)
        self.encoded: bytes | None = None
