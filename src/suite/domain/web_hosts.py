"""Which addresses of the web may be fetched from: decided before a name is resolved, and after (ADR 79)::

    hosts = WebHosts.of(["images.example.org", "*.cdn.example"])
    address = WebAddress.of("https://images.example.org/cat.png")
    rule = hosts.rule(address)              # None: this host is not listed
    rule.lets_connect(ip_address("10.0.0.5"))

Whoever names an address chooses what a node connects to (server-side request forgery), and whoever owns a
name chooses which machine it means, anew each time (DNS rebinding). So a name is resolved once, and each of
its addresses is asked about here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

IpAddress: TypeAlias = IPv4Address | IPv6Address

MOST_CHARACTERS: Final = 8192
"""The longest URL."""
ANY: Final = "*"
"""The entry for each host that has a public address."""

_PORTS: Final = {"http": 80, "https": 443}
_is_label = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)").fullmatch
_with_port = re.compile(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})").fullmatch
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f]")
_KEPT: Final = "/%:@!$&'()*+,;=~-._?[]"
"""What stays as it is in a path and a query; all else is percent-encoded."""
_TRANSLATED: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""IPv6 addresses that stand for IPv4 ones (NAT64, RFC 6052 and 8215)."""
_COMPATIBLE: Final = IPv6Network("::/96")
"""IPv6 addresses that once stood for IPv4 ones (RFC 4291), and in which the loopback address is too."""
_BROADCAST: Final = IPv4Address("255.255.255.255")


class WebAddress(NamedTuple):
    """A URL of the web, taken apart."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """A name in lower case as DNS has it, or an IP address, without brackets."""
    port: int
    target: str
    """Path and query, as a request has them."""

    @classmethod
    def of(cls, url: str) -> WebAddress:
        """Take a URL apart. Raises ValueError that says what is wrong with it, without quoting it."""
        if len(url) > MOST_CHARACTERS:
            raise ValueError(f"it has {len(url)} characters and may have {MOST_CHARACTERS}")
        if _UNPRINTABLE.search(url) or "\\" in url:
            raise ValueError("it has spaces, control characters or backslashes")
        try:
            split = urlsplit(url)
            port = split.port
        except ValueError:
            raise ValueError("its host or port cannot be read") from None
        if split.scheme not in _PORTS:
            raise ValueError("it begins neither with https:// nor with http://")
        if "@" in split.netloc:
            raise ValueError("it has a user name or a password, which are never sent")
        host = _host(split.hostname or "")
        if port == 0:
            raise ValueError("its port is 0")
        path = quote(split.path or "/", safe=_KEPT)
        query = f"?{quote(split.query, safe=_KEPT)}" if split.query else ""
        return cls(split.scheme, host, port or _PORTS[split.scheme], f"{path}{query}")

    @property
    def origin(self) -> str:
        """Scheme, host and port: all of it that may be told. Paths and queries may have secrets."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port, as a request names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def redirected(self, location: str) -> WebAddress:
        """Where an answer from here leads. Raises ValueError, also if that is less safe than this."""
        found = WebAddress.of(urljoin(f"{self.origin}{self.target}", location))
        if self.scheme == "https" and found.scheme == "http":
            raise ValueError("it leads from https to http")
        return found


class HostRule(NamedTuple):
    """One entry of the list of hosts that may be fetched from."""

    host: str
    """A name, an address, ``*.`` and a name for those below it, or ``*``."""
    port: int | None
    """None: the ones that https and http have without a number."""

    @classmethod
    def of(cls, entry: str) -> HostRule:
        """Read an entry. Raises ValueError that says how to write it."""
        host = entry.strip()
        port: int | None = None
        if (found := _with_port(host)) is not None:
            host, port = found[1], int(found[2])
        is_below = host.startswith("*.")
        try:
            if port is not None and not 0 < port < 65536:
                raise ValueError
            name = host if host == ANY else _host(host.removeprefix("*.").removeprefix("[").removesuffix("]"))
            if is_below and _literal(name) is not None:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{entry[:100]!r} is no host: write images.example.org, *.example.org for those below it, "
                "192.168.0.7, any of them with :PORT, or * for each host that has a public address"
            ) from None
        return cls(f"*.{name}" if is_below else name, port)

    def fits(self, address: WebAddress) -> bool:
        """Whether it is about this address."""
        if address.port != self.port and (self.port is not None or address.port not in _PORTS.values()):
            return False
        if self.is_exact:
            return address.host == self.host
        return self.host == ANY or address.host.endswith(self.host[1:])

    @property
    def is_exact(self) -> bool:
        """Whether it names one host."""
        return not self.host.startswith("*")

    def lets_connect(self, address: IpAddress) -> bool:
        """Whether a host that it names may have this address.

        Only a host that is listed as itself may be in a private network or on this machine, and link-local
        addresses, where clouds keep credentials, have to be listed as such.
        """
        address = _meant(address)
        if address.is_unspecified or address.is_multicast or address == _BROADCAST:
            return False
        if address.is_link_local:
            return _literal(self.host) == address
        return self.is_exact or _is_public(address)


class WebHosts(NamedTuple):
    """The hosts that may be fetched from."""

    rules: tuple[HostRule, ...] = ()
    """Those that name one host first: they let more addresses be."""

    @classmethod
    def of(cls, entries: Iterable[str]) -> WebHosts:
        """Read the entries of a setting. Raises ValueError that says how to write one."""
        return cls(tuple(sorted(map(HostRule.of, entries), key=lambda rule: not rule.is_exact)))

    def rule(self, address: WebAddress) -> HostRule | None:
        """The rule by which an address may be fetched from; None: there is none."""
        return next((rule for rule in self.rules if rule.fits(address)), None)


def _host(text: str) -> str:
    """A host in its one form. Raises ValueError."""
    text = text.lower().removesuffix(".")
    if (literal := _literal(text)) is not None:
        return str(literal)
    try:
        name = text.encode("idna").decode()
    except UnicodeError:
        name = ""
    if len(name) > 253 or not all(map(_is_label, name.split("."))):
        raise ValueError("it has no host, or one that cannot be")
    return name


def _literal(host: str) -> IpAddress | None:
    """The IP address that a host is; None for a name, and for one with a zone such as ``fe80::1%eth0``."""
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _meant(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 one stands for, if it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if any(address in network for network in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _is_public(address: IpAddress) -> bool:
    is_old = isinstance(address, IPv6Address) and (address.is_site_local or address in _COMPATIBLE)
    return address.is_global and not is_old
