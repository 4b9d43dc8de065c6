"""What of a message a platform would refuse, in sentences by field: shared by the adapters' `fit`."""

from collections.abc import Callable

from adapters.port import Declined, ErrorClass
from engine.errors import InvalidInput


class Problems:
    """Collects what is wrong with a message; `fields` is what `InvalidInput` takes."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}

    def add(self, field: str, sentence: str) -> None:
        self.fields.setdefault(field, []).append(sentence)

    def text(
        self,
        field: str,
        value: str | None,
        most: int,
        *,
        length: Callable[[str], int] = len,
        unit: str = "characters",
        required: bool = True,
    ) -> None:
        """A text that is not blank and has at most `most` of `unit`, as `length` counts them."""
        if not (value or "").strip():
            if required:
                self.add(field, "This is required.")
        elif length(value or "") > most:
            self.add(field, f"At most {most} {unit}.")


def unfit(error: InvalidInput) -> Declined:
    """A message that reached the outbox and does not fit, such as an automated reply as its rule has it."""
    sentences = "; ".join(one for some in error.fields.values() for one in some)
    return Declined(error_class=ErrorClass.BAD_REQUEST, platform_code="validation_failed", message=sentences)
