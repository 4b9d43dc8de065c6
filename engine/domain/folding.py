"""What people type differently and mean alike, made equal: the database's `mijra_fold`, for those who decide
without a database. A test holds that both agree."""

import re
from typing import Final

_DROPPED: Final = re.compile("[\u064b-\u065f\u0670\u0640]")
"""Diacritics and tatweel."""
_LETTERS: Final = str.maketrans("أإآٱىةؤئ٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "اااايهوي01234567890123456789")


def fold(text: str) -> str:
    """Lower case, one form of each Arabic letter, European digits."""
    return _DROPPED.sub("", text.lower()).translate(_LETTERS)
