"""A certificate for what runs on loopback, made by the Java runtime that comes by way of pip."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from deploy.local.jars import KEYTOOL
from deploy.local.ports import LOOPBACK
from deploy.local.process import Process

_ALIAS = "guichet"
_DAYS = 3650
_KEYTOOL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key with its certificate as Java takes them (`keystore`, PKCS 12), and the certificate alone, as PEM, for
    clients: it is its own authority."""

    keystore: Path
    password: str
    ca_file: Path


async def make_certificate(directory: Path) -> Certificate:
    """A new one, in these files. Raises PartFailed."""
    made = _place(directory)
    store = ("-alias", _ALIAS, "-storetype", "PKCS12", "-keystore", made.keystore, "-storepass:env", "STORE_PASSWORD")
    who = ("-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=guichet", "-ext", f"san=ip:{LOOPBACK}")
    for arguments in (
        ("-genkeypair", *store, *who, "-validity", str(_DAYS)),
        ("-exportcert", *store, "-rfc", "-file", made.ca_file),
    ):
        keytool = Process(
            "keytool",
            [KEYTOOL, *arguments],
            env={**os.environ, "STORE_PASSWORD": made.password},
            log_path=directory / "keytool.log",
        )
        keytool.start()
        await keytool.completes(within_seconds=_KEYTOOL_SECONDS)
    return made


def _place(directory: Path) -> Certificate:
    directory.mkdir(parents=True, exist_ok=True)
    place = Certificate(directory / "keystore.p12", secrets.token_hex(16), directory / "ca.pem")
    place.keystore.unlink(missing_ok=True)
    return place
