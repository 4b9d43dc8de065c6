"""What of a message a platform would refuse, in sentences by field: shared by the adapters' `fit`."""

from collections.abc import Callable, Sequence

from adapters.calling import declined
from adapters.port import Declined, ErrorClass
from engine.domain.outbound import MediaRef, Option
from engine.errors import InvalidInput


class Problems:
    """Collects what is wrong with a message for the platform of this `label`; `fields` is what `InvalidInput`
    takes."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.fields: dict[str, list[str]] = {}

    def refuse(self) -> None:
        """Raises InvalidInput if there are any."""
        if self.fields:
            raise InvalidInput(f"{self.label} would not accept this message", fields=self.fields)

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

    def source(self, media: MediaRef) -> None:
        """Where a file comes from."""
        if (media.storage_key is None) == (media.link is None):
            self.add("attachment", "Either a stored file or a link.")
        if media.link is not None and not media.link.startswith(("https://", "http://")):
            self.add("link", "An http or https address.")

    def options(
        self,
        options: Sequence[Option],
        most: int,
        *,
        title_max: int,
        id_max: int,
        description_max: int,
        described: bool,
    ) -> None:
        """How many choices there are, what is written on them, and that an answer tells which one it is.
        `described`: their descriptions are shown."""
        if not 1 <= len(options) <= most:
            self.add("options", f"Between 1 and {most}.")
        if len({option.id for option in options}) != len(options):
            self.add("options", "Ids must differ.")
        for index, option in enumerate(options):
            field = f"options.{index}"
            self.text(f"{field}.title", option.title, title_max)
            self.text(f"{field}.id", option.id, id_max)
            self.text(f"{field}.description", option.description, description_max, required=False)
            if option.description and not described:
                self.add(f"{field}.description", "Only a list shows descriptions.")


def unfit(error: InvalidInput) -> Declined:
    """A message that reached the outbox and does not fit, such as an automated reply as its rule has it."""
    sentences = "; ".join(one for some in error.fields.values() for one in some)
    return declined(ErrorClass.BAD_REQUEST, "validation_failed", sentences or error.message)
