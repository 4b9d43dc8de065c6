"""A connection to a mail server, by smtplib in threads.

Why smtplib The standard library's client knows every dialect of AUTH and STARTTLS and is kept with Python.
            Its one-call `sendmail` does not tell whether the server may have the message, so its steps are
            taken one by one here.
Promises    Passwords go over TLS alone. The address that is connected to was checked by the guard.
Cancel      The connection is cut and the thread left to notice.
"""

import smtplib
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio
from msgspec import Struct

from adapters.calling import declined
from adapters.email.connecting import connected
from adapters.email.errors import LOGIN, smtp_refusal
from adapters.guard import AddressRefused, Guard, PortRefused
from adapters.port import Account, Declined, ErrorClass

T = TypeVar("T")

CONNECT_SECONDS: Final = 15.0
STEP_SECONDS: Final = 60.0
"""For each command. RFC 5321 allows minutes; a server that needs them is tried again."""
THREADS: Final = 32
_PORTS: Final = {"tls": 465, "starttls": 587, "none": 25}
_USUAL_PORTS: Final = (*_PORTS.values(), 2525)

_threads = trio.CapacityLimiter(THREADS)


class MailServer(Struct, frozen=True, kw_only=True):
    """Where an account's mail is handed in. `security`: tls, starttls or none."""

    host: str
    port: int
    security: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"<MailServer {self.host}:{self.port} {self.security}>"


def mail_server(account: Account) -> MailServer | None:
    """None: the account has no server to send with."""
    settings = account.settings
    host = str(settings.get("smtp_host") or "")
    security = str(settings.get("smtp_security") or "starttls")
    if not host:
        return None
    return MailServer(
        host=host,
        port=int(settings.get("smtp_port") or _PORTS.get(security, 587)),
        security=security,
        username=str(settings.get("smtp_username") or account.external_id),
        password=account.credentials.get("smtp_password", ""),
    )


async def open_server(server: MailServer, guard: Guard, *, ehlo: str) -> "Client | Declined":
    """A connection with TLS and login as the account wants them. To be `cut`."""
    if server.security == "none" and server.password and not guard.lets_through(server.host, server.port):
        sentence = "A password is not sent without TLS: set smtp_security to tls or starttls."
        return declined(ErrorClass.ACCOUNT, "tls_required", sentence)
    try:
        guard.check_port(server.host, server.port, _USUAL_PORTS)
        with trio.fail_after(CONNECT_SECONDS):
            addresses = await guard.resolve(server.host, server.port)
    except PortRefused:
        ports = ", ".join(map(str, sorted(_USUAL_PORTS)))
        sentence = f"Mail servers are called on the ports {ports}; the operator may allow {server.port} too."
        return declined(ErrorClass.ACCOUNT, "port_refused", sentence)
    except AddressRefused:
        sentence = "The mail server's address is not one that may be called."
        return declined(ErrorClass.ACCOUNT, "address_refused", sentence)
    except (OSError, UnicodeError, trio.TooSlowError) as error:
        return unreachable(error)
    client = Client(server, addresses, ehlo)
    opened = False
    try:
        refused = await step(client, client.open)
        opened = refused is None
        return client if refused is None else refused
    finally:
        if not opened:
            client.cut()


class Client(smtplib.SMTP):
    """smtplib's client, which connects to the addresses that it is given, and where TLS is asked for wants a
    certificate for the server's name. `in_step`: every command has had its reply, so that the next may be
    given."""

    def __init__(self, server: MailServer, addresses: Sequence[str], ehlo: str) -> None:
        super().__init__(timeout=STEP_SECONDS, local_hostname=ehlo)
        self.opened_at = trio.current_time()
        self.mails = 0
        self.last_reply = 0
        self.in_step = True
        self._server = server
        self._addresses = addresses
        self._host = server.host  # what smtplib's starttls checks the certificate against

    def open(self) -> Declined | None:
        server = self._server
        self.connect(server.host, server.port)
        self.ehlo_or_helo_if_needed()
        if server.security == "starttls":
            self.starttls(context=ssl.create_default_context())
            self.ehlo_or_helo_if_needed()
        if server.password:
            try:
                self.login(server.username, server.password)
            except smtplib.SMTPNotSupportedError:
                sentence = "The mail server offers no login that can be used."
                return declined(ErrorClass.AUTH, "no_login", sentence)
            except smtplib.SMTPAuthenticationError as error:
                if 400 <= error.smtp_code < 500:
                    return smtp_refusal(error.smtp_code, text_of_reply(error.smtp_error))
                return declined(ErrorClass.AUTH, str(error.smtp_code), LOGIN)
        return None

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        """What smtplib connects by."""
        tls = self._server.security == "tls"
        found = connected(self._addresses, host, port, CONNECT_SECONDS, tls=tls)
        found.settimeout(timeout)
        return found

    def send(self, s: Any) -> None:
        self.in_step = False
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        reply, said = super().getreply()
        self.in_step, self.last_reply = 200 <= reply < 300 or 400 <= reply < 600, reply
        return reply, said

    def leave(self) -> None:
        """Says goodbye, without waiting for the answer, and cuts."""
        with suppress(OSError, ValueError):
            sock = self.sock
            if sock is not None:
                sock.settimeout(0.0)
                sock.send(b"QUIT\r\n")
        self.cut()

    def cut(self) -> None:
        """Ends the connection at once, also under a thread that waits on it. Never raises."""
        sock: socket.socket | None = getattr(self, "sock", None)
        if sock is not None:
            # First of all, so that nobody waits on it any more.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                sock.close()
        file = getattr(self, "file", None)
        if file is not None:
            with suppress(OSError, ValueError):
                file.close()


async def step(client: Client, do: Callable[[], Declined | None]) -> Declined | None:
    """Whatever goes wrong here, the server has no message."""
    try:
        return await in_thread(client, do)
    except smtplib.SMTPNotSupportedError:
        return declined(
            ErrorClass.ACCOUNT, "no_starttls", "The mail server offers no TLS, and mail is not sent without."
        )
    except smtplib.SMTPResponseException as error:
        return smtp_refusal(error.smtp_code, text_of_reply(error.smtp_error))
    except ssl.SSLCertVerificationError as error:
        sentence = f"The mail server's certificate does not hold ({error.verify_message})."
        return declined(ErrorClass.UNREACHABLE, "tls_certificate", sentence)
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        return unreachable(error)


async def in_thread(client: Client, do: Callable[[], T]) -> T:
    try:
        return await trio.to_thread.run_sync(do, abandon_on_cancel=True, limiter=_threads)
    except trio.Cancelled:
        client.cut()
        raise


def unreachable(error: Exception) -> Declined:
    sentence = f"The mail server cannot be reached ({type(error).__name__})."
    return declined(ErrorClass.UNREACHABLE, "unreachable", sentence)


def text_of_reply(said: bytes | str) -> str:
    return said if isinstance(said, str) else said.decode("utf-8", "replace")
