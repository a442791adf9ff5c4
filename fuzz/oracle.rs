// What a URL that passed the guard must be, read anew: neither the tables nor the parsers of the guard are used.
// Included by the fuzz target `url_guard` and by the unit tests, so it must stand on the standard library alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IANA IPv4 Special-Purpose Address Registry, the multicast and reserved space of the IPv4 Address Space
/// Registry, and Azure's host agent. Read 2026-11-24.
const V4: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
    192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24
    192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    255.255.255.255/32 168.63.129.16/32";

/// The IANA IPv6 Special-Purpose Address Registry and all that the IPv6 Address Space Registry does not call
/// global unicast. Read 2026-11-24.
const V6: &str = "::1/128 ::/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32
    2001:1::1/128 2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
    2001:30::/28 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 3ffe::/16
    ::/8 100::/8 200::/7 400::/6 800::/5 1000::/4 4000::/3 6000::/3 8000::/3 a000::/3 c000::/3 e000::/4 f000::/5
    f800::/6 fe00::/9 fec0::/10 ff00::/8";

/// Whether no picture of a stranger may be fetched from `ip`.
pub(crate) fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => lies_in(ip, V6) || is_isatap(ip),
    }
}

fn is_special_v4(ip: Ipv4Addr) -> bool {
    V4.split_whitespace().any(|range| {
        let (network, length) = range.split_once('/').unwrap();
        let (network, length): (Ipv4Addr, u32) = (network.parse().unwrap(), length.parse().unwrap());
        (u32::from(ip) ^ u32::from(network)).leading_zeros() >= length
    })
}

fn lies_in(ip: Ipv6Addr, ranges: &str) -> bool {
    ranges.split_whitespace().any(|range| {
        let (network, length) = range.split_once('/').unwrap();
        let (network, length): (Ipv6Addr, u32) = (network.parse().unwrap(), length.parse().unwrap());
        (u128::from(ip) ^ u128::from(network)).leading_zeros() >= length
    })
}

/// RFC 5214: the second half is `0000:5efe` or `0200:5efe`, then an IPv4 address.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let marker = (u128::from(ip) >> 32) & 0xffff_ffff;
    marker == 0x0000_5efe || marker == 0x0200_5efe
}

/// Panics if `url`, which the guard let pass without any exemption, is not a plain https URL of a public place.
pub(crate) fn assert_public(url: &str) {
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
    let rest = url.strip_prefix("https://").unwrap_or_else(|| panic!("{url:?}"));
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    assert!(!authority.contains(['@', '%']) && !url.contains('#'), "{url:?}");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "443"),
    };
    assert!(matches!(port, "80" | "443"), "{url:?}");
    if let Some(ip) = host.strip_prefix('[') {
        let ip: Ipv6Addr = ip.strip_suffix(']').unwrap().parse().unwrap();
        assert!(!is_special(ip.into()), "{url:?}");
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        assert!(!is_special(ip.into()), "{url:?}");
    } else {
        assert_name(host);
    }
}

/// A name that some reader could take for an address, or that only means something inside, is no public name.
fn assert_name(host: &str) {
    let labels: Vec<&str> = host.split('.').collect();
    assert!(labels.len() > 1 && host.len() <= 253, "{host:?}");
    for label in &labels {
        assert!(!label.is_empty() && label.len() <= 63, "{host:?}");
        assert!(label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)));
    }
    let top = labels[labels.len() - 1];
    let is_number = match top.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => top.bytes().all(|byte| byte.is_ascii_digit()),
    };
    assert!(!is_number, "{host:?}");
    let inside = ["localhost", "local", "internal", "localdomain", "lan", "home", "corp", "arpa", "onion", "invalid"];
    assert!(!inside.contains(&top), "{host:?}");
}
