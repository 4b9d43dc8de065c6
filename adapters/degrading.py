"""Messages that a platform cannot carry, put so that it can: the rules that several adapters share.

Promises    Nothing of what the agent wrote is lost; each rule has a sentence, which the adapter gives as
            `Fitted.note` and lists in its capabilities.
"""

from typing import Final

from engine.domain.outbound import SendInteractive, SendLocation, SendText

NUMBERED: Final = "Sent as text with a numbered list of the choices."
LOCATED: Final = "Sent as text with a link to the map."


def joined(*parts: str | None) -> str:
    """Those that there are, each on a line of its own."""
    return "\n".join(part for part in parts if part)


def numbered(send: SendInteractive) -> SendText:
    """Header, body, one numbered line for each choice, footer. The customer answers with a number or the
    words, which come back as text."""
    lines: list[str | None] = [send.header, send.body]
    for number, option in enumerate(send.options, 1):
        more = f" - {option.description}" if option.description else ""
        lines.append(f"{number}. {option.title}{more}")
    return SendText(body=joined(*lines, send.footer))


def located(send: SendLocation) -> SendText:
    """Name, address and a link that every telephone opens in its map."""
    link = f"https://maps.google.com/?q={send.latitude:.6f},{send.longitude:.6f}"
    return SendText(body=joined(send.name, send.address, link))
