"""Channels' credentials, encrypted at rest: a `Vault` seals and opens them.

AES-256-GCM with a random 96-bit nonce for each sealing. The first byte says the format, the next four which
key it was (a digest of the key, which tells nothing about it), so that a new master key can be introduced
while old seals are still read: name the old ones in `retired`, seal again, drop them.

Promises   a seal opens only with its key and only for the tenant and subject (a channel, say) it was made
           for, so a row copied to another place does not open there; nor does anything changed by one bit.
Limits     2^32 sealings with one key before nonces could repeat with any likelihood; credentials change a few
           times a year.
Leaves     where the master key comes from to whoever makes the vault.
"""

import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import MijraError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_FORMAT: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_HEAD_BYTES: Final = len(_FORMAT) + _KEY_ID_BYTES

_decode: Final = msgspec.json.Decoder(dict[str, str]).decode


class SealBroken(MijraError):
    """Sealed credentials that this vault cannot open; the sentence says why and what to do."""

    code = "seal_broken"


class Vault:
    """Seals with `master_key` (32 bytes), opens with it and with those that are `retired`."""

    def __init__(self, master_key: bytes, *, retired: Sequence[bytes] = ()) -> None:
        keys = (master_key, *retired)
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a master key has {KEY_BYTES} bytes")
        self._current = _key_id(master_key)
        self._ciphers = {_key_id(key): AESGCM(key) for key in reversed(keys)}

    def seal(self, tenant_id: int, subject_id: int, secrets: dict[str, str]) -> bytes:
        """Encrypt `secrets` for one subject of one tenant. The same input never gives the same bytes."""
        owner = _owner(tenant_id, subject_id)
        head = _FORMAT + self._current
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(
            nonce, msgspec.json.encode(secrets), head + owner.encode()
        )
        return head + nonce + sealed

    def open(self, tenant_id: int, subject_id: int, sealed: bytes) -> dict[str, str]:
        """What was sealed for them. Raises SealBroken; nothing of the contents is in its sentence."""
        owner = _owner(tenant_id, subject_id)
        head, nonce = sealed[:_HEAD_BYTES], sealed[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES]
        if len(nonce) < NONCE_BYTES or head[: len(_FORMAT)] != _FORMAT:
            raise SealBroken(f"The credentials of {owner} are not in a form that this version knows.")
        cipher = self._ciphers.get(head[len(_FORMAT) :])
        if cipher is None:
            raise SealBroken(
                f"The credentials of {owner} were sealed with another master key: restore that key, or "
                "connect the channel again."
            )
        try:
            opened = cipher.decrypt(nonce, sealed[_HEAD_BYTES + NONCE_BYTES :], head + owner.encode())
        except InvalidTag:
            raise SealBroken(
                f"The credentials of {owner} were changed, or belong to another channel: connect it again."
            ) from None
        return _decode(opened)

    def is_current(self, sealed: bytes) -> bool:
        """Whether it was sealed with the present master key; if not, open and seal it again."""
        return sealed[:_HEAD_BYTES] == _FORMAT + self._current


def _owner(tenant_id: int, subject_id: int) -> str:
    return f"tenant {tenant_id}, subject {subject_id}"


def _key_id(key: bytes) -> bytes:
    return sha256(b"mijra vault key" + key).digest()[:_KEY_ID_BYTES]
