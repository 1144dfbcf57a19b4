"""What makes the servers of several nodes one cluster: who they are to each other, and where they meet.

``suite cluster create`` writes a cluster file, once. It is copied to each machine and kept as private as a
password: whoever has it can join. All servers of a cluster have the same key, and a connection between two of
them is only used if each has proved that it has the key, whatever name or address it goes to. So machines may
be added, and may change their addresses, without a new file (docs/adr/0060).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import msgspec

from suite.bus import credentials
from suite.bus.credentials import Credential, Credentials
from suite.data_directory import write_private
from suite.errors import ClusterFileUnusable, InvalidConfiguration, OpensslNotFound

DEFAULT_PORT: Final = 6222
"""Where the servers of a cluster meet, by convention."""
VALID_DAYS: Final = 36_500
"""The key is trusted because it is in the file, not because of a date; a new file replaces it."""
OPENSSL_SECONDS: Final = 30.0
_COMMON_NAME: Final = "suite-cluster"
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all servers of a cluster share. Never printed or logged."""

    name: str
    certificate: str
    """PEM. It is its own authority: clients check servers with it."""
    key: str
    """PEM, without a password."""
    fingerprint: str
    """SHA-256 of the public key (its SubjectPublicKeyInfo), in hexadecimal."""
    users: Mapping[str, Credential]
    """Who may connect to any of the servers, as in ``credentials.json``."""

    def __repr__(self) -> str:
        """Without secrets: it may get into a log by mistake."""
        return f"ClusterFile({self.name!r})"

    @classmethod
    def new(cls, name: str, hosts: Sequence[str] = ()) -> ClusterFile:
        """Make a key, its certificate, and a user for each role.

        ``hosts`` are the names and addresses at which clients on other machines reach the servers. Raises
        OpensslNotFound, and InvalidConfiguration for a host that no certificate can name.
        """
        program = shutil.which("openssl")
        if program is None:
            raise OpensslNotFound
        with tempfile.TemporaryDirectory(prefix="suite-cluster-") as directory:
            key, certificate = Path(directory) / "key.pem", Path(directory) / "certificate.pem"
            names = ",".join(map(_alternative_name, dict.fromkeys((_COMMON_NAME, *_LOCAL, *hosts))))
            kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
            extensions = (f"subjectAltName={names}", "extendedKeyUsage=serverAuth,clientAuth")
            _run(
                *(program, "req", *kind, "-days", str(VALID_DAYS), "-subj", f"/CN={_COMMON_NAME}"),
                *(word for extension in extensions for word in ("-addext", extension)),
                *("-keyout", str(key), "-out", str(certificate)),
            )
            public = _run(program, "pkey", "-in", str(key), "-pubout", "-outform", "DER")
            return cls(
                name=name,
                certificate=certificate.read_text(),
                key=key.read_text(),
                fingerprint=hashlib.sha256(public).hexdigest(),
                users=Credentials.new().users,
            )

    @classmethod
    def read(cls, file: Path) -> ClusterFile:
        """Read a cluster file, and take from others what rights they have to it.

        Raises ClusterFileUnusable, and DataDirUnusable if it is another user's.
        """
        try:
            with file.open("rb") as opened:
                credentials.make_private(opened.fileno(), file)
                return msgspec.json.decode(opened.read(), type=cls)
        except OSError as error:
            raise ClusterFileUnusable(
                f"the cluster file {file} cannot be read ({error.strerror}): copy it from a machine that has "
                "it, or make one with `suite cluster create`"
            ) from None
        except msgspec.MsgspecError as error:
            raise ClusterFileUnusable(f"{file} is no cluster file, or is damaged ({error})") from None

    def write(self, file: Path) -> None:
        """Write it for this user alone. Raises ClusterFileUnusable, also if there is a file already."""
        try:
            if file.exists():
                raise ClusterFileUnusable(f"there is a {file} already: another key would shut its nodes out")
            write_private(file, msgspec.json.format(msgspec.json.encode(self)))
        except OSError as error:
            raise ClusterFileUnusable(f"{file} cannot be written ({error.strerror})") from None


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One server's part in a cluster."""

    shared: ClusterFile
    server: str
    """The server's name in the cluster, unlike that of any other."""
    listen: str
    """Where it listens for other servers: host and port."""
    advertise: str | None = None
    """At which host and port others reach it, if not where it listens."""
    join: tuple[str, ...]
    """Where other servers listen: hosts, with ports or without."""

    def files(self, directory: Path) -> tuple[Path, Path]:
        """The paths of the certificate and of the key, in the server's directory."""
        return directory / "cluster-certificate.pem", directory / "cluster-key.pem"

    def write_files(self, directory: Path) -> None:
        """Write certificate and key to where the server reads them. Raises OSError."""
        certificate, key = self.files(directory)
        write_private(certificate, self.shared.certificate.encode())
        write_private(key, self.shared.key.encode())

    def configuration(self, directory: Path) -> dict[str, Any]:
        """What a server's configuration says about it."""
        certificate, key = map(str, self.files(directory))
        host, port = split_address(self.listen)
        return {
            "server_name": self.server,
            "cluster": {
                "name": self.shared.name,
                "listen": f"{_bracketed(host)}:{port}",
                **({"cluster_advertise": self.advertise} if self.advertise else {}),
                "routes": [f"nats-route://{address_of(each)}" for each in self.join],
                # Both sides must have the key of the pinned certificate. That is stricter than names, which
                # `insecure` leaves unchecked, and it holds for addresses that nobody knew beforehand.
                "tls": {
                    "cert_file": certificate,
                    "key_file": key,
                    "ca_file": certificate,
                    "verify": True,
                    "insecure": True,
                    "pinned_certs": [self.shared.fingerprint],
                    "timeout": 5,
                },
            },
        }

    def client_tls(self, directory: Path) -> dict[str, Any]:
        """The encryption of clients' connections, for a server to which other machines connect."""
        certificate, key = map(str, self.files(directory))
        return {"tls": {"cert_file": certificate, "key_file": key}}


def split_address(address: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Split ``host``, ``host:port`` or ``[host]:port``. Raises InvalidConfiguration."""
    bare, colon, port = address.rpartition(":")
    if not colon or (address.count(":") > 1 and not address.startswith("[")) or address.endswith("]"):
        bare, port = address, str(default_port)
    host = bare.removeprefix("[").removesuffix("]")
    if not host or any(each in host for each in "/@ []") or not (port.isascii() and port.isdigit()):
        raise InvalidConfiguration(
            f"{address[:100]!r} is no address: write it as box1 or as box1:{default_port}"
        )
    if not 0 < int(port) < 2**16:
        raise InvalidConfiguration(f"{address[:100]!r} has no port from 1 to 65535")
    return host, int(port)


def address_of(address: str) -> str:
    """The address with its port. Raises InvalidConfiguration."""
    host, port = split_address(address)
    return f"{_bracketed(host)}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a listener on this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _alternative_name(host: str) -> str:
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        if not host or any(each in host for each in ",/:= \n"):
            raise InvalidConfiguration(
                f"{host[:100]!r} is no host: write a name such as box1.example or an address, without a port"
            ) from None
        return f"DNS:{host}"


def _run(*command: str) -> bytes:
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, check=True, capture_output=True, timeout=OPENSSL_SECONDS, env=environ
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [str(error)]
        raise OpensslNotFound(
            f"openssl could not make a key ({last[0]}): OpenSSL 1.1.1 or newer is needed"
        ) from None
