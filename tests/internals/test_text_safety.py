"""Foreign text that is safe to print and to encode."""

from otel_fastperf.internals.text_safety import encodable, escape_surrogates, printable


def test_text_that_would_move_the_cursor_is_escaped() -> None:
    assert printable("plain — 漢字") == "plain — 漢字"
    assert printable("a\r\nb\tc") == "a  b c"
    assert printable("\x1b[31m\x00\u202e\udc80") == "\\x1b[31m\\x00\\u202e\\udc80"
    assert printable("a\nb\tc", keep="\n") == "a\nb c"


def test_text_that_utf_8_cannot_encode_is_replaced() -> None:
    assert encodable("a\udcffb") == "a?b"
    assert encodable("漢字") == "漢字"
    assert escape_surrogates("a\udcffb") == "a\\udcffb"
    assert escape_surrogates("漢字") == "漢字"
