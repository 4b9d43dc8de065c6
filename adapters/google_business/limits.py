"""Google's numbers. The sheet marks those of Business Messages as unconfirmed, and the service that would
confirm them is closed; the ones below the line come from its last documentation as remembered."""

from typing import Final

LABEL: Final = "Google"

TEXT_MAX: Final = 3_072
SUGGESTIONS_MAX: Final = 13
# ------------------------------------------------------------------
SUGGESTION_TEXT_MAX: Final = 25
POSTBACK_MAX: Final = 2_048
CARD_TITLE_MAX: Final = 200
CARD_TEXT_MAX: Final = 2_000
CARD_SUGGESTIONS_MAX: Final = 4
CARDS_MAX: Final = 10
IMAGE_BYTES_MAX: Final = 5_000_000

ANSWER_BYTES_MAX: Final = 4_096
"""Of UTF-8 (sheet, B4)."""

MESSAGES_PER_SECOND: Final = 20
"""Of an agent. The sheet has no number: a pace that no emulator minds."""
MESSAGES_PER_SECOND_MOST: Final = 1_000
CONCURRENCY: Final = 16
"""20 messages a second at the half of a second that a call takes, and some."""
ANSWERS_PER_SECOND: Final = 1
"""Of a profile. Google is said to take ten edits a minute (unconfirmed): what is refused teaches a slower
pace, and nobody writes sixty public answers a minute."""
