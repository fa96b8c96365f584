"""Sets of SQL keywords."""


def keywords(words: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(words.split())
