"""Inputs made wrong: right ones with bytes flipped, cut, doubled, and awkward words put in."""

from collections.abc import Sequence
from random import Random

AWKWARD = (
    *(b"", b"\0", b"\x1b[2J", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\t"),
    *(b'"', b'""', b"'", b"\\", b",", b";", b"|", b":", b"{", b"}", b"[", b"]", b"#", b"&a", b"*a"),
    *(b"NaN", b"nan", b".nan", b".inf", b"-inf", b"Infinity", b"null", b"None", b"true", b"no"),
    *(b"0", b"-1", b"1e400", b"1e-400", b"9" * 25, b"9" * 5000, b"0x" + b"f" * 400, b"0.1", b"1_0"),
    *(b"!!python/object:os.system", b"!!binary", b"<<", b"---", b"%YAML 1.1\n---\n", b"? ", b"- "),
    *(
        b"../../x",
        b"/etc/passwd",
        b"CON",
        b"=cmd|' /C calc'!A0",
        b"<script>",
        b"](http://x)",
        b"$x$",
    ),
    *("\u202e".encode(), "\u2028".encode(), "\u0085".encode(), "\u0440".encode(), b"\\ud800"),
    *("\U0001f525".encode(), "\ufeff".encode(), b"a" * 300, b"[" * 60, b"{'a':" * 30, b" " * 50),
)
"""What is put into any input, whatever its form."""


def mutated(random: Random, right: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of the ``right`` inputs after one to six changes; ``words`` are those of its form."""
    text = random.choice(right)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        text = random.choice(_CHANGES)(random, text, words)
    return text


def _flip(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(text) + 1)
    return text[:at] + bytes([random.randrange(256)]) + text[at + 1 :]


def _put(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice((*AWKWARD, *words)) + text[at:]


def _replace(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    """A word of the form becomes another, or an awkward one."""
    there = [word for word in words if word in text]
    if not there:
        return _put(random, text, words)
    old, new = random.choice(there), random.choice((*AWKWARD, *words))
    return text.replace(old, new, random.choice((1, 1, -1)))


def _cut(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    return text[: random.randrange(len(text) + 1)]


def _lose(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    first = random.randrange(len(text) + 1)
    return text[:first] + text[first + random.randrange(1, 20) :]


def _double(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    first = random.randrange(len(text) + 1)
    part = text[first : first + random.randrange(1, 200)]
    return text[:first] + part * random.choice((2, 2, 2, 40)) + text[first + len(part) :]


def _swap(random: Random, text: bytes, words: Sequence[bytes]) -> bytes:
    lines = text.splitlines(keepends=True)
    random.shuffle(lines)
    return b"".join(lines)


_CHANGES = (_flip, _put, _put, _replace, _replace, _replace, _cut, _lose, _double, _swap)
