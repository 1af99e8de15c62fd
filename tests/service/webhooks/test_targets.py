"""Where webhooks may lead: every way to spell an address of the inside, and what the operator trusts."""

from ipaddress import ip_address

import pytest

from ranksieve.search.errors import InputError
from ranksieve.service.webhooks.targets import LONGEST_URL, is_public, target_of

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "169.254.169.254",  # metadata of most clouds
    "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254",  # and of the others
    "100.64.0.1", "198.18.0.1", "192.88.99.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2001:0:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", INSIDE)
def test_the_inside_of_a_network_is_not_however_it_is_wrapped(address: str) -> None:
    assert not is_public(ip_address(address))
    assert not target_of("https://hooks.example.com").may_be_at(address)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://hooks.example.com", ("https", "hooks.example.com", 443, "/", "hooks.example.com")),
        ("https://Hooks.Example.com:844/a?b=c", ("https", "hooks.example.com", 844, "/a?b=c", "hooks.example.com:844")),
        ("https://hooks.example.com?b=c", ("https", "hooks.example.com", 443, "/?b=c", "hooks.example.com")),
        ("https://8.8.8.8/x", ("https", "8.8.8.8", 443, "/x", "8.8.8.8")),
        ("https://[2606:4700::1111]:8443/", ("https", "2606:4700::1111", 8443, "/", "[2606:4700::1111]:8443")),
    ],
)  # fmt: skip
def test_a_url_is_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    target = target_of(url)

    assert (target.scheme, target.host, target.port, target.path, target.authority) == expected


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "ftp://hooks.example.com/", "file:///etc/passwd", "HTTPS://hooks.example.com/",
        "https://", "https:///path", "https://me@hooks.example.com/", "https://me:s3cret@hooks.example.com/",
        "https://hooks.example.com\\@127.0.0.1/", "https://hooks.example.com#@127.0.0.1/",
        "https://hooks.example.com/a b", "https://hooks.example.com/\n", "https://hooks.example.com/\r\nX: y",
        "https://hooks.example.com:0/", "https://hooks.example.com:65536/", "https://hooks.example.com:x/",
        "https://münchen.example/", "https://hooks..example.com/", "https://[::1/", "https://[fe80::1%25eth0]/",
        "https://[::::]/", "https://" + "a" * 64 + ".example/", "https://" + "a." * 127 + "aa/", "https://2130706433/", "https://127.1/",
        "https://0x7f000001/", "https://0x7F.1/", "https://name.0x1/", "https://0x/",
        "https://hooks.example.com/" + "x" * LONGEST_URL,
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match=r"^url: must") as refused:
        target_of(url)

    assert "s3cret" not in str(refused.value)
    assert len(str(refused.value)) < 300


AT_HOME = ["https://[::1]/", "https://localhost/", "https://LOCALHOST:8443/", "https://a.localhost/"]


@pytest.mark.parametrize("url", [f"https://{one}/" for one in INSIDE if ":" not in one] + AT_HOME)
def test_an_address_of_the_inside_is_refused_at_once(url: str) -> None:
    with pytest.raises(InputError, match="RANKSIEVE_WEBHOOK_HOSTS"):
        target_of(url)


def test_the_operator_trusts_names_with_any_address() -> None:
    trusted = ["hooks.internal", "*.corp.example", "[::1]"]

    for name in ("hooks.internal", "a.corp.example", "a.b.corp.example"):
        assert target_of(f"https://{name}/", trusted).may_be_at("10.0.0.1")
    assert target_of("https://[::1]/", trusted).may_be_at("::1")
    for name in ("corp.example", "evilcorp.example", "hooks.internal.evil.example"):
        assert not target_of(f"https://{name}/", trusted).may_be_at("10.0.0.1")


def test_plain_http_is_for_this_machine_and_trusted_names_only() -> None:
    with pytest.raises(InputError, match="must begin with https"):
        target_of("http://127.0.0.1:8000/")
    with pytest.raises(InputError, match="public internet"):
        target_of("http://10.0.0.1/", ["10.0.0.1"])

    local = target_of("http://localhost:8000/x", ["localhost"])
    assert local.may_be_at("127.0.0.1")
    assert local.may_be_at("::1")
    assert not local.may_be_at("10.0.0.1")
    assert not local.may_be_at("93.184.216.34")
