"""Who may do what: permissions, the roles that hold them, and what a token narrows.

Every route names the one permission it needs; a test walks all routes. A role gives permissions within one
tenant, a token's abilities take some away and never add any.

    owner   everything
    admin   everything; only an owner may create, change or remove an owner
    agent   conversations that are theirs or nobody's: read, answer, note, tag, change status, take, hand on;
            customers: read, create, change, but not merge; reads tags, users, automated replies and work
            hours; own availability; own tokens; uploads

A landlord admin who is no member of a tenant acts there as `operator`: sets it up (users, channels, settings,
tags, automated replies), and reads nothing that customers wrote.

What depends on the thing and not only on the role is checked where the thing is at hand: whether an agent may
see a conversation (`may_see`), whose availability or role is changed (gateway/api/users.py).
"""

from collections.abc import Collection
from enum import StrEnum

from engine.reading import ConversationPlace


class Permission(StrEnum):
    """The words are public: they are what a token's abilities name."""

    CONVERSATIONS_VIEW = "conversations.view"
    CONVERSATIONS_REPLY = "conversations.reply"
    CONVERSATIONS_START = "conversations.start"
    CONVERSATIONS_ASSIGN = "conversations.assign"
    CONVERSATIONS_MANAGE = "conversations.manage"
    CONVERSATIONS_EXPORT = "conversations.export"
    CUSTOMERS_VIEW = "customers.view"
    CUSTOMERS_MANAGE = "customers.manage"
    CUSTOMERS_MERGE = "customers.merge"
    NOTES_WRITE = "notes.write"
    TAGS_VIEW = "tags.view"
    TAGS_MANAGE = "tags.manage"
    AUTOMATED_REPLIES_VIEW = "automated_replies.view"
    AUTOMATED_REPLIES_MANAGE = "automated_replies.manage"
    USERS_VIEW = "users.view"
    USERS_MANAGE = "users.manage"
    AVAILABILITY = "users.availability"
    CHANNELS_VIEW = "channels.view"
    CHANNELS_MANAGE = "channels.manage"
    SETTINGS_VIEW = "settings.view"
    SETTINGS_MANAGE = "settings.manage"
    FILES_UPLOAD = "files.upload"
    TOKENS_MANAGE = "tokens.manage"
    EVENTS_VIEW = "events.view"


EVERYTHING = "*"

ROLES: dict[str, frozenset[Permission]] = {
    "owner": frozenset(Permission),
    "admin": frozenset(Permission),
    "operator": frozenset(
        {
            Permission.TAGS_VIEW,
            Permission.TAGS_MANAGE,
            Permission.AUTOMATED_REPLIES_VIEW,
            Permission.AUTOMATED_REPLIES_MANAGE,
            Permission.USERS_VIEW,
            Permission.USERS_MANAGE,
            Permission.CHANNELS_VIEW,
            Permission.CHANNELS_MANAGE,
            Permission.SETTINGS_VIEW,
            Permission.SETTINGS_MANAGE,
        }
    ),
    "agent": frozenset(
        {
            Permission.CONVERSATIONS_VIEW,
            Permission.CONVERSATIONS_REPLY,
            Permission.CONVERSATIONS_START,
            Permission.CONVERSATIONS_ASSIGN,
            Permission.CONVERSATIONS_MANAGE,
            Permission.CUSTOMERS_VIEW,
            Permission.CUSTOMERS_MANAGE,
            Permission.NOTES_WRITE,
            Permission.TAGS_VIEW,
            Permission.AUTOMATED_REPLIES_VIEW,
            Permission.USERS_VIEW,
            Permission.AVAILABILITY,
            Permission.SETTINGS_VIEW,
            Permission.FILES_UPLOAD,
            Permission.TOKENS_MANAGE,
        }
    ),
}


def granted(role: str, abilities: Collection[str]) -> frozenset[Permission]:
    """What a token with `abilities` may do for a user with `role`."""
    held = ROLES.get(role, frozenset())
    if EVERYTHING in abilities:
        return held
    return frozenset(permission for permission in held if permission.value in abilities)


def sees_all(role: str) -> bool:
    """Whether the role sees every conversation of the tenant."""
    return role in ("owner", "admin")


def may_see(role: str, user_id: int, place: ConversationPlace) -> bool:
    """Agents see what is assigned to them or to nobody."""
    return sees_all(role) or place.assigned_to is None or place.assigned_to == user_id
