"""Makes text from outside safe to print and to export: file names, routes and SQL may contain anything."""


def encodable(text: str) -> str:
    """The text with `?` for each lone surrogate, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def escape_surrogates(text: str) -> str:
    r"""The text with `\udc80` for each lone surrogate: unlike with `encodable`, different texts stay different."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str, *, keep: str = "") -> str:
    """The text on one line, without anything that controls a terminal.

    White space becomes a space; control characters and lone surrogates are escaped. Characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return " " if character.isspace() else ascii(character)[1:-1]
