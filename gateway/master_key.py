"""The key that channels' credentials are encrypted with.

Exists so that a first start needs no ceremony and a later one cannot silently continue with another key.

Promises   the same key at every start; a file that only its owner can read; a crash while it is written
           leaves either no file or a whole one, and of two first starts at once, both end up with one key.
Leaves     encryption itself to who uses the key. Changing the key is not done here: it would need every
           credential to be encrypted again.
"""

import base64
import os
import secrets
import stat
from typing import Final

import structlog

from gateway.settings import MASTER_KEY_BYTES, InvalidSettings, Settings, variable

FILE_NAME: Final = "master.key"

log = structlog.get_logger()


def master_key(settings: Settings) -> bytes:
    """The key from the environment, else from the data directory, else a new one written there.

    Raises InvalidSettings when the file is not a key or others may read it. Blocks on the disk for a moment;
    meant for the start, before there is a loop to hold up.
    """
    if settings.master_key is not None:
        return settings.master_key
    path = settings.data_dir / FILE_NAME
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write_new(settings)
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise _refusal(
            f"{path} cannot be read or made ({error}): make {variable('data_dir')} writable"
        ) from error
    if mode & 0o077:
        raise _refusal(f"{path} can be read by others: run chmod 600 on it")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != MASTER_KEY_BYTES:
        raise _refusal(
            f"{path} does not hold {MASTER_KEY_BYTES} bytes in base64: restore it from a backup, "
            f"or set {variable('master_key')}"
        )
    return key


def _write_new(settings: Settings) -> None:
    path = settings.data_dir / FILE_NAME
    draft = path.with_name(f"{FILE_NAME}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(MASTER_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, refuses to replace what another start has just put there.
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    directory = os.open(settings.data_dir, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    log.warning(
        "master_key.generated", file=str(path), advice="back it up; without it credentials cannot be read"
    )


def _refusal(sentence: str) -> InvalidSettings:
    return InvalidSettings(sentence, fields={variable("master_key"): [sentence]})
