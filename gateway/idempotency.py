"""Idempotency-Key: the same call sent twice has one effect and one answer.

The key is claimed in the tenant's database together with a MAC of method, path and body, kept for 24 h,
per user. A call that carries a key is carried to its end even if its client hangs up (see
`gateway.pipeline`), so that the client's next attempt finds the answer and not half a call.

    the same request again          the first answer, with `Idempotency-Replayed: true`
    another request, same key       409 idempotency_key_reused
    while the first is under way    409 idempotency_key_in_use, worth trying again
    the first failed without effect the key is free again (429, 5xx)

Answers that show a secret once are sealed before they are kept: a database dump must not hold tokens.
"""

import hmac

from engine.errors import Conflicting, InvalidInput
from engine.reading import Reads
from gateway.dependencies import Vault

KEY_CHARACTERS_MAX = 255
HEADER = "Idempotency-Key"

_LABEL = b"mijra idempotent requests v1"


def request_hash(master_key: bytes, method: str, path: str, body: bytes) -> bytes:
    """HMAC-SHA256 over what makes two calls the same one. Lengths go in front, so that parts cannot shift.
    Keyed, because a body may hold a password: from a database dump nobody can try which."""
    digest = hmac.new(hmac.digest(master_key, _LABEL, "sha256"), digestmod="sha256")
    for part in (method.encode(), path.encode("utf-8", "surrogatepass"), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def check_key(key: str) -> str:
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isascii() or not key.isprintable():
        sentence = f"Must be 1 to {KEY_CHARACTERS_MAX} printable ASCII characters."
        raise InvalidInput("The idempotency key cannot be used.", fields={HEADER: [sentence]})
    return key


class KeptAnswer:
    """One claimed key, from claim to answer."""

    def __init__(
        self, reads: Reads, vault: Vault, *, tenant_id: int, user_id: int, key: str, secret: bool
    ) -> None:
        self._reads = reads
        self._vault = vault
        self._tenant_id = tenant_id
        self._user_id = user_id
        self._key = key
        self._secret = secret

    async def claim(self, request: bytes, now: int) -> tuple[int, bytes] | None:
        """None: go on, the key is ours. Else the first call's status and answer. Raises Conflicting."""
        claim = await self._reads.claim_key(self._tenant_id, self._user_id, self._key, request, now)
        match claim.state:
            case "claimed":
                return None
            case "answered":
                assert claim.status is not None
                assert claim.answer is not None
                return claim.status, self._opened(claim.answer)
            case "reused":
                raise Conflicting(
                    "This idempotency key was used for another request.", code="idempotency_key_reused"
                )
            case _:
                raise Conflicting(
                    "The first request with this idempotency key has not ended yet.",
                    code="idempotency_key_in_use",
                )

    async def keep(self, status: int, body: bytes) -> None:
        """Ends the claim: with the answer, or freed when the call failed without effect."""
        if status == 429 or status >= 500:
            await self._reads.release_key(self._tenant_id, self._user_id, self._key)
        else:
            kept = self._sealed(body) if self._secret else body
            await self._reads.keep_answer(self._tenant_id, self._user_id, self._key, status, kept)

    def _sealed(self, body: bytes) -> bytes:
        return self._vault.seal(self._tenant_id, self._user_id, {"answer": body.decode()})

    def _opened(self, kept: bytes) -> bytes:
        if not self._secret:
            return kept
        return self._vault.open(self._tenant_id, self._user_id, kept)["answer"].encode()
