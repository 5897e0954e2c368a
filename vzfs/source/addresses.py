"""Which IP addresses may be connected to. Pure.

A name in a URL is a stranger's word for an address. Addresses that mean this machine, its link or
the metadata service of its cloud are refused, in whatever form they are embedded in another, unless
the user named them: the literal address or `localhost` as host of what is allowed, or a network in
`addresses`. Private networks (RFC 1918, ULA) are not refused: archives live there.

An IPv6 prefix of a site's own NAT64 cannot be told from other addresses; where there is one, what
it leads to is not looked at.
"""

import contextlib
import re
import socket
from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, NamedTuple

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network


class Reach(NamedTuple):
    """What the user named: *hosts* of allowed prefixes and endpoints, and *networks* besides.

    Hosts are lower-case, without port, brackets and last dot.
    """

    hosts: frozenset[str]
    networks: tuple[Network, ...]


_REFUSED: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), reason)
    for reason, networks in {
        "cloud metadata": (
            "169.254.169.254/32",  # most clouds
            "169.254.170.2/32",  # AWS: credentials of containers
            "169.254.170.23/32",
            "100.100.100.200/32",  # Alibaba
            "168.63.129.16/32",  # Azure: the host of the machine
            "192.0.0.192/32",  # Oracle
            "fd00:ec2::/32",  # AWS
            "fd20:ce::254/128",  # Google
            "fd00:c1::a9fe:a9fe/128",  # Oracle
            "fd00:42::42/128",  # Scaleway
        ),
        "loopback": ("127.0.0.0/8", "::1/128"),
        "unspecified": ("0.0.0.0/8", "::/128"),  # Linux takes it for loopback
        "link-local": ("169.254.0.0/16", "fe80::/10"),
        "multicast": ("224.0.0.0/4", "ff00::/8"),
        "broadcast": ("255.255.255.255/32",),
    }.items()
    for network in networks
)

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
_TO4: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")

_METADATA_NAMES: Final = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
"""Names that clouds give to their metadata services; only a proxy resolves them unseen."""

_AUTHORITY: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~!$&'()*+,;=%-]+))(?::([0-9]{1,5}))?"
)


def split_authority(authority: str) -> tuple[str, int | None]:
    """Return the host of `host`, `host:port` or `[address]:port`, as in `Reach`, and the port.

    Raises ValueError if it is none of these.
    """
    match = _AUTHORITY.fullmatch(authority)
    host = _plain(match[1] or match[2]) if match else ""
    port = int(match[3]) if match and match[3] else None
    is_bracketed = authority.startswith("[")
    if not host or port == 0 or (port or 0) > 65535 or (is_bracketed and not _is_address(host)):
        raise ValueError("the authority is malformed")
    return host, port


def reach_of(named: Iterable[str], addresses: Iterable[str]) -> Reach:
    """Return the reach of what the user *named* (hosts, with or without port) and of *addresses*.

    *addresses* are networks in CIDR notation, or single addresses. Raises ValueError for what is
    neither; a named host that is malformed names nothing.
    """
    hosts = set()
    for name in named:
        with contextlib.suppress(ValueError):
            hosts.add(name.lower() if _is_address(name) else split_authority(name)[0])
    return Reach(frozenset(hosts), tuple(ip_network(text, strict=False) for text in addresses))


def refusal(address: Address, host: str, reach: Reach) -> str | None:
    """Say why *address*, to which *host* leads, must not be connected to; None if it may be."""
    faces = [(face, reason) for face in _faces(address) if (reason := _reason(face))]
    if not faces:
        return None
    host = _plain(host)
    if host in reach.hosts:
        if _is_address(host) and ip_address(host) == address:
            return None
        if _is_localhost(host):
            faces = [(face, reason) for face, reason in faces if reason != "loopback"]
    if _lies_in(address, reach.networks):
        return None
    for face, reason in faces:
        if not _lies_in(face, reach.networks):
            return (
                f"{address} is {reason}"
                if face == address
                else f"{address} leads to {face}, {reason}"
            )
    return None


def unresolved_refusal(host: str, reach: Reach) -> str | None:
    """Do as `refusal` for a host that somebody else resolves, as far as the name itself tells."""
    plain = _plain(host)
    if _is_localhost(plain):
        return refusal(IPv4Address("127.0.0.1"), plain, reach)
    if plain in _METADATA_NAMES and plain not in reach.hosts:
        return f"{plain} is cloud metadata"
    with contextlib.suppress(ValueError):
        return refusal(ip_address(plain), plain, reach)
    with contextlib.suppress(OSError, UnicodeError):
        # Resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses too.
        return refusal(IPv4Address(socket.inet_aton(plain)), plain, reach)
    return None


def _plain(host: str) -> str:
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ip_address(host)
        return True
    return False


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _lies_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _reason(address: Address) -> str | None:
    return next((reason for network, reason in _REFUSED if address in network), None)


def _faces(address: Address) -> Iterator[Address]:
    """Yield *address* and the IPv4 addresses that it may stand for."""
    yield address
    if isinstance(address, IPv4Address):
        return
    value = int(address)
    low = IPv4Address(value & 0xFFFFFFFF)
    if any(address in network for network in (_MAPPED, _TRANSLATED, _NAT64, _NAT64_LOCAL)):
        yield low
    if address in _COMPATIBLE and value > 1:  # :: and ::1 are addresses of their own
        yield low
    if address in _NAT64_LOCAL:
        # RFC 6052 puts the octets of a /48, /56 or /64 around bits 64 to 71, which are zero.
        for length in (48, 56, 64):
            yield _around_the_gap(value, length)
    if address in _TO4:
        yield IPv4Address(value >> 80 & 0xFFFFFFFF)
    if address in _TEREDO:
        yield IPv4Address(value >> 64 & 0xFFFFFFFF)
        yield IPv4Address(~value & 0xFFFFFFFF)
    if value >> 32 & 0xFDFFFFFF == 0x5EFE:  # ISATAP
        yield low


def _around_the_gap(value: int, length: int) -> IPv4Address:
    octets = value.to_bytes(16)
    whole = octets[length // 8 : 8] + octets[9:]
    return IPv4Address(whole[:4])
