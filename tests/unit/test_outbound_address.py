"""What an outbound URL may be and which addresses are public: the list of attacks, and what must go on working."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.engine.components.address import Refused, host_port, public, target
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.errors import Malformed


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://example.com", "example.com", 443),
        ("https://EXAMPLE.com/a?b=c#d", "example.com", 443),
        ("HTTPS://example.com:8443/", "example.com", 8443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://a_b.example/", "a_b.example", 443),
        ("https://93.184.216.34/x", "93.184.216.34", 443),
        ("https://[2606:2800:220:1:248:1893:25c8:1946]/x", "2606:2800:220:1:248:1893:25c8:1946", 443),
        ("https://[2606:2800:0:0:0:0:0:1]/x", "2606:2800::1", 443),
        ("https://example.com/a%20b?q=ä", "example.com", 443),
        ("https://example.com?x=@y", "example.com", 443),
        ("https://example.com/@y:z", "example.com", 443),
    ],
)
def test_plain_urls_are_read(text: str, host: str, port: int) -> None:
    found = target(text)
    assert (found.host, found.port, found.listed) == (host, port, False)
    assert found.url.host is not None
    assert found.url.fragment == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "//example.com",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "https:example.com",
        "https:///example.com",
        "https://",
        "https://2130706433/",  # 127.0.0.1 as one number
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.01/",
        "https://1.2.3.4.5/",
        "https://1.2.3.256/",
        "https://a.0x10/",
        "https://a.1/",
        "https://localhost./",
        "https://example.com./",
        "https://.example.com/",
        "https://a..b/",
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://example.com@127.0.0.1/",
        "https://127.0.0.1%40example.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com\\.evil.example/",
        "https:\\\\example.com/",
        "https://exa mple.com/",
        "https://example.com/a b",
        "https://example.com/\r\nHost: x",
        "https://example.com/\x00",
        " https://example.com/",
        "https://example.com/\t",
        "https://127。0。0。1/",  # ideographic full stops
        "https://①②⑦.⓪.⓪.①/",
        "https://bücher.example/",
        "https://ex\u00adample.com/",
        "https://[::1%25eth0]/",
        "https://[fe80::1%eth0]/",
        "https://[::1/",
        "https://::1/",
        "https://[]/",
        "https://[1.2.3.4]/",
        "https://[::ffff:1.2.3.999]/",
        "https://%31%32%37.0.0.1/",
        "https://example.com:/",
        "https://example.com:0/",
        "https://example.com:443:443/",
        "https://example.com:99999/",
        "https://example.com:+443/",
        "https://example.com:\uff14\uff14\uff13/",
        "https://-a.example/",
        "https://a-.example/",
        "https://" + "a" * 64 + ".example/",
        "https://example.com/" + "a" * 8192,
    ],
)  # fmt: skip
def test_whatever_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        target(text, [("example.com", 443)])
    assert text not in str(caught.value) or text == ""
    assert caught.value.code == "url_refused"


@pytest.mark.parametrize(
    "text",
    ["http://example.com/", "https://example.com:80/", "https://example.com:22/", "http://example.com:443/",
     "https://example.com:6379/"],
)  # fmt: skip
def test_http_and_other_ports_are_the_operator_s_to_open(text: str) -> None:
    with pytest.raises(Refused):
        target(text)
    found = target(text, [("example.com", int(text.rpartition(":")[2].strip("/") or 0) if text[-2].isdigit() else 80)])
    assert found.listed


def test_a_list_opens_exactly_what_it_names() -> None:
    allow = [("intra.example", 8080), ("10.0.0.5", 443), ("::1", 8080)]
    assert target("http://intra.example:8080/", allow).listed
    assert target("http://INTRA.example:8080/", allow).listed
    assert target("http://[0:0::1]:8080/", allow).listed
    assert target("https://10.0.0.5/", allow).listed
    assert not target("https://intra.example/", allow).listed
    for other in ("http://intra.example/", "http://a.intra.example:8080/", "http://intra.example:8081/"):
        with pytest.raises(Refused):
            target(other, allow)


def test_a_list_may_write_a_host_in_any_way() -> None:
    assert host_port("[0:0::1]", 80) == ("::1", 80)
    assert host_port("INTRA.example", 8080) == ("intra.example", 8080)
    assert target("http://[::1]:80/", [host_port("0:0:0::1", 80)]).listed


@pytest.mark.parametrize(
    "url", ["http://bücher.example/v1", "http://model.example./v1", "http://127.1/v1", "http://[::1%25lo]/v1"]
)
def test_a_model_s_address_is_checked_when_the_runner_starts(url: str) -> None:
    with pytest.raises(Malformed):
        ModelEndpoint(url=url)
    for fine in (
        "http://localhost:11434/v1",
        "http://[::1]:8000/v1",
        "https://models.example/openai/v1",
        "http://m/v1",
    ):
        endpoint = ModelEndpoint(url=fine)
        assert target(endpoint.completions, [endpoint.address]).listed


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1",
        "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1",
        "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "100::1", "2001::1", "2001:0:a00:1::",
        "2001:0:808:808:0:0:80ff:fffe", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::1",
        "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "fe80::1%eth0",
        "2606:2800::1%1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_global_unicast_is_not_public(address: str) -> None:
    assert not public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.254", "2606:4700::1111",
     "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808:0:0:f7f7:f7f7"],
)  # fmt: skip
def test_a_global_unicast_address_is_public(address: str) -> None:
    assert public(ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if public(address) and isinstance(address, ipaddress.IPv4Address):
        assert address.is_global
        assert not address.is_multicast
    for wrapped in (address.ipv4_mapped, address.sixtofour) if isinstance(address, ipaddress.IPv6Address) else ():
        if wrapped is not None and not wrapped.is_global:
            assert not public(address)


@given(st.text(max_size=60))
def test_no_text_is_an_accident(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.com{text}", f"https://{text}@example.com/"):
        try:
            found = target(url)
        except Refused:
            continue
        assert found.url.scheme == "https"
        assert found.url.raw_host == found.host
        assert found.url.user is None
        assert found.url.port in (443, 8443)
