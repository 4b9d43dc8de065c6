"""Items of Pages and Instagram accounts, and the codes of both sheets' section 6."""

import json
from typing import Any

from adapters.port import ErrorClass

_TABLE = {
    ErrorClass.RATE_ACCOUNT: "4 4/2018354 32 613 80006",
    ErrorClass.TRANSIENT: "1 2 1200 9000001",
    ErrorClass.WAIT_LONG: "10/2018278 10/2018065 10/2534022 1545041 2018300 10/2018300",
    ErrorClass.RECIPIENT: "551 200/1545041 100/2018001 10/2018108 100/2534014",
    ErrorClass.BAD_REQUEST: "100 100/33 100/2018109 100/2018008 2018047 2018294 9/2018352",
    ErrorClass.AUTH: "190 190/460 190/463 190/467 10 200 230",
}
CODES = {code: error_class for error_class, codes in _TABLE.items() for code in codes.split()}


def count(body: bytes) -> int:
    return sum(_entry(entry) for entry in json.loads(body)["entry"])


def _entry(entry: Any) -> int:
    if not isinstance(entry, dict):
        return 1
    lists = [entry[name] for name in ("messaging", "standby", "changes") if entry.get(name) is not None]
    inside = sum(len(each) if isinstance(each, list) else 1 for each in lists)
    return inside + ("field" in entry) or 1
