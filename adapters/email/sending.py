"""The outbound half: a send becomes one mail, handed to the account's server or service.

Promises    `fit` refuses what mail cannot carry with a sentence and degrades choices and places. `send`
            raises nothing but Cancelled. The platform's id of a message is its Message-ID, whoever sends it.
Limits      Files of `media_bytes_max`. Pace: `messages_per_second` of the account, 5 where it says nothing,
            which every provider allows; to one recipient 5 at once and one a second.
Leaves      what a mail looks like to `composing`, the two ways out to `submitting` and `posting`.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Self

import trio
from msgspec import structs

from adapters.calling import declined
from adapters.client import Connected, PlatformClient
from adapters.clock import wall_ms
from adapters.degrading import LOCATED, NUMBERED, located, numbered
from adapters.email.client import mail_server
from adapters.email.composing import OutFile, OutMail, compose, in_header, mime_of
from adapters.email.describing import PLATFORM, provider_of
from adapters.email.dkim import signed, signs
from adapters.email.keeping import KeptClients
from adapters.email.posting import CALL_SECONDS_MAX, post
from adapters.email.submitting import submit
from adapters.fitting import unfit
from adapters.port import (
    Accepted,
    Account,
    Declined,
    ErrorClass,
    Fitted,
    Limits,
    SendResult,
    Tools,
    Turn,
)
from adapters.uploads import read_stored
from engine.domain.outbound import (
    MediaRef,
    OutboxItem,
    Send,
    SendInteractive,
    SendLocation,
    SendMedia,
    SendText,
)
from engine.errors import InvalidInput

TEXT_MAX: Final = 60_000
"""Characters; some twenty pages. More is a file."""
PER_SECOND: Final = 5
PER_SECOND_MOST: Final = 1_000
"""Of the setting: a service's dedicated addresses."""
CONCURRENCY: Final = 8
"""Mail servers allow a handful of connections for each login."""
_CONNECTIONS_MAX: Final = 128

_VOICE: Final = PLATFORM.capabilities.degrades["voice"]


class EmailSender(Connected[PlatformClient]):
    """Implements `adapters.port.OpenSender`."""

    platform = PLATFORM.name

    def __init__(self, tools: Tools, now_ms: Callable[[], int] = wall_ms) -> None:
        self._tools = tools
        self._wall_ms = now_ms
        super().__init__(
            PlatformClient(
                tools.guard,
                "The mail service",
                connections_max=_CONNECTIONS_MAX,
                seconds_max=CALL_SECONDS_MAX,
            )
        )
        self._kept = KeptClients()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(self._kept.run)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()
        await super().__aexit__(*error)

    def limits(self, account: Account) -> Limits:
        return Limits(
            messages_per_second=account.number("messages_per_second", PER_SECOND, PER_SECOND_MOST),
            pair_seconds=1.0,
            pair_burst=5,
            concurrency=CONCURRENCY,
        )

    def fit(self, send: Send) -> Fitted:
        match send:
            case SendText(body=body):
                _check_text("body", body)
                return Fitted(send=send)
            case SendInteractive():
                return Fitted(send=self.fit(numbered(send)).send, note=NUMBERED)
            case SendLocation():
                return Fitted(send=self.fit(located(send)).send, note=LOCATED)
            case SendMedia(media=media):
                return _fit_media(send, media)
            case _:
                raise InvalidInput(
                    "E-mail cannot carry this.",
                    fields={"type": ["Mail has texts and files; send one of these."]},
                )

    async def send(self, item: OutboxItem, account: Account, turn: Turn) -> SendResult:
        try:
            send = self.fit(item.send).send
            prepared = await self._prepare(send, account)
            if isinstance(prepared, Declined):
                return prepared
            text, files = prepared
            mail = compose(item, account, text, files)
        except InvalidInput as error:
            return unfit(error)
        provider = provider_of(account)
        if provider == "mailbox":
            result = await self._submit(mail, account, turn)
        else:
            result = await post(
                provider,
                mail,
                number=item.message_id,
                account=account,
                client=self._client,
                turn=turn,
                at_ms=self._wall_ms(),
            )
        return Accepted(platform_id=mail.message_id) if isinstance(result, Accepted) else result

    async def _submit(self, mail: OutMail, account: Account, turn: Turn) -> SendResult:
        server = mail_server(account)
        if server is None:
            sentence = "The account has no mail server: set smtp_host, or another provider."
            return declined(ErrorClass.ACCOUNT, "no_server", sentence)
        at_ms = self._wall_ms()

        def form() -> bytes:
            raw = mime_of(mail, at_ms)
            return signed(raw, account) if signs(account) else raw

        try:
            # Megabytes of base64, or a signature: not in the loop's time.
            raw = await trio.to_thread.run_sync(form)
        except InvalidInput as error:
            return declined(ErrorClass.ACCOUNT, error.code, error.message)
        return await submit(
            raw,
            sender=mail.from_address,
            recipient=mail.to,
            server=server,
            guard=self._tools.guard,
            turn=turn,
            kept=self._kept,
        )

    async def _prepare(self, send: Send, account: Account) -> tuple[str, tuple[OutFile, ...]] | Declined:
        """The text and the files."""
        if isinstance(send, SendText):
            return send.body, ()
        assert isinstance(send, SendMedia), "nothing else fits"
        media = send.media
        if media.storage_key is None:
            # A public link: mail needs no copy of it.
            return "\n\n".join(part for part in (media.caption, media.link) if part), ()
        content = await read_stored(self._tools.media, media.storage_key)
        if isinstance(content, Declined):
            return content
        most = PLATFORM.capabilities.media_bytes_max.get(media.kind, 0)
        if not 0 < len(content) <= most:
            sentence = f"The file has {len(content)} bytes; mail takes 1 to {most}."
            return declined(ErrorClass.BAD_REQUEST, "5.3.4", sentence)
        return media.caption or "", (_file(media, content),)


def _fit_media(send: SendMedia, media: MediaRef) -> Fitted:
    if media.kind not in PLATFORM.capabilities.media_bytes_max and media.kind != "voice":
        raise InvalidInput(
            "E-mail cannot carry this.", fields={"type": [f"A {media.kind} cannot be sent by mail."]}
        )
    if media.caption:
        _check_text("caption", media.caption)
    if media.kind == "voice":
        return Fitted(send=SendMedia(media=structs.replace(media, kind="audio")), note=_VOICE)
    return Fitted(send=send)


def _check_text(field: str, text: str) -> None:
    if not text.strip():
        raise InvalidInput("E-mail cannot carry this.", fields={field: ["A mail needs a text."]})
    if len(text) > TEXT_MAX:
        raise InvalidInput("E-mail cannot carry this.", fields={field: [f"At most {TEXT_MAX} characters."]})


def _file(media: MediaRef, content: bytes) -> OutFile:
    media_type = (media.media_type or "").partition(";")[0].strip().lower()
    main, _, sub = media_type.partition("/")
    plain = (
        main.isascii()
        and sub.isascii()
        and main.isalpha()
        and sub.replace("-", "").replace(".", "").replace("+", "").isalnum()
    )
    # A mail within the mail would be read as part of it.
    if not plain or main in ("message", "multipart"):
        media_type = "application/octet-stream"
    name = in_header(media.filename or "").replace("/", "_")[-150:] or f"{media.kind}"
    return OutFile(filename=name, media_type=media_type, content=content)
