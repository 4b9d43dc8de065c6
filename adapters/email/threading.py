"""How answers find their way back: message ids, reply addresses, and the signed token that is in both.

A token names one message of ours and proves that we wrote it: 13 characters of the message's id, 16 of an
HMAC-SHA256 over account and id under the account's `reply_secret`, after an `m`. It is the left part of our
Message-ID, and stands after the `+` of the address that answers go to. Programs answer with the first in
In-Reply-To or References; where a program leaves both out, the second is left. Upper and lower case do not
matter, since some programs change them in addresses.

Whoever has a token has read that message, or knows someone who has: it proves what is answered, never who
answers.

Source      The sheet, section 4; RFC 5322, 3.6.4.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

from engine.domain.outbound import THREAD_REFERENCES_MAX, Thread

_PREFIX: Final = "m"
_ID_BYTES: Final = 8
_TAG_BYTES: Final = 10
"""80 bits, tried over the network alone; with more, `support+TOKEN` would pass the 64 characters of a local
part with longer names."""
_TOKEN: Final = re.compile(r"m[a-z2-7]{29}")

ID_CHARACTERS_MAX: Final = 250
"""RFC 5322 lines have 998. What is longer is kept by its digest: it is an index entry."""


def reply_token(message_id: int, *, account: str, secret: str) -> str:
    """The token of a message of ours; the same each time. 30 characters of a-z and 2-7."""
    number = message_id.to_bytes(_ID_BYTES, "big")
    return _PREFIX + _base32(number) + _base32(_tag(number, account, secret))


def open_token(token: str, *, account: str, secret: str) -> int | None:
    """Which message of ours a token names; None when it is none, or not this account's."""
    token = token.lower()
    if not secret or not _TOKEN.fullmatch(token):
        return None
    number = base64.b32decode(token[1:14].upper() + "===")
    expected = reply_token(int.from_bytes(number, "big"), account=account, secret=secret)
    same = hmac.compare_digest(expected.encode(), token.encode())
    return int.from_bytes(number, "big") if same else None


def message_id_for(message_id: int, *, account: str, secret: str) -> str:
    """What the Message-ID of our message is, without `<` and `>`; it is also the message's platform id. An
    attempt that is made again has the same, so that the receiver may drop the copy."""
    return f"{reply_token(message_id, account=account, secret=secret)}@{_domain(account)}"


def reply_address(message_id: int, *, account: str, secret: str) -> str:
    """The address that answers should go to: the account's, with the token after a `+`. The account's own
    where its local part leaves no room for one (64 characters, RFC 5321)."""
    local, _, domain = account.rpartition("@")
    tagged = f"{local}+{reply_token(message_id, account=account, secret=secret)}"
    return f"{tagged}@{domain}" if len(tagged) <= 64 else account


def references_for(thread: Thread | None) -> tuple[str | None, tuple[str, ...]]:
    """In-Reply-To and References of an answer, ids without `<` and `>`; None and nothing for a first message.
    At most `THREAD_REFERENCES_MAX`: the first, and the newest."""
    if thread is None:
        return None, ()
    newest = (thread.message_id,) if thread.message_id is not None else ()
    return thread.message_id, trimmed((*thread.references, *newest))


def trimmed(references: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order; of too many, the first and the newest."""
    whole = tuple(dict.fromkeys(references))
    if len(whole) <= THREAD_REFERENCES_MAX:
        return whole
    return (whole[0], *whole[1 - THREAD_REFERENCES_MAX :])


def normalised(message_id: str) -> str | None:
    """A Message-ID as it is kept and compared: without `<`, `>` and white space, the domain in lower case.
    None when nothing is left. A longer one than `ID_CHARACTERS_MAX` becomes its digest."""
    bare = "".join(message_id.split()).strip("<>")
    bare = "".join(character for character in bare if character.isprintable())
    if not bare:
        return None
    if len(bare) > ID_CHARACTERS_MAX:
        return f"sha256:{hashlib.sha256(bare.encode('utf-8', 'replace')).hexdigest()}"
    left, at, right = bare.rpartition("@")
    return f"{left}@{right.lower()}" if at else bare


def ids_in(header: str, *, most: int = 4 * THREAD_REFERENCES_MAX) -> tuple[str, ...]:
    """The ids of an In-Reply-To or References header, in order, at most the last `most`. Words that are no
    ids (old programs write phrases) are left out."""
    found = re.findall(r"<([^<>]{1,998})>", header[-100_000:]) or [
        word for word in header.split() if "@" in word
    ]
    named = (normalised(one) for one in found[-most:])
    return tuple(dict.fromkeys(one for one in named if one is not None))


def token_in_address(address: str) -> str | None:
    """What stands after the last `+` of an address and looks like a token."""
    return token_in_hash(address.rpartition("@")[0].rpartition("+")[2])


def token_in_hash(text: str) -> str | None:
    """A text that looks like a token, such as Postmark's MailboxHash."""
    return text.lower() if _TOKEN.fullmatch(text.lower()) else None


def token_in_id(message_id: str) -> str | None:
    """The left part of a message id, if it looks like a token."""
    return token_in_hash(message_id.rpartition("@")[0])


def without_tag(address: str) -> str:
    """An address without what follows its first `+`, in lower case: the account that it belongs to."""
    local, at, domain = address.strip().lower().rpartition("@")
    return f"{local.partition('+')[0] or local}{at}{domain}"


def _tag(number: bytes, account: str, secret: str) -> bytes:
    about = b"mijra reply token\0" + account.lower().encode() + b"\0" + number
    return hmac.digest(secret.encode(), about, "sha256")[:_TAG_BYTES]


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _domain(account: str) -> str:
    return account.rpartition("@")[2]
