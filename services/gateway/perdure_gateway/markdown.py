"""Users' texts as HTML: CommonMark without HTML and images, links only to http, https and mailto."""

import html
import re
from typing import Final

from markdown_it import MarkdownIt

MOST_CHARS: Final = 16_384  # a longer message is shown as it is: parsing costs more than its length
_LINK: Final = re.compile(r"(?:https?://|mailto:)", re.ASCII | re.IGNORECASE)
_BIDI: Final = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def rendered(text: str) -> str:
    """`text`, which is Markdown, as HTML that runs nothing, loads nothing and says nothing about where it was read."""
    if len(text) > MOST_CHARS:
        return f"<pre>{escaped(text)}</pre>"
    return str(_markdown.render(visible(text)))


def escaped(text: str) -> str:
    """`text` as it is, for HTML."""
    return html.escape(visible(text))


def visible(text: str) -> str:
    """`text` with what is not seen, or turns its direction, shown as escapes; line ends and tabs stay."""
    return "".join(c if c in "\n\t " or (c.isprintable() and c not in _BIDI) else f"\\u{ord(c):04x}" for c in text)


def _made() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).disable("image")
    made.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]  # its documented way
    return made


_markdown: Final = _made()
