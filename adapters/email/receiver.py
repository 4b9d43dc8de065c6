"""The inbound half of the e-mail adapter: the webhooks of three providers, each known by its body.

Promises    Every mail and every event of a delivery is one event, in order. `parse` raises InvalidInput and
            nothing else, whatever the bytes. Beside the tokens that signatures have used, no state.
Leaves      mail that comes without a provider (SMTP, IMAP) to its listeners, which call `reading` themselves.
"""

from collections.abc import Mapping, Sequence

from adapters.email import mailgun, postmark, sendgrid
from adapters.email.recognising import recognise
from adapters.email.shapes import shape_of
from adapters.email.signing import Tokens, believed
from adapters.wire import bounded
from engine.domain.inbound import InboundEvent, RoutedEvent
from engine.errors import InvalidInput
from engine.ports import NO_HEADERS, Endpoint, WebhookRequest

_NOT_FORESEEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""A delivery that trips a reader is kept as not understood; the provider must not repeat it for days."""


class EmailReceiver:
    """Implements `engine.ports.Receiver` and `Recogniser`."""

    platform = "email"
    aliases: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._tokens = Tokens()

    def is_handshake(self, request: WebhookRequest) -> bool:
        """None of the three asks before it sends; dashboards look whether somebody is there."""
        return request.method == "GET"

    def challenge(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> bytes | None:
        return None

    def account_hint(self, body: bytes) -> str | None:
        """The address has the endpoint's key, which says it better."""
        return None

    def verify(self, request: WebhookRequest, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        return believed(request, endpoints, self._tokens)

    def recognise(self, event: InboundEvent, endpoint: Endpoint) -> InboundEvent:
        return recognise(event, endpoint)

    def parse(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Sequence[RoutedEvent]:
        shape = shape_of(body)
        try:
            match shape.provider:
                case "mailgun" if shape.form is not None:
                    return [mailgun.read_mail(shape.form, body)]
                case "mailgun":
                    return [mailgun.read_event(shape.delivery)]
                case "sendgrid" if shape.form is not None:
                    return list(sendgrid.read_mail(shape.form, body))
                case "sendgrid":
                    return bounded(sendgrid.read_events(shape.batch))
                case _ if shape.is_mail:
                    return [postmark.read_mail(shape.delivery, body)]
                case _:
                    return [postmark.read_event(shape.delivery)]
        except _NOT_FORESEEN as error:
            raise InvalidInput(
                f"the delivery could not be read ({type(error).__name__})", code="not_understood"
            ) from error
