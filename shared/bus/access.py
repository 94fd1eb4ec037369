"""Where Kafka is, and as whom to speak to it."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from faststream.kafka.security import parse_security
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.config import ConfigError

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_SASL: dict[Mechanism, type[SASLPlaintext | SASLScram256 | SASLScram512]] = {
    "PLAIN": SASLPlaintext,
    "SCRAM-SHA-256": SASLScram256,
    "SCRAM-SHA-512": SASLScram512,
}


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """Brokers (`host:port`, separated by commas), and what they ask of a client: by itself nothing.

    Files are PEM. Without `ca_file` the machine's own authorities say whom to trust; `certificate_file` and `key_file`
    are the client's own, for brokers that know clients by these.
    """

    servers: str
    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        return self.servers

    def security(self) -> BaseSecurity:
        """As FastStream wants it told. ConfigError if a file can't be used."""
        context = self._ssl_context() if self.protocol.endswith("SSL") else None
        if not self.protocol.startswith("SASL"):
            return BaseSecurity(context)
        return _SASL[self.mechanism](self.username, self.password, context)

    def options(self) -> dict[str, Any]:
        """As aiokafka's clients want it told. ConfigError if a file can't be used."""
        return {"bootstrap_servers": self.servers, **parse_security(self.security())}

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except OSError as error:  # which ssl.SSLError is one of
            files = filter(None, (self.ca_file, self.certificate_file, self.key_file))
            raise ConfigError([f"{', '.join(map(str, files))}: not usable for TLS: {error}"]) from error
        return context
