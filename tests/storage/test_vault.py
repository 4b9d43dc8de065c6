"""Credentials at rest: sealed for one place, opened there only."""

import os

import pytest

from storage.vault import SealBroken, Vault

SECRETS = {"access_token": "EAAG…", "app_secret": "s3cret"}


def test_what_was_sealed_opens_again_and_nowhere_else() -> None:
    """The same tenant and subject get the secrets back; another subject or tenant does not."""
    vault = Vault(os.urandom(32))
    sealed = vault.seal(1, 7, SECRETS)
    assert vault.open(1, 7, sealed) == SECRETS
    assert b"s3cret" not in sealed
    assert vault.seal(1, 7, SECRETS) != sealed
    for tenant, subject in ((1, 8), (2, 7), (17, 0)):
        with pytest.raises(SealBroken, match="another"):
            vault.open(tenant, subject, sealed)


def test_one_changed_bit_is_noticed_wherever_it_is() -> None:
    """Format, key id, nonce, contents and tag; also what is cut short or empty."""
    vault = Vault(os.urandom(32))
    sealed = vault.seal(1, 7, SECRETS)
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises(SealBroken):
            vault.open(1, 7, bytes(changed))
    for length in (0, 4, 16, len(sealed) - 1):
        with pytest.raises(SealBroken):
            vault.open(1, 7, sealed[:length])


def test_a_new_master_key_opens_old_seals_while_the_old_one_is_named() -> None:
    """Retired keys open and never seal; without them the sentence says that the key is missing."""
    old, new = os.urandom(32), os.urandom(32)
    sealed = Vault(old).seal(1, 7, SECRETS)
    rotating = Vault(new, retired=[old])
    assert rotating.open(1, 7, sealed) == SECRETS
    assert not rotating.is_current(sealed)
    again = rotating.seal(1, 7, rotating.open(1, 7, sealed))
    assert rotating.is_current(again)
    assert Vault(new).open(1, 7, again) == SECRETS
    with pytest.raises(SealBroken, match="another master key"):
        Vault(new).open(1, 7, sealed)


def test_a_key_of_the_wrong_length_is_refused() -> None:
    """Thirty-two bytes, for every key."""
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(os.urandom(32), retired=[b"short"])
