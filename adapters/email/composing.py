"""What is to be sent, as a mail: headers that find their thread, text, files.

Promises    Pure. Nothing that an agent, a customer or a setting says can add a header or end one: control
            characters become spaces before anything is put into a header. The same item gives the same
            Message-ID each time, so that a receiver may drop the copy of an attempt that was made again.
Source      RFC 5322, 2231, 3834; the sheet, sections 4 and 5.
"""

import html
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final

from msgspec import Struct

from adapters.email.automatic import MARK
from adapters.email.threading import message_id_for, references_for, reply_address
from adapters.email.words import clean
from adapters.port import Account
from engine.domain.outbound import OutboxItem, Thread
from engine.errors import InvalidInput

SUBJECT_MAX: Final = 300
"""Programs show some eighty characters; a longer one is cut, since it names the thread and says nothing."""

_PREFIX: Final = re.compile(
    r"\s*(?:re|aw|sv|vs|antw|odp|ref|rif|res|r|رد|الرد|回复|答复|返信)\s*(?:\[\d+\]|\(\d+\))?\s*[:：]\s*",
    re.IGNORECASE,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_FOLD: Final = "\r\n "
_LINK: Final = re.compile(r"https?://[^\s<>\"]+[^\s<>\".,;:!?)\]]")


class OutFile(Struct, frozen=True, kw_only=True):
    filename: str
    media_type: str
    content: bytes


class OutMail(Struct, frozen=True, kw_only=True):
    """A mail before it has a form. `headers` are those beside From, To, Reply-To, Subject and Date;
    `message_id` has no `<` and `>`."""

    message_id: str
    from_address: str
    from_name: str
    to: str
    reply_to: str | None
    subject: str
    text: str
    html: str | None
    headers: tuple[tuple[str, str], ...]
    files: tuple[OutFile, ...] = ()


def compose(item: OutboxItem, account: Account, text: str, files: Sequence[OutFile] = ()) -> OutMail:
    """Raises InvalidInput for a recipient that no mail can go to."""
    settings, address = account.settings, account.external_id
    secret = account.credentials.get("reply_secret", "")
    number = item.message_id if item.message_id is not None else item.id
    message_id = message_id_for(number, account=address, secret=secret)
    to = in_header((item.thread.address if item.thread is not None else None) or item.recipient)
    parent, references = references_for(item.thread)
    headers = [("Message-ID", f"<{message_id}>"), (MARK, address)]
    if parent is not None:
        headers.append(("In-Reply-To", f"<{in_header(parent)}>"))
        headers.append(("References", " ".join(f"<{in_header(one)}>" for one in references)))
    if not item.by_person:
        # RFC 3834: other robots keep quiet then.
        headers.append(("Auto-Submitted", "auto-replied" if parent is not None else "auto-generated"))
        headers.append(("X-Auto-Response-Suppress", "All"))
    new = str(settings.get("new_subject") or settings.get("from_name") or address)
    return OutMail(
        message_id=message_id,
        from_address=address,
        from_name=in_header(str(settings.get("from_name") or ""))[:200],
        to=mailable(to),
        reply_to=reply_address(number, account=address, secret=secret)
        if settings.get("plus_addresses") is True
        else None,
        subject=subject_of(item.thread, new),
        text=clean(text),
        html=html_of(clean(text)) if settings.get("html") is True else None,
        headers=tuple(headers),
        files=tuple(files),
    )


def subject_of(thread: Thread | None, new: str) -> str:
    """The thread's with one `Re:`, however many and in whatever language it has."""
    if thread is None:
        return in_header(new)[:SUBJECT_MAX]
    subject = in_header(thread.subject or "")
    while (found := _PREFIX.match(subject)) is not None:
        subject = subject[found.end() :]
    return f"Re: {subject}"[:SUBJECT_MAX].rstrip()


def mime_of(mail: OutMail, at_ms: int) -> bytes:
    """The mail as it goes over the wire: CRLF, 7 bit, lines short enough for every server."""
    message = EmailMessage(policy=SMTP)
    message["From"] = _shown(mail.from_name, mail.from_address)
    message["To"] = _shown("", mail.to)
    if mail.reply_to is not None:
        message["Reply-To"] = _shown(mail.from_name, mail.reply_to)
    message["Subject"] = mail.subject
    message["Date"] = format_datetime(datetime.fromtimestamp(at_ms / 1000, UTC))
    message.set_content(mail.text, cte=_encoding(mail.text))
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    for file in mail.files:
        main, _, sub = file.media_type.partition("/")
        message.add_attachment(file.content, maintype=main, subtype=sub, filename=in_header(file.filename))
    return b"".join(_line(name, value) for name, value in mail.headers) + message.as_bytes()


def _line(name: str, value: str) -> bytes:
    """A header of plain words, each on a line of its own from the second on. The library would put a long
    message id into an encoded word, where no program looks for it."""
    words = [word for word in value.split() if word.isascii()]
    return f"{name}: {_FOLD.join(words)}\r\n".encode("ascii") if words else b""


def mailable(address: str) -> str:
    """An address as servers without SMTPUTF8 take it: the domain in IDNA. Raises InvalidInput."""
    local, at, domain = address.rpartition("@")
    try:
        domain = domain.encode("idna").decode("ascii")
    except UnicodeError:
        at = ""
    if not at or not local or not domain or not local.isascii() or re.search(r"[\s<>,;:\"()\[\]\\]", local):
        raise InvalidInput("Mail cannot be sent to this address.", code="address_unusable")
    return f"{local}@{domain}"


def in_header(text: str) -> str:
    """One line without control characters, whatever it was."""
    return _CONTROL.sub(" ", clean(text)).strip()


def html_of(text: str) -> str:
    """The text for programs that show HTML: paragraphs, links, and the direction of each paragraph's own
    script."""
    blocks = re.split(r"\n{2,}", text.replace("\r\n", "\n").strip("\n"))
    shown = (_linked(block).replace("\n", "<br>\n") for block in blocks)
    return "".join(f'<p dir="auto">{block}</p>\n' for block in shown)


def _linked(text: str) -> str:
    parts, end = [], 0
    for found in _LINK.finditer(text):
        link = html.escape(found[0])
        parts += [html.escape(text[end : found.start()]), f'<a href="{link}">{link}</a>']
        end = found.end()
    return "".join((*parts, html.escape(text[end:])))


def _shown(name: str, address: str) -> Address:
    return Address(display_name=name, addr_spec=address)


def _encoding(text: str) -> str:
    """Base64 for texts of other scripts, where quoted-printable would be three times as long."""
    foreign = sum(not character.isascii() for character in text)
    return "base64" if foreign * 3 > len(text) else "quoted-printable"
