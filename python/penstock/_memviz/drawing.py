"""SVG, written as text: shapes, and texts that are known to fit.

A viewer picks the font, so how wide a text will be is not known here. `text_width` is an upper bound: the
advances of DejaVu Sans, the widest of the usual default fonts. A text that has a width to keep to is cut so
that it fits by this bound, and has its full wording as its tooltip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from penstock._memviz.style import FONTS, SHEET

Anchor = Literal["start", "middle", "end"]

# In thousandths of the font's size.
_ADVANCES: Final = (
    (" ,.'|iIjlJ·", 340),
    ("!:;()[]frt/\\-", 440),
    ('"*_`–', 530),
    ("acekosvxyz?LTFE{}", 640),
    ("0123456789bdghnpquABCKPRSXYZ$", 705),
    ("DGHNOQUV&+=<>#~w÷×^", 840),
)
_OTHER: Final = 1000
_ADVANCE: Final = {character: advance for characters, advance in _ADVANCES for character in characters}
_BOLD: Final = 1.13
_MONOSPACED: Final = 0.61

# What no XML document may contain, written as an entity or not.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text_width(text: str, size: float, *, bold: bool = False, mono: bool = False) -> float:
    """At most how wide ``text`` is, in any of the usual fonts."""
    if mono:
        return sum(_MONOSPACED if character.isascii() else 1.0 for character in text) * size
    width = sum(_ADVANCE.get(character, _OTHER) for character in text) * size / 1000
    return width * _BOLD if bold else width


def fitted(text: str, width: float, size: float, *, bold: bool = False, mono: bool = False) -> str:
    """``text``, or an ellipsis and as much of its end as fits into ``width``."""
    if text_width(text, size, bold=bold, mono=mono) <= width:
        return text
    for start in range(1, len(text)):
        shorter = "…" + text[start:]
        if text_width(shorter, size, bold=bold, mono=mono) <= width:
            return shorter
    return "…"


def escaped(text: str) -> str:
    """``text`` as the content or an attribute of an element; what XML cannot hold becomes U+FFFD."""
    text = _NOT_XML.sub("\ufffd", text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def number(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


class Drawing:
    """Elements in the order in which they are painted."""

    def __init__(self) -> None:
        self._elements: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        *,
        corner: float = 0,
        title: str = "",
    ) -> None:
        corners = f' rx="{number(corner)}"' if corner else ""
        place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        self._element("rect", f'class="{style}" {place}{corners}', title)

    def rects(self, boxes: Iterable[tuple[float, float, float, float]], style: str) -> None:
        """Many boxes ``(x, y, width, height)`` of one style, as one element."""
        path = "".join(
            f"M{number(x)} {number(y)}h{number(width)}v{number(height)}h{number(-width)}z"
            for x, y, width, height in boxes
        )
        if path:
            self._element("path", f'class="{style}" d="{path}"', "")

    def line(self, x: float, y: float, to_x: float, to_y: float, style: str) -> None:
        self._element(
            "path", f'class="{style}" d="M{number(x)} {number(y)}L{number(to_x)} {number(to_y)}"', ""
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        style: str = "body",
        *,
        anchor: Anchor = "start",
        width: float | None = None,
        title: str = "",
    ) -> None:
        """Writes ``text`` with its baseline at ``y``, cut from the left where it is wider than ``width``."""
        size, bold, mono = FONTS[style]
        shown = text if width is None else fitted(text, width, size, bold=bold, mono=mono)
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        place = f'x="{number(x)}" y="{number(y)}"'
        tip = title or (text if shown != text else "")
        self._element("text", f'class="{style}" {place}{anchored}', tip, escaped(shown))

    def _element(self, name: str, attributes: str, title: str, content: str = "") -> None:
        if title:
            content = f"<title>{escaped(title)}</title>{content}"
        self._elements.append(
            f"<{name} {attributes}>{content}</{name}>" if content else f"<{name} {attributes}/>"
        )

    def document(self, width: int, height: float, title: str, description: str) -> str:
        size = f'width="{width}" height="{number(height)}"'
        box = f'viewBox="0 0 {width} {number(height)}"'
        role = 'role="img" aria-labelledby="title description"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} {role}>',
            f'<title id="title">{escaped(title)}</title>',
            f'<desc id="description">{escaped(description)}</desc>',
            f"<style>{SHEET}</style>",
            f'<rect class="page" {size}/>',
            *self._elements,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"
