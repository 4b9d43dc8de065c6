"""WhatsApp's items: messages, echoes, statuses and errors of each change, or the change itself."""

import json
from typing import Any

from adapters.port import ErrorClass
from tests.adapters.contract.case import Case
from tests.adapters.contract.cases.meta import sign

_LISTS = ("messages", "message_echoes", "statuses", "errors")


def count(body: bytes) -> int:
    return sum(_entry(entry) for entry in json.loads(body)["entry"])


def _entry(entry: Any) -> int:
    changes = entry.get("changes") if isinstance(entry, dict) else None
    return sum(_change(change) for change in changes) if isinstance(changes, list) and changes else 1


def _change(change: Any) -> int:
    value = change.get("value") if isinstance(change, dict) else None
    if not isinstance(value, dict) or change.get("field") not in ("messages", "smb_message_echoes"):
        return 1
    found = [value[name] for name in _LISTS if value.get(name) is not None]
    return sum(len(each) if isinstance(each, list) else 1 for each in found) or 1


def _codes() -> dict[str, ErrorClass]:
    """The WhatsApp sheet, section 6.3."""
    table = {
        ErrorClass.AUTH: "0 3 10 190 131005 200 210 299",
        ErrorClass.RATE_ACCOUNT: "4 80007 130429 131064 133016",
        ErrorClass.RATE_PAIR: "131056",
        ErrorClass.SPAM_PAUSE: "131048",
        ErrorClass.TRANSIENT: "1 2 131000 131016 131057 135000",
        ErrorClass.WAIT_LONG: "131047 131049",
        ErrorClass.RECIPIENT: "33 130472 131021 131026 131030 131050 137000",
        ErrorClass.ACCOUNT: "368 130497 131031 131037 131042 131045 131062 133010",
        ErrorClass.BAD_REQUEST: "100 131008 131009 131051 131052 131053 132000 132001 132007 132012 132015",
    }
    return {code: error_class for error_class, codes in table.items() for code in codes.split()}


CASE = Case(count=count, sign=sign, samples="whatsapp", codes=_codes())
