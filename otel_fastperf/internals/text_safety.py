"""Text from outside, made safe to export."""


def encodable(text: str) -> str:
    """The text with `?` for each lone surrogate, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
