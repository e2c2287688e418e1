"""HTML made of parts in which nothing can break out: whatever is not markup yet is escaped.

File names and the names of people stand in a page as anybody wrote them, so every text goes through
`escape`, and the page lets nothing run and nothing load (`page`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence

LONGEST = 200
"""Characters of a text that are shown."""

_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"br", "img", "meta"})


class Html(str):
    """Markup: a text in which every character means what it says."""

    __slots__ = ()


def escape(value: object) -> Html:
    """Return a value as markup that shows it, with U+FFFD for what is no text."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_NOT_TEXT.sub("�", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: markup, or values to be escaped.
        attributes: values, escaped; None leaves one out. A trailing underscore is dropped
            (``class_``), other underscores become hyphens (``text_anchor``).
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{''.join(map(escape, children))}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Return markup of parts, one after another."""
    return Html(escape(between).join(map(escape, parts)))


def name_of(text: str) -> Html:
    """Return a name that somebody chose: cut if long, and unable to turn the text around it."""
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return tag("bdi", short)


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], caption: object = None
) -> Html:
    """Return a table; the first cell of a row is its heading, the others are numbers."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    body = tag(
        "tbody",
        *(
            tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
            for row in rows
        ),
    )
    told = tag("caption", caption) if caption else ""
    return tag("div", tag("table", told, head, body), class_="wide")


def page(title: str, style: str, body: Html) -> str:
    """Return a whole page: one file, without scripts, that loads nothing and opens from disk.

    Its content security policy allows this very style, and pictures that it holds itself.

    Args:
        title: of the page.
        style: CSS.
        body: markup.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("title", title),
            # Not escaped: a style sheet is no text of a page, and this one is our own.
            Html(f"<style>{style}</style>"),
        ]
    )
    whole = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
