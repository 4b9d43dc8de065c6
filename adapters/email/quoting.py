"""What of a mail's text is new: the rest is what was quoted, and the writer's signature.

Small and of our own: the libraries for this search the whole text with patterns that go back and forth,
which a hostile mail can make take minutes, and know no Arabic. Here each line is looked at once, or a few
times, by its first characters.

Promises    Linear. `new + signature + quoted` is the text; where it is not plain what is new, everything is.
"""

import re
from typing import Final

from msgspec import Struct

_LINE_MAX: Final = 400
"""Characters of a line that are looked at."""
_ATTRIBUTION_LINES_MAX: Final = 4
"""`On … wrote:` is wrapped by some programs."""

_ON: Final = re.compile(
    r"(?:on|am|le|el|em|op|il|den|dnia|le|في|بتاريخ|يوم|كتب|\d{1,4}[./-]\d{1,2}[./-]\d{1,4})\b", re.IGNORECASE
)
_WROTE: Final = re.compile(
    r"(?:wrote|writes|schrieb|a écrit|écrit|escribió|escreveu|schreef|ha scritto|skrev|napisał(?:\(a\))?"
    r"|написал|كتب|كتبت|yazdı)\b.{0,200}:\s*$",
    re.IGNORECASE,
)
_RULE: Final = re.compile(
    r"[-_\s]{0,40}(?:original message|forwarded message|begin forwarded message|ursprüngliche nachricht"
    r"|weitergeleitete nachricht|message d'origine|message original|mensaje original|mensagem original"
    r"|oorspronkelijk bericht|messaggio originale|الرسالة الأصلية|رسالة معاد توجيهها)[-_\s:]{0,40}$",
    re.IGNORECASE,
)
_FROM: Final = re.compile(
    r"\*?(?:from|von|de|da|van|från|od|من|expéditeur|remitente)\s?:\*?\s", re.IGNORECASE
)
_HEADER: Final = re.compile(
    r"\*?(?:sent|date|to|subject|cc|gesendet|datum|an|betreff|envoyé|à|objet|enviado|para|asunto|assunto|data"
    r"|inviato|oggetto|verzonden|aan|onderwerp|تاريخ|التاريخ|إلى|الموضوع|أرسلت|تم الإرسال)\s?:\*?",
    re.IGNORECASE,
)
_SIGNATURE: Final = re.compile(r"--\s?$")
_SENT_FROM: Final = re.compile(
    r"(?:sent from (?:my |mail for |outlook|yahoo)|get outlook for|von meinem \S+ gesendet|envoyé de mon"
    r"|enviado desde mi|enviado do meu|inviato da|verstuurd vanaf|أُرسلت من|أرسلت من|تم الإرسال من)",
    re.IGNORECASE,
)
_SIGNATURE_LINES_MAX: Final = 12


class Folded(Struct, frozen=True, kw_only=True):
    new: str
    quoted: str | None = None
    signature: str | None = None


def fold(text: str) -> Folded:
    """The text in its three parts. A mail that only quotes (a forward), or that answers between the quoted
    lines, is all new."""
    lines = text.split("\n")
    begin = _quote_begins(lines)
    new, quoted = lines[:begin], lines[begin:]
    if not _says_something(new):
        # Forwarded without a word, or answered below the quote.
        return _without_signature(text, None)
    return _without_signature("\n".join(new), "\n".join(quoted).strip("\n") or None)


def _quote_begins(lines: list[str]) -> int:
    """The first line of what was quoted at the end; the number of lines when there is nothing."""
    for at, line in enumerate(lines):
        shown = line.strip()[:_LINE_MAX]
        if not shown:
            continue
        if _RULE.match(shown) or _is_header_block(lines, at, shown):
            return at
        if _ON.match(shown) and _is_attribution(lines, at):
            return at
    return _trailing_quote(lines)


def _is_attribution(lines: list[str], at: int) -> bool:
    """`On …, NAME wrote:`, perhaps over a few lines, and then a quote or the end of all that is not one."""
    joined = ""
    for following in range(at, min(at + _ATTRIBUTION_LINES_MAX, len(lines))):
        joined = f"{joined} {lines[following].strip()[:_LINE_MAX]}"
        if _WROTE.search(joined[-_LINE_MAX:]):
            return _only_quotes(lines, following + 1)
    return False


def _only_quotes(lines: list[str], at: int) -> bool:
    """Whether nothing new follows. Programs that do not mark quotes leave lines without marks: then there is
    no mark at all."""
    rest = [line for line in lines[at:] if line.strip()]
    marked = sum(line.lstrip().startswith(">") for line in rest)
    return marked == 0 or (rest[0].lstrip().startswith(">") and _unmarked_after(rest) <= 2)


def _unmarked_after(rest: list[str]) -> int:
    """Lines without a mark in a marked quote: a signature, a word that was wrapped."""
    return sum(not line.lstrip().startswith(">") for line in rest)


def _is_header_block(lines: list[str], at: int, shown: str) -> bool:
    """Outlook's block: From, then within a few lines two of Sent, To and Subject."""
    if not _FROM.match(shown):
        return False
    following = [line.strip()[:_LINE_MAX] for line in lines[at + 1 : at + 6]]
    return sum(bool(_HEADER.match(line)) for line in following) >= 2


def _trailing_quote(lines: list[str]) -> int:
    """Marked lines at the very end."""
    at = len(lines)
    marked = False
    while at:
        line = lines[at - 1].strip()
        if line.startswith(">"):
            marked = True
        elif line:
            break
        at -= 1
    return at if marked else len(lines)


def _without_signature(text: str, quoted: str | None) -> Folded:
    lines = text.rstrip().split("\n")
    lowest = max(0, len(lines) - _SIGNATURE_LINES_MAX)
    for at in range(lowest, len(lines)):
        line = lines[at].strip()[:_LINE_MAX] if lines[at].strip() != "--" else "--"
        is_mark = bool(_SIGNATURE.match(line))
        if (is_mark or _SENT_FROM.match(line)) and _says_something(lines[:at]):
            begin = at + 1 if is_mark else at
            signature = "\n".join(lines[begin:]).strip("\n")
            return Folded(
                new="\n".join(lines[:at]).strip("\n").rstrip(), quoted=quoted, signature=signature or None
            )
    return Folded(new=text.strip("\n").rstrip(), quoted=quoted)


def _says_something(lines: list[str]) -> bool:
    return any(line.strip() and not line.lstrip().startswith(">") for line in lines)
