"""Which addresses may be connected to."""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.source.addresses import Reach, reach_of, refusal, split_authority, unresolved_refusal

NOTHING = reach_of([], [])

REFUSED = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "169.254.0.1": "link-local",
    "fe80::1": "link-local",
    "febf::1": "link-local",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "ff02::1": "multicast",
    "255.255.255.255": "broadcast",
    "169.254.169.254": "cloud metadata",
    "169.254.170.2": "cloud metadata",
    "100.100.100.200": "cloud metadata",
    "168.63.129.16": "cloud metadata",
    "192.0.0.192": "cloud metadata",
    "fd00:ec2::254": "cloud metadata",
    "fd00:ec2::23": "cloud metadata",
    "fd20:ce::254": "cloud metadata",
}

EMBEDDED = [
    "::ffff:127.0.0.1",  # mapped
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # translated
    "::127.0.0.1",  # compatible
    "64:ff9b::127.0.0.1",  # NAT64
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::127.0.0.1",  # NAT64 of the site: /96, /48, /56, /64
    "64:ff9b:1:7f00:0:100::",
    "64:ff9b:1:7f:0:1::",
    "64:ff9b:1:0:7f:0:100:0",
    "2002:7f00:1::",  # 6to4
    "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::1",  # Teredo: the server, the client
    "2001:0:808:808:0:0:80ff:fffe",
    "2001:db8::5efe:127.0.0.1",  # ISATAP
    "2001:db8::200:5efe:127.0.0.1",
]

PUBLIC = [
    "8.8.8.8",
    "52.216.1.1",
    "168.63.129.17",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "2001:4860:4860::8888",
    "2600:1f18::1",
    "fd00::1",
    "fc00::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_addresses_of_this_machine_and_its_surroundings_are_refused(text: str) -> None:
    """Loopback, link-local, unspecified, multicast, broadcast and cloud metadata are refused, and it is said why."""
    why = refusal(ip_address(text), "example.org", NOTHING)

    assert why == f"{ip_address(text)} is {REFUSED[text]}"


@pytest.mark.parametrize("text", EMBEDDED)
def test_a_refused_address_inside_of_another_is_refused(text: str) -> None:
    """An IPv6 address that stands for a refused IPv4 address is refused like it."""
    assert refusal(ip_address(text), "example.org", NOTHING) is not None


@pytest.mark.parametrize("text", PUBLIC)
def test_public_and_private_addresses_may_be_connected_to(text: str) -> None:
    """Public addresses and private networks need no permission, also where one embeds another."""
    assert refusal(ip_address(text), "example.org", NOTHING) is None


@pytest.mark.parametrize("text", [*REFUSED, *EMBEDDED])
def test_a_literal_address_names_itself(text: str) -> None:
    """An address that the user wrote as a host may be connected to under that name, and under no other."""
    named = reach_of([f"[{text}]:8080" if ":" in text else f"{text}:8080"], [])

    assert refusal(ip_address(text), text, named) is None
    assert refusal(ip_address(text), "example.org", named) is not None
    assert refusal(ip_address(text), "localhost", named) is not None


def test_a_literal_address_names_no_other() -> None:
    """A literal address as a host does not permit another address of its range."""
    named = reach_of(["127.0.0.1"], [])

    assert refusal(IPv4Address("127.0.0.2"), "127.0.0.1", named) is not None
    assert refusal(IPv6Address("::ffff:127.0.0.1"), "127.0.0.1", named) is not None


@pytest.mark.parametrize("host", ["localhost", "repo.localhost", "LOCALHOST", "localhost."])
def test_localhost_names_loopback_and_nothing_else(host: str) -> None:
    """`localhost` written as a host permits loopback addresses for that host; a name beside it does not."""
    named = reach_of([host], [])

    assert refusal(IPv4Address("127.0.0.1"), host, named) is None
    assert refusal(IPv6Address("::1"), host, named) is None
    assert refusal(IPv4Address("169.254.169.254"), host, named) is not None
    assert refusal(IPv4Address("127.0.0.1"), "example.org", named) is not None
    assert refusal(IPv4Address("127.0.0.1"), "other.localhost", named) is not None
    assert refusal(IPv4Address("127.0.0.1"), host, NOTHING) is not None


def test_a_name_permits_nothing_by_being_named() -> None:
    """A host name that the user wrote down does not permit the refused addresses that it leads to."""
    named = reach_of(["example.org", "notlocalhost"], [])

    assert refusal(IPv4Address("127.0.0.1"), "example.org", named) is not None
    assert refusal(IPv4Address("127.0.0.1"), "notlocalhost", named) is not None


def test_networks_permit_what_lies_in_them() -> None:
    """A network in `addresses` permits its addresses for every name, embedded in others too."""
    named = reach_of([], ["127.0.0.0/8", "fe80::/64"])

    assert refusal(IPv4Address("127.9.9.9"), "example.org", named) is None
    assert refusal(IPv6Address("::ffff:127.0.0.1"), "example.org", named) is None
    assert refusal(IPv6Address("fe80::1%eth0"), "example.org", named) is None
    assert refusal(IPv6Address("::1"), "example.org", named) is not None
    assert (
        refusal(IPv6Address("2001:0:7f00:1:0:0:5601:5601"), "x", named) is not None
    )  # Teredo: one of two
    assert refusal(IPv4Address("169.254.169.254"), "example.org", named) is not None


def test_what_is_no_network_is_an_error() -> None:
    """`addresses` takes networks and addresses; anything else is a ValueError, and a malformed host names nothing."""
    assert reach_of([], ["10.1.2.3"]).networks == (IPv4Network("10.1.2.3/32"),)
    assert reach_of(["a@b", ""], []) == NOTHING
    with pytest.raises(ValueError, match="does not appear to be"):
        reach_of([], ["localhost"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "::1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "x.localhost",
        "LOCALHOST.", "169.254.169.254", "0xa9fea9fe", "metadata.google.internal", "0",
    ],
)  # fmt: skip
def test_hosts_that_a_proxy_would_resolve_are_refused_by_what_they_say(host: str) -> None:
    """Where a proxy resolves names, a host that is a refused address in any notation, or a name for one, is refused."""
    assert unresolved_refusal(host, NOTHING) is not None
    assert unresolved_refusal("example.org", NOTHING) is None


def test_hosts_that_a_proxy_would_resolve_are_permitted_by_name() -> None:
    """A host that the user wrote down as address or `localhost` goes through a proxy."""
    for host in ["127.0.0.1", "::1", "localhost", "metadata.google.internal"]:
        named = reach_of([f"[{host}]" if ":" in host else host], [])
        assert unresolved_refusal(host, named) is None
    assert unresolved_refusal("2130706433", reach_of([], ["127.0.0.0/8"])) is None


@pytest.mark.parametrize(
    ("authority", "parts"),
    [
        ("example.org", ("example.org", None)),
        ("Example.ORG.:80", ("example.org", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("bucket_1.s3.example.org", ("bucket_1.s3.example.org", None)),
    ],
)
def test_an_authority_is_a_host_and_a_port(authority: str, parts: tuple[str, int | None]) -> None:
    """An authority is split into the host, in lower case and without brackets, and the port."""
    assert split_authority(authority) == parts


@pytest.mark.parametrize(
    "authority",
    ["", ":80", "a:", "a:0", "a:65536", "a:8x", "user@host", "a b", "a/b", "::1", "a\r\nb", "a\0", "[a]", "ä.org", "a:80:90"],
)  # fmt: skip
def test_malformed_authorities_are_errors(authority: str) -> None:
    """What is no host with or without a port is a ValueError."""
    with pytest.raises(ValueError, match="malformed"):
        split_authority(authority)


@given(st.ip_addresses(v=4))
def test_every_embedding_is_refused_as_what_it_embeds(address: IPv4Address) -> None:
    """An IPv4 address that is refused is refused in every embedding, and one that is not, in none of the plain ones."""
    value = int(address)
    plain = refusal(address, "x", NOTHING) is None
    mapped = [IPv6Address(0xFFFF << 32 | value), IPv6Address(0x64FF9B << 96 | value)]
    mapped.append(IPv6Address(0x2002 << 112 | value << 80))
    mapped.append(ip_address(socket.inet_pton(socket.AF_INET6, f"::ffff:{address}")))

    assert {refusal(face, "x", NOTHING) is None for face in mapped} == {plain}


def test_a_reach_can_be_a_key() -> None:
    """Equal reaches are equal as keys."""
    assert len({reach_of(["a", "b:80"], ["10.0.0.0/8"]), reach_of(["b", "a"], ["10.0.0.0/8"])}) == 1
    assert isinstance(NOTHING, Reach)
