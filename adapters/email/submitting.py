"""Mail over SMTP: a mail is handed in over a kept connection, or a new one.

Promises    `Declined` until the final dot was sent, whatever breaks: a server that has not seen it has no
            message (RFC 5321, 4.1.1.4). A cut after it is `Unanswered`. Whether a kept connection lives is
            asked before each mail (RSET); one that its server has left costs a new one, never a second mail.
Cancel      The outcome is unknown then.
"""

import smtplib
from functools import partial
from typing import Final

from adapters.calling import declined
from adapters.email.client import (
    STEP_SECONDS,
    Client,
    MailServer,
    in_thread,
    open_server,
    step,
    text_of_reply,
)
from adapters.email.errors import smtp_refusal
from adapters.email.keeping import KeptClients
from adapters.guard import Guard
from adapters.port import Accepted, Declined, ErrorClass, SendResult, Turn, Unanswered

FINAL_SECONDS: Final = 300.0
"""After the final dot, while the server stores and scans: to give up early here means a doubled mail."""
RESET_SECONDS: Final = 5.0
"""For the question whether a kept connection lives; a new one takes less."""
CLOSING: Final = 421
"""The reply with which a server ends a connection (RFC 5321, 3.8)."""


async def submit(
    raw: bytes,
    *,
    sender: str,
    recipient: str,
    server: MailServer,
    guard: Guard,
    turn: Turn,
    kept: KeptClients,
) -> SendResult:
    """One attempt. Accepted without a platform id: the mail's own Message-ID names it."""
    ehlo = sender.rpartition("@")[2]
    while True:
        client = await _kept(kept, server, ehlo)
        is_new = client is None
        if client is None:
            opened = await open_server(server, guard, ehlo=ehlo)
            if isinstance(opened, Declined):
                return opened
            client = opened
        usable = False
        try:
            refused = await _envelope_given(client, sender, recipient, len(raw))
            if refused is not None and _is_spent(client) and not is_new:
                # That the server wants no more on this connection says nothing of the mail, and it has none.
                continue
            result = refused if refused is not None else await _content_given(client, raw, turn)
            usable = not _is_spent(client)
            return result
        finally:
            if usable:
                kept.put(client, server, ehlo)
            else:
                client.cut()


async def _kept(kept: KeptClients, server: MailServer, ehlo: str) -> Client | None:
    """One that is still good, if there is any."""
    client = kept.take(server, ehlo)
    if client is None or await step(client, partial(_reset, client)) is None:
        return client
    client.cut()
    # Whatever ended this one, a server that was started anew or a network that forgets, has ended them all.
    kept.forget(server, ehlo)
    return None


def _is_spent(client: Client) -> bool:
    return not client.in_step or client.last_reply == CLOSING


async def _envelope_given(client: Client, sender: str, recipient: str, size: int) -> Declined | None:
    client.mails += 1
    return await step(client, partial(_envelope, client, sender, recipient, size))


async def _content_given(client: Client, raw: bytes, turn: Turn) -> SendResult:
    await turn.come()
    refused = await step(client, partial(_data, client))
    if refused is not None:
        return refused
    refused = await step(client, partial(_body, client, raw))
    turn.written()
    return refused if refused is not None else await _answer(client)


async def _answer(client: Client) -> SendResult:
    """The server's word after the final dot."""

    def read() -> tuple[int, bytes]:
        assert client.sock is not None
        client.sock.settimeout(FINAL_SECONDS)
        return client.getreply()

    try:
        reply, said = await in_thread(client, read)
    except (OSError, smtplib.SMTPException) as error:
        return Unanswered(reason=f"no answer after the message ({type(error).__name__})")
    if 200 <= reply < 300:
        return Accepted(platform_id="")
    if 400 <= reply < 600:
        return smtp_refusal(reply, text_of_reply(said))
    return Unanswered(reason=f"an answer that cannot be understood ({reply})")


def _reset(client: Client) -> Declined | None:
    assert client.sock is not None
    client.sock.settimeout(RESET_SECONDS)
    reply, said = client.rset()
    client.sock.settimeout(STEP_SECONDS)
    return None if reply == 250 else smtp_refusal(max(reply, 400), text_of_reply(said))


def _envelope(client: Client, sender: str, recipient: str, size: int) -> Declined | None:
    offered = client.esmtp_features.get("size", "")
    if offered.isdigit() and 0 < int(offered) < size:
        sentence = f"The mail has {size} bytes; the mail server takes {offered}."
        return declined(ErrorClass.BAD_REQUEST, "5.3.4", sentence)
    options = [f"SIZE={size}"] if client.has_extn("size") else []
    reply, said = client.mail(sender, options)
    if not 200 <= reply < 300:
        return smtp_refusal(reply, text_of_reply(said), of_sender=True)
    reply, said = client.rcpt(recipient)
    return None if 200 <= reply < 300 else smtp_refusal(reply, text_of_reply(said))


def _data(client: Client) -> Declined | None:
    client.putcmd("data")
    reply, said = client.getreply()
    return None if reply == 354 else smtp_refusal(reply, text_of_reply(said))


def _body(client: Client, raw: bytes) -> None:
    """With dots doubled (RFC 5321, 4.5.2) and the final one."""
    stuffed = raw.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    end = b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"
    client.send(stuffed + end)
