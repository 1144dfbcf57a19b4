"""Which addresses may be fetched from: those of listed hosts, and the public ones if not told otherwise."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.web_hosts import HostRule, WebAddress, WebHosts

PUBLIC = ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822")
PRIVATE = (
    "10.1.2.3",
    "192.168.0.7",
    "172.16.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "::1",
    "fd00::1",
    "fec0::1",
    "::ffff:10.1.2.3",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "::7f00:1",
)
METADATA = ("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe")
NEVER = ("0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://Images.Example.ORG/cat.png?size=1#top", ("https://images.example.org", "/cat.png?size=1")),
        ("HTTP://example.org.", ("http://example.org", "/")),
        ("http://example.org:80/a", ("http://example.org", "/a")),
        ("https://example.org:80/a", ("https://example.org:80", "/a")),
        ("https://bücher.example/ü?ö=%20", ("https://xn--bcher-kva.example", "/%C3%BC?%C3%B6=%20")),
        ("http://[::1]:8080/a", ("http://[::1]:8080", "/a")),
    ],
)
def test_a_url_is_taken_apart(url: str, told: tuple[str, str]) -> None:
    address = WebAddress.of(url)
    assert (address.origin, address.target) == told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "neither with https"),
        ("ftp://example.org/a", "neither with https"),
        ("https:///cat.png", "no host"),
        ("https://user:secret@example.org/", "a user name or a password"),
        ("https://example.org@evil.example/", "a user name or a password"),
        ("https://example.org/a b", "spaces"),
        ("https://example.org/a\r\nHost: evil", "control characters"),
        ("https://example.org\\@evil.example/", "backslashes"),
        ("https://example.org:99999/", "cannot be read"),
        ("https://example.org:0/", "port is 0"),
        ("https://-a.example/", "no host"),
        ("https://" + "a" * 64 + ".example/", "no host"),
        ("https://fe80::1%eth0/", "cannot be read"),
        ("https://[fe80::1%25eth0]/", "no host"),
        ("https://example.org/" + "a" * 9000, "characters"),
    ],
)
def test_what_is_no_url_of_the_web_is_refused_without_quoting_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        WebAddress.of(url)
    assert "secret" not in str(refused.value)


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(max_size=40).map(lambda text: f"https://{text}"),
        st.text(max_size=40).map(lambda text: f"http://a.example/{text}"),
        st.text(alphabet="ahtps:/.@[]%?#\\x0127&=-_*\t\n", max_size=40).map(lambda text: f"http://{text}"),
    )
)
def test_whatever_is_sent_a_request_has_one_line_for_one_host(url: str) -> None:
    try:
        address = WebAddress.of(url)
    except ValueError:
        return
    told = f"{address.target}{address.authority}"
    assert told.isascii() and told.isprintable() and " " not in told
    assert address.target.startswith("/")
    assert not set(address.host) & set("/@?#\\%*")
    again = WebAddress.of(f"{address.origin}{address.target}")
    assert (again.scheme, again.host, again.port) == (address.scheme, address.host, address.port)


def allows(entries: tuple[str, ...], url: str) -> bool:
    return WebHosts.of(entries).rule(WebAddress.of(url)) is not None


def test_a_host_is_allowed_by_its_name_or_by_what_is_above_it() -> None:
    listed = ("Images.Example.org", "*.cdn.example", "192.168.0.7", "[fd00::1]:8080", "box:9000")
    for url in (
        "https://images.example.org/a",
        "http://images.example.org./a",
        "https://a.b.cdn.example/",
        "http://192.168.0.7/",
        "http://[fd00:0::1]:8080/",
        "http://box:9000/",
    ):
        assert allows(listed, url), url
    for url in (
        "https://images.example.org:8443/a",
        "https://evil-images.example.org/",
        "https://images.example.org.evil.example/",
        "https://cdn.example/",
        "https://evilcdn.example/",
        "http://192.168.0.70/",
        "http://[fd00::1]/",
        "http://box/",
    ):
        assert not allows(listed, url), url
    assert allows(("*",), "https://anything.example/") and not allows(("*",), "https://anything.example:22/")
    assert allows(("*:22",), "https://anything.example:22/")
    assert not allows((), "https://anything.example/")


@pytest.mark.parametrize(
    "entry", ["", "*.", "https://a.example", "a.example/b", "a b", "*.1.2.3.4", "a:0", "a:70000", "*a.b"]
)
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no host: write images\.example\.org"):
        WebHosts.of([entry])


def test_only_a_host_that_is_listed_as_itself_may_be_in_a_private_network() -> None:
    anybody, named, literal = HostRule.of("*"), HostRule.of("box.example"), HostRule.of("169.254.169.254")
    below = HostRule.of("*.example")
    for rule in (anybody, below, named, literal):
        assert all(rule.lets_connect(ip_address(each)) for each in PUBLIC)
        assert not any(rule.lets_connect(ip_address(each)) for each in NEVER)
    for rule in (anybody, below):
        assert not any(rule.lets_connect(ip_address(each)) for each in (*PRIVATE, *METADATA))
    assert all(named.lets_connect(ip_address(each)) for each in PRIVATE)
    assert not any(named.lets_connect(ip_address(each)) for each in METADATA), "names are of whoever has them"
    assert literal.lets_connect(ip_address(METADATA[0]))


def test_the_entry_that_names_a_host_goes_before_those_that_do_not() -> None:
    rule = WebHosts.of(["*", "*.example", "box.example"]).rule(WebAddress.of("http://box.example/"))
    assert rule is not None and rule.is_exact
