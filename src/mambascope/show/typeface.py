"""Which letters matplotlib can draw here, and what to write for those it cannot."""

from __future__ import annotations

from functools import lru_cache

from matplotlib import font_manager

from mambascope.show.tokens import visible

# Fonts with scripts that DejaVu Sans, which comes with matplotlib, lacks; the ones installed are used in this order.
WIDE_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
    "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI",
    "Arial Unicode MS", "Noto Emoji", "Symbola",
)  # fmt: skip


@lru_cache(maxsize=1)
def families() -> tuple[str, ...]:
    """Return the font families to draw tokens with, best first; all of them are installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in WIDE_FONTS if name in installed))


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    letters: set[int] = set()
    for family in families():
        letters |= font_manager.get_font(font_manager.findfont(family)).get_charmap().keys()
    return frozenset(letters)


def drawable(token: str) -> str:
    """Return the token with invisible characters made visible and letters that no font here has as `‹U+1F600›`."""
    return "".join(letter if ord(letter) in _letters() else f"‹U+{ord(letter):04X}›" for letter in visible(token))
