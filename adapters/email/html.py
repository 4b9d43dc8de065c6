"""HTML of mail: made harmless, and into plain text.

`harmless` keeps what shows a text (paragraphs, lists, tables, links, a few styles) by an allow-list and
drops all else: scripts, forms, style sheets, frames, event handlers, ids and classes. Nothing in it is
loaded from elsewhere: images of the mail itself keep their `cid:` address, which `content.inline` leads to
an attachment for; an image from the web has its address behind the word `remote:`, a scheme that no browser
knows. Whoever shows the mail takes the word away once the reader has agreed, since loading an image tells
its sender that, when and where the mail was read.

Source      nh3 (ammonia), whose parser is the browsers'. Its time grows with the square of the nesting, so
            that is bounded here.
"""

import re
from html.parser import HTMLParser
from typing import Final

import nh3

HTML_CHARACTERS_MAX: Final = 512 * 1024
"""Newsletters have 100 KB; Gmail shows 102 KB of a mail."""
MARKS_MAX: Final = 30_000
"""Tags, and characters written as entities. Newsletters have some thousands of each."""
DEPTH_MAX: Final = 256
"""Nested tables of newsletters go to about 60, long threads of quotes to 100."""

_TAGS: Final = {
    "a", "abbr", "b", "bdi", "bdo", "blockquote", "br", "caption", "center", "cite", "code", "col",
    "colgroup", "dd", "del", "div", "dl", "dt", "em", "font", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i",
    "img", "ins", "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "small", "span", "strike",
    "strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "tr", "tt", "u", "ul",
    "var", "wbr",
}  # fmt: skip
_ATTRIBUTES: Final = {
    "*": {"dir", "lang", "title", "align", "valign", "style"},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "font": {"color"},
    "ol": {"start", "type"},
    "td": {"colspan", "rowspan", "width"},
    "th": {"colspan", "rowspan", "width"},
    "table": {"width", "border", "cellpadding", "cellspacing"},
    "col": {"span", "width"},
}
_STYLES: Final = {
    "color", "background-color", "direction", "font-style", "font-weight", "text-align", "text-decoration",
    "unicode-bidi", "white-space",
}  # fmt: skip
_SCHEMES: Final = {"http", "https", "mailto", "tel", "cid"}
_DROPPED: Final = {
    "script",
    "style",
    "title",
    "head",
    "noscript",
    "template",
    "svg",
    "math",
    "object",
    "iframe",
}

REMOTE: Final = "remote:"

_TAG: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]{0,20})")
_VOID: Final = frozenset(
    {
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    }
)
_COMMENT: Final = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


def harmless(html: str) -> str | None:
    """The HTML that may be shown beside other things of ours; None where it is too large or too deep."""
    if len(html) > HTML_CHARACTERS_MAX:
        return None
    html = _COMMENT.sub("", html)
    if html.count("&") > MARKS_MAX or not _is_bounded(html):
        return None
    return nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_DROPPED - _TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        filter_style_properties=_STYLES,
        url_schemes=_SCHEMES,
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    ).strip()


def plain_text(html: str) -> str:
    """What a reader of `harmless` HTML sees, as text: quotes with `> `, lists with `- `, images by their
    alternative text, links as they are labelled."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "style" and ("url(" in value.lower() or "\\" in value):
        return None
    if tag == "img" and name == "src":
        scheme = value.strip().partition(":")[0].lower()
        if scheme in ("http", "https"):
            return REMOTE + value.strip()
        return value if scheme == "cid" else None
    return value


def _is_bounded(html: str) -> bool:
    """An upper bound of the nesting, by counting: a closing tag closes one of its own name, if any."""
    open_by_name: dict[str, int] = {}
    depth = 0
    for count, tag in enumerate(_TAG.finditer(html)):
        if count >= MARKS_MAX:
            return False
        name = tag[2].lower()
        if name in _VOID:
            continue
        if not tag[1]:
            if name in _CLOSES_ITSELF and open_by_name.get(name):
                continue
            open_by_name[name] = open_by_name.get(name, 0) + 1
            depth += 1
            if depth > DEPTH_MAX:
                return False
        elif open_by_name.get(name):
            open_by_name[name] -= 1
            depth -= 1
    return True


_CLOSES_ITSELF: Final = frozenset({"p"})
"""A paragraph ends where the next begins; many programs write no end."""

_BLOCKS: Final = frozenset(
    {"p", "div", "table", "tr", "ul", "ol", "dl", "dd", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "pre",
    "center",
     "blockquote", "hr", "li", "caption"}
)  # fmt: skip
_SPACED: Final = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote"})


class _Reader(HTMLParser):
    """Reads what nh3 has written, so every tag is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._lines: list[tuple[int, str]] = []
        self._line = ""
        self._quotes = 0
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self._end_line(always=True)
        elif tag == "img":
            self._line += dict(attrs).get("alt") or ""
        elif tag in _BLOCKS:
            self._end_line()
            if tag in _SPACED:
                self._space()
            if tag == "blockquote":
                self._quotes += 1
            elif tag == "li":
                self._line = "- "
            elif tag == "pre":
                self._pre += 1
        elif tag in ("td", "th") and self._line:
            self._line += "\t"

    def handle_endtag(self, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        self._end_line()
        if tag == "blockquote":
            self._quotes = max(0, self._quotes - 1)
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        if tag in _SPACED:
            self._space()

    def handle_data(self, data: str) -> None:
        if self._pre:
            first, *rest = data.split("\n")
            self._line += first
            for line in rest:
                self._end_line(always=True)
                self._line = line
            return
        words = re.sub(r"[ \t\n\r\f]+", " ", data)
        if not self._line or self._line.endswith((" ", "\t")):
            words = words.lstrip(" ")
        self._line += words

    def text(self) -> str:
        self._end_line()
        lines: list[str] = []
        for quotes, line in self._lines:
            whole = f"{'>' * quotes} {line}".rstrip() if quotes else line
            if whole.strip("> ") or (lines and lines[-1].strip("> ")):
                lines.append(whole)
        return "\n".join(lines).strip("\n")

    def _end_line(self, *, always: bool = False) -> None:
        line = self._line.replace("\xa0", " ").rstrip()
        if line or always:
            self._lines.append((self._quotes, line))
        self._line = ""

    def _space(self) -> None:
        if self._lines and self._lines[-1][1]:
            self._lines.append((self._quotes, ""))
