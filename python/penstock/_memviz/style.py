"""Colours and type of the page, in light and dark.

One colour for a state everywhere. Blue, orange and grey differ in lightness as well as in hue, so they are
told apart with any colour vision, and in print (after Okabe and Ito, "Color Universal Design", 2008). Texts
have a contrast of at least 4.5 to what is behind them, in both themes.
"""

from __future__ import annotations

from typing import Final

# What the system uses itself: nothing is loaded.
_PROPORTIONAL: Final = (
    "system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Helvetica Neue',Arial,sans-serif"
)
_MONOSPACED: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"

FONTS: Final[dict[str, tuple[int, bool, bool]]] = {
    # Pixels, bold, monospaced.
    "h1": (26, True, False),
    "h2": (19, True, False),
    "h3": (14, True, False),
    "figure": (24, True, False),
    "body": (13, False, False),
    "strong": (13, True, False),
    "muted": (13, False, False),
    "small": (12, False, False),
    "code": (12, False, True),
    "heldtext": (12, True, False),
}

_LIGHT: Final = {
    "page": "fill:#fff",
    "panel": "fill:#f6f8fa",
    "body,strong,h1,h2,h3,figure,code": "fill:#1b2430",
    "muted,small": "fill:#57606a",
    "rule": "stroke:#d5dae0",
    "strongrule": "stroke:#8a939e",
    "used": "fill:#0b6cb8",
    "nearby": "fill:#f7c65c",
    "central": "fill:#dd8500",
    "free": "fill:#d4dae1",
    "unused": "fill:#f1f3f6;stroke:#d5dae0",
    "outline": "stroke:#fff",
    "held": "fill:#fff;stroke:#b3123f",
    "heldtext,mark": "fill:#b3123f",
}
_DARK: Final = {
    "page": "fill:#0f141a",
    "panel": "fill:#182029",
    "body,strong,h1,h2,h3,figure,code": "fill:#e8edf2",
    "muted,small": "fill:#a3aeba",
    "rule": "stroke:#2c3641",
    "strongrule": "stroke:#66717d",
    "used": "fill:#4098f0",
    "nearby": "fill:#ffe09a",
    "central": "fill:#eda02f",
    "free": "fill:#333e4a",
    "unused": "fill:#161d25;stroke:#2c3641",
    "outline": "stroke:#0f141a",
    "held": "fill:#0f141a;stroke:#ff8fa8",
    "heldtext,mark": "fill:#ff8fa8",
}


def _rules(colours: dict[str, str]) -> str:
    return "".join(
        ",".join(f".{name}" for name in names.split(",")) + "{" + declarations + "}"
        for names, declarations in colours.items()
    )


def _fonts() -> str:
    return "".join(
        f".{style}{{font-size:{size}px"
        + (";font-weight:600" if bold else "")
        + (f";font-family:{_MONOSPACED}" if mono else "")
        + "}"
        for style, (size, bold, mono) in FONTS.items()
    )


SHEET: Final = (
    "svg{color-scheme:light dark}"
    f"text{{font-family:{_PROPORTIONAL};font-variant-numeric:tabular-nums}}"
    f"{_fonts()}{_rules(_LIGHT)}"
    ".rule,.strongrule,.outline{fill:none}.outline{pointer-events:all}"
    f"@media(prefers-color-scheme:dark){{{_rules(_DARK)}}}"
)
