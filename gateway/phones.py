"""Telephone numbers as people write them, for the API."""

import phonenumbers

from engine.domain.phones import variants
from gateway.schemas import invalid


def e164(text: str, country: str | None) -> str:
    """The number with '+' and country code. Raises InvalidInput for what cannot be a number there.

    An older way to write a number (+52 1 … of Mexico) is one that the library has forgotten: it counts when
    the newer one can be a number, and becomes it."""
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException as error:
        sentence = "Is not a phone number in international form, such as +966501234567."
        raise invalid("phone", sentence) from error
    if phonenumbers.is_possible_number(number):
        return _written(number)
    for other in variants(_written(number).removeprefix("+")):
        if phonenumbers.is_possible_number(phonenumbers.parse(f"+{other}")):
            return f"+{other}"
    raise invalid("phone", "Has not as many digits as numbers of this country.")


def _written(number: phonenumbers.PhoneNumber) -> str:
    formatted: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return formatted
