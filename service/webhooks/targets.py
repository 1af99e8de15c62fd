"""Allowed targets of webhooks: URLs, and addresses their names may resolve to.

The server connects to the URLs of users, which must not lead into its own network. So only addresses of the public
internet are allowed, in whatever form a name or a number is written. The operator may trust names with any other
address, and with plain HTTP to this machine.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ranksieve.search.errors import InputError

LONGEST_URL = 2000
_LABEL = r"[A-Za-z0-9_-]{1,63}"
URL = (
    rf"^(https?)://({_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?([/?][!\x22$-~]*)?$"
)
"""Form of a URL: no user, password, fragment or spaces; names as in DNS."""

_URL = re.compile(URL)
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # what C libraries take for an address
_PORTS = {"https": 443, "http": 80}
_SETTING = "only names in RANKSIEVE_WEBHOOK_HOSTS may lead elsewhere"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_TUNNELS = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/32")))
_INSIDE = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocols' own; a cloud's metadata
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # another cloud's metadata, though its address is a public one
        ),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Parts of a URL; `trusted` if the operator trusts its name."""

    scheme: str
    host: str
    """Name, or address without brackets."""
    port: int
    path: str
    trusted: bool

    @property
    def authority(self) -> str:
        """Value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def may_be_at(self, address: str) -> bool:
        """Return whether the name may resolve to this address."""
        ip = ipaddress.ip_address(address)
        if self.scheme == "http":
            return self.trusted and ip.is_loopback
        return self.trusted or is_public(ip)


def target_of(url: str, trusted: Sequence[str] = ()) -> Target:
    """Parse and check the URL of a webhook.

    Its name is not looked up before connecting.

    Args:
        url: The user's URL. It may hold a token, so errors do not quote it.
        trusted: Names that may lead to any address; `*.example.com` for all below one.

    Raises:
        InputError: A webhook may not lead to this URL.
    """
    match = _URL.fullmatch(url) if len(url) <= LONGEST_URL else None
    if match is None or len(match[2]) > 253:
        raise InputError(
            "url",
            "must be https://NAME[:PORT]/PATH of ASCII without user, password, fragment or spaces, "
            f"{LONGEST_URL:,} characters at most; got something else",
        )
    scheme, name, path = match[1], match[2].lower(), match[4] or "/"
    target = Target(
        scheme=scheme,
        host=name.strip("[]"),
        port=int(match[3] or _PORTS[scheme]),
        path=path if path.startswith("/") else f"/{path}",
        trusted=any(_matches(name, pattern) for pattern in trusted),
    )
    if name.rpartition(".")[2] == "localhost" and not target.trusted:
        raise InputError("url", f"must lead to the public internet; got {name}: {_SETTING}")
    _check(target, is_number="[" in name or _NUMBER.fullmatch(name) is not None)
    return target


def is_public(ip: Address) -> bool:
    """Return whether an address is public, also if it wraps another one."""
    if isinstance(ip, ipaddress.IPv4Address):
        hidden = ip.is_multicast or ip.is_reserved or any(ip in network for network in _INSIDE)
        return ip.is_global and not hidden
    if ip.ipv4_mapped is not None:
        return is_public(ip.ipv4_mapped)
    if ip in _NAT64:
        return is_public(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
    return ip in _UNICAST and ip.is_global and not any(ip in network for network in _TUNNELS)


def _check(target: Target, *, is_number: bool) -> None:
    if not 0 < target.port <= 65_535:
        raise InputError("url", f"must have a port from 1 to 65535; got {target.port}")
    if target.scheme == "http" and not target.trusted:
        raise InputError(
            "url", f"must begin with https://; got http://, which is for this machine: {_SETTING}"
        )
    if not is_number:
        return
    try:
        allowed = target.may_be_at(target.host)
    except ValueError:
        raise InputError("url", f"must have a name or an address; got {target.host!r}") from None
    if not allowed:
        raise InputError("url", f"must lead to the public internet; got {target.host}: {_SETTING}")


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:]))
