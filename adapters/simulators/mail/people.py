"""The people who write to a business by mail, and what their programs make of it.

Promises    The same seed gives the same people with the same words. Addresses are of the reserved domain
            `.example`; Message-IDs are new in each run. Answers quote, and name what they answer.
"""

import random
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Any, Final

from msgspec import Struct

from adapters.simulators.media import pdf, png
from adapters.simulators.phrases import TONGUES, Tongue
from adapters.simulators.playing.cast import Cast, Customer
from engine.errors import InvalidInput

Json = dict[str, Any]

KINDS: Final = {
    "text": 50, "html": 16, "reply": 14, "image": 6, "document": 5, "inline": 3, "forward": 2,
    "out_of_office": 2, "no_subject": 2,
}  # fmt: skip
"""How often which kind is written, unasked. `reply` and `out_of_office` need something to answer."""

DOMAINS: Final = ("mail.example", "post.example", "inbox.example")
_SUBJECTS: Final = ("Order 1042", "Question", "Delivery", "طلب رقم 1042", "Facture", "Größe", "在庫について")


class Correspondent(Customer):
    """`thread` are the Message-IDs so far, `subject` what they are about, `told` the business's last
    words."""

    def __init__(self, key: str, name: str, tongue: Tongue) -> None:
        super().__init__(key, name, tongue)
        self.thread: list[str] = []
        self.subject = ""
        self.told = ""


class Written(Struct, frozen=True, kw_only=True):
    """A mail on its way: the envelope and the whole."""

    sender: str
    recipient: str
    message_id: str
    kind: str
    mime: EmailMessage


class Correspondents(Cast[Correspondent]):
    def __init__(self, rng: random.Random, new_id: Callable[[], str]) -> None:
        super().__init__(rng, kinds=KINDS, key_pattern=r"[a-z0-9._-]{1,64}@[a-z0-9.-]{1,180}")
        self._new_id = new_id

    def made(self, key: str, name: str, tongue: Tongue) -> Correspondent:
        return Correspondent(key, name, tongue)

    def invent(self) -> Correspondent:
        tongue = self.rng.choice(TONGUES)
        name = self.name(tongue)
        letters = re.sub("[^a-z]+", ".", name.lower()).strip(".") or tongue.language
        address = f"{letters[:40]}.{self.rng.randrange(10**6)}@{self.rng.choice(DOMAINS)}"
        return self.made(address, name, tongue)

    def draw_kind(self, customer: Correspondent, weights: Mapping[str, float] | None = None) -> str:
        kind = super().draw_kind(customer, weights)
        return "text" if kind in ("reply", "out_of_office") and not customer.heard else kind

    def write(
        self, customer: Correspondent, to: str, kind: str, at_ms: int, text: str | None = None
    ) -> Written:
        """A mail of one of `KINDS`, to the address that the business is known by or wants answers at."""
        if kind not in KINDS:
            raise InvalidInput(f"kind is one of {', '.join(KINDS)}")
        mail = EmailMessage(policy=SMTP)
        said = text if text is not None else self.sentence(customer)
        message_id = f"{self._new_id()}@{customer.key.partition('@')[2]}"
        mail["From"] = Address(display_name=customer.name, addr_spec=customer.key)
        mail["To"] = to
        mail["Message-ID"] = f"<{message_id}>"
        mail["Date"] = format_datetime(datetime.fromtimestamp(at_ms / 1000, UTC))
        answered = customer.heard[-1] if kind in ("reply", "out_of_office") and customer.heard else None
        self._head(mail, customer, kind, answered)
        self._body(mail, customer, kind, said)
        if kind != "out_of_office":
            customer.said.append(message_id)
            customer.thread = [*customer.thread[-30:], message_id]
        return Written(sender=customer.key, recipient=to, message_id=message_id, kind=kind, mime=mail)

    def _head(self, mail: EmailMessage, customer: Correspondent, kind: str, answered: str | None) -> None:
        if answered is not None:
            mail["In-Reply-To"] = f"<{answered}>"
            mail["References"] = " ".join(f"<{one}>" for one in (*customer.thread[-20:], answered))
            subject = customer.subject or "Question"
            mail["Subject"] = f"Out of office: {subject}" if kind == "out_of_office" else f"Re: {subject}"
        elif kind != "no_subject":
            customer.subject = self.rng.choice(_SUBJECTS)
            mail["Subject"] = f"Fwd: {customer.subject}" if kind == "forward" else customer.subject
        if kind == "out_of_office":
            mail["Auto-Submitted"] = "auto-replied"
            mail["X-Auto-Response-Suppress"] = "All"
            mail["Precedence"] = "bulk"

    def _body(self, mail: EmailMessage, customer: Correspondent, kind: str, said: str) -> None:
        rng = self.rng
        match kind:
            case "reply":
                quoted = "\n".join(f"> {line}" for line in (customer.told or "…").splitlines())
                mail.set_content(f"{said}\n\nOn Tuesday the shop wrote:\n{quoted}\n")
            case "html" | "inline":
                mail.set_content(f"{said}\n")
                picture = '<img src="cid:sign" alt="sign">' if kind == "inline" else ""
                mail.add_alternative(
                    f'<html><body><p style="color:#333">{said}</p>{picture}'
                    f"<script>alert(1)</script><br>-- <br>{customer.name}</body></html>",
                    subtype="html",
                )
            case "forward":
                mail.set_content(f"{said}\n\n---------- Forwarded message ---------\nFrom: A\n\nOld\n")
            case "out_of_office":
                mail.set_content("I am away until Monday.\n")
            case _:
                mail.set_content(f"{said}\n")
        if kind in ("image", "inline"):
            square = png(rng.randrange(256), rng.randrange(256), rng.randrange(256))
            if kind == "inline":
                html = mail.get_body(("html",))
                assert isinstance(html, EmailMessage)
                html.add_related(square, "image", "png", cid="<sign>", filename="sign.png")
            else:
                mail.add_attachment(square, maintype="image", subtype="png", filename="foto ① صورة.png")
        elif kind == "document":
            mail.add_attachment(pdf(said[:20]), maintype="application", subtype="pdf", filename="invoice.pdf")
