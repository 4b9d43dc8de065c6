"""How tests speak HTTP with what they have started themselves."""

from typing import Any, Final

PLAIN: Final[dict[str, Any]] = {"trust_env": False, "verify": False}
"""For httpx clients: nothing is encrypted here, and reading the authorities' certificates takes longer than
most tests."""
