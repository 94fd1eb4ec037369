"""Who an agency is: its API key, `<agency id>.<secret>`, says it, never what it sends."""

import hmac

from shared.jurisdiction import Agency, Jurisdiction, key_digest

_NOBODY = key_digest("")


class Authenticator:
    """Knows the agencies' hashed keys. Takes as long for an unknown agency as for a wrong secret."""

    def __init__(self, jurisdiction: Jurisdiction) -> None:
        self._agencies = jurisdiction.agencies

    def agency(self, authorization: str | None) -> Agency | None:
        """The agency to which the key in an Authorization header belongs, if to any."""
        scheme, _, key = (authorization or "").partition(" ")
        name, _, secret = key.strip().partition(".")
        agency = self._agencies.get(name)
        digest = key_digest(secret)
        matches = [hmac.compare_digest(digest, known) for known in (agency.key_digests if agency else (_NOBODY,))]
        return agency if scheme.lower() == "bearer" and secret and any(matches) else None
