"""Text of others as it may be shown: with nothing that a terminal obeys or hides, and bounded."""

import re
import unicodedata

LONGEST = 2000
"""Characters of one line that are shown; of a longer one its two ends are."""
_END = 200

# Control characters (a line's end is none here), the marks that turn text round or have no width,
# line and paragraph separators, and halves of surrogate pairs. Joiners, which emoji and several
# scripts are written with, stay.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_REFUSED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""``text`` with an escape such as ``\x1b`` or ``\u202e`` for each character that can't be
    seen; line ends and tabs stay.
    """
    return _HIDDEN.sub(lambda found: _escape(found[0]), text)


def told(text: str) -> str:
    """``text`` for a message: visible, and of a line longer than ``LONGEST`` only both ends."""
    return "\n".join(map(_short, visible(text).split("\n")))


def hidden(text: str) -> str | None:
    """The first control character of ``text``, or mark that turns text round, as U+202E; None
    where there is none.
    """
    found = _REFUSED.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def unlike(text: str) -> str | None:
    """The first letter of ``text`` that isn't plain ASCII, with its name; None where all are. Some
    look as others do: ``'\u0440' (CYRILLIC SMALL LETTER ER)``.
    """
    found = next((character for character in text if not character.isascii()), None)
    if found is None:
        return None
    return f"{found!r} ({unicodedata.name(found, f'U+{ord(found):04X}')})"


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _short(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    left_out = len(line) - LONGEST
    return f"{line[: LONGEST - _END]} ... ({left_out:,} characters left out) ... {line[-_END:]}"
