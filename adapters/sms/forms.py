"""Twilio's forms, read strictly: what cannot be read in one way only is not read."""

from typing import Final
from urllib.parse import parse_qsl

from engine.errors import InvalidInput

BODY_BYTES_MAX: Final = 256 * 1024
"""1,600 characters in percent signs and ten addresses are 20 KB; each candidate's signature is a pass over
it."""
_FIELDS_MAX: Final = 512
"""Some forty parameters are documented, and more may come at any time."""


def read_form(body: bytes) -> list[tuple[str, str]]:
    """Names and values in their order, decoded. Raises InvalidInput and nothing else."""
    if len(body) > BODY_BYTES_MAX:
        raise InvalidInput("the form is longer than any of the platform's", code="not_form")
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError as error:  # not ASCII, not UTF-8 when decoded, or too many
        raise InvalidInput("the body is not a form that can be read", code="not_form") from error
