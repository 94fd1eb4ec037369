"""The references of a store's requests, made from a secret that the store keeps.

With another secret a request that comes again would be looked for where it does not stand, and be taken for new. So it
lasts as long as the requests do, and all replicas have the same. Whoever can read the store can read every reference
anyway.
"""

from collections.abc import Iterable
from secrets import token_hex

from services.intake.reference import reference_of
from shared.store.port import Collection, Document

KEY = "references"
SECRET_BYTES = 32


class References:
    """Which references a request may have, the same ones each time and after each start.

    The secret stands in the collection `secrets`; of all replicas, whoever needs it first makes it.
    """

    def __init__(self, secrets: Collection) -> None:
        self._secrets = secrets
        self._known: bytes | None = None

    async def candidates(self, keys: Iterable[str], attempt: int) -> dict[str, str]:
        """The reference of the request under each of these keys, another one with each attempt.

        StoreUnavailable if the secret was not read yet and can't be.
        """
        secret = self._known or await self._read()
        return {key: reference_of(key, secret, attempt) for key in keys}

    async def _read(self) -> bytes:
        made = Document(token_hex(SECRET_BYTES).encode())
        standing = await self._secrets.insert_new({KEY: made})
        self._known = standing[KEY].body if standing else made.body
        return self._known
