"""The signature by which receivers know that a mail is its domain's (DKIM, RFC 6376): for accounts that send
by a mail server that does not sign.

Promises    A key that cannot sign is InvalidInput with a sentence; nothing is sent unsigned then.
"""

from typing import Final

import dkim

from adapters.port import Account
from engine.errors import InvalidInput

_SIGNED: Final = (
    b"from", b"to", b"subject", b"date", b"message-id", b"in-reply-to", b"references", b"reply-to",
    b"mime-version", b"content-type", b"content-transfer-encoding",
)  # fmt: skip


def signs(account: Account) -> bool:
    return bool(account.settings.get("dkim_selector") and account.credentials.get("dkim_private_key"))


def signed(raw: bytes, account: Account) -> bytes:
    """The mail with the account's signature in front. Some milliseconds of arithmetic: in a thread. Raises
    InvalidInput."""
    domain = str(account.settings.get("dkim_domain") or account.external_id.rpartition("@")[2])
    present = {line.partition(b":")[0].lower() for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")}
    try:
        header: bytes = dkim.sign(
            raw,
            str(account.settings["dkim_selector"]).encode("ascii"),
            domain.encode("idna"),
            account.credentials["dkim_private_key"].encode("ascii"),
            canonicalize=(b"relaxed", b"relaxed"),
            include_headers=[name for name in _SIGNED if name in present],
        )
    except (dkim.DKIMException, ValueError, TypeError, IndexError) as error:
        raise InvalidInput(
            "The DKIM key cannot sign: enter an RSA private key (PEM), its selector and its domain.",
            code="dkim_key",
        ) from error
    return header + raw
