"""The inbox's one statement, put together from a filter. Pure: text and arguments, no connection.

The filters an agent combines are too many for one statement each and too different for one plan, so the
conditions that are given are joined. What has an index of its own stays a plain equation on that index's
columns; "mine or nobody's" becomes two branches, each in the order of its own index, because an OR would lose
the order and read everything.
"""

import re
from typing import Any, Final

from engine.reading import ConversationFilter
from storage.batch import clean
from storage.statements import load_sql

_SQL: Final = load_sql("reads.sql")


def inbox_statement(
    tenant_id: int, where: ConversationFilter, *, limit: int, before: tuple[int, int] | None
) -> tuple[str, list[Any]]:
    """Conversations that meet `where`, newest activity first, after the one with (active_at, id) `before`."""
    arguments: list[Any] = [tenant_id, limit]

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    common = []
    if len(where.status) == 1:
        common.append(f"c.status = {given(where.status[0])}")
    elif where.status:
        common.append(f"c.status = ANY ({given(list(where.status))}::text[])")
    if where.platform is not None:
        common.append(f"c.platform = {given(where.platform)}")
    if where.channel_id is not None:
        common.append(f"c.channel_id = {given(where.channel_id)}")
    if where.unread is not None:
        common.append("c.unread_count > 0" if where.unread else "c.unread_count = 0")
    if where.tag_id is not None:
        common.append(f"{given(where.tag_id)} = ANY (c.tag_ids)")
    if where.since is not None:
        common.append(f"c.active_at >= {given(where.since)}")
    if where.until is not None:
        common.append(f"c.active_at < {given(where.until)}")
    if before is not None:
        common.append(f"(c.active_at, c.id) < ({given(before[0])}, {given(before[1])})")
    if where.search is not None and where.search.strip():
        words, beginning = search_words(where.search)
        condition = _SQL["search_condition"].replace("/*words*/", given(words))
        common.append(condition.replace("/*beginning*/", given(beginning)))
    if where.assigned_to == 0:
        common.append("c.assigned_to IS NULL")
    elif where.assigned_to is not None:
        common.append(f"c.assigned_to = {given(where.assigned_to)}")
    branches = [common]
    if where.visible_to is not None:
        branches = [
            [*common, f"c.assigned_to = {given(where.visible_to)}"],
            [*common, "c.assigned_to IS NULL"],
        ]
    texts = [
        _SQL["inbox_branch"].replace("/*and*/", "".join(f" AND {condition}" for condition in conditions))
        for conditions in branches
    ]
    return _SQL["inbox"].replace("/*branches*/", " UNION ALL ".join(texts)), arguments


def search_words(text: str) -> tuple[str, str]:
    """What was typed as (words for websearch_to_tsquery, beginning of a word for to_tsquery).

    The last word is taken as a beginning, since people search while they type; one with signs in it, or a
    quoted phrase, is left as it is. A phone number's plus is dropped, as it is in the index.
    """
    words = re.sub(r"(?<!\S)\+(?=\d)", "", clean(text)).split()
    if words and re.fullmatch(r"\w+", words[-1]) and '"' not in text:
        return " ".join(words[:-1]), f"{words[-1]}:*"
    return " ".join(words), ""
