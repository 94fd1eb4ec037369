"""Who an agency is: its API key, `<agency id>.<secret>`, says it, never what it sends."""

from shared.jurisdiction import Agency, Jurisdiction, key_digest


class Authenticator:
    """Knows the agencies' hashed keys. How long it takes says nothing of them: secrets are only looked up hashed."""

    def __init__(self, jurisdiction: Jurisdiction) -> None:
        self._agencies = {
            (agency.id, digest): agency for agency in jurisdiction.agencies.values() for digest in agency.key_digests
        }

    def agency(self, authorization: str) -> Agency | None:
        """The agency to which the key in an Authorization header belongs, if to any."""
        scheme, _, key = authorization.partition(" ")
        name, _, secret = key.strip().partition(".")
        if scheme.lower() != "bearer" or not secret:
            return None
        return self._agencies.get((name, key_digest(secret)))
