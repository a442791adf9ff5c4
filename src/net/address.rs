//! Which addresses may be dialled. Pure tables; asks nobody.
//!
//! IPv4: everything but the special ranges. IPv6: nothing but global unicast (`2000::/3`) less its special
//! ranges and less whatever carries an IPv4 address inside, as such an address leads to wherever that one does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::Host;

/// Why an address is not dialled: the name of the range it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} addresses are not connected to")]
pub struct Forbidden(pub &'static str);

struct Range4(Ipv4Net, &'static str);
struct Range6(Ipv6Net, &'static str);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, name: &'static str) -> Range4 {
    Range4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), name)
}

const fn v6(head: [u16; 3], prefix: u8, name: &'static str) -> Range6 {
    Range6(Ipv6Net::new_assert(Ipv6Addr::new(head[0], head[1], head[2], 0, 0, 0, 0, 0), prefix), name)
}

/// The IANA IPv4 Special-Purpose Address Registry (read 2026-11-24), also the entries it calls globally
/// reachable, as no picture lives there; multicast; and the one metadata server in public space.
const SPECIAL_V4: &[Range4] = &[
    v4(0, 0, 0, 0, 8, "\"this network\" (RFC 791)"),
    v4(10, 0, 0, 0, 8, "private-use (RFC 1918)"),
    v4(100, 64, 0, 0, 10, "shared carrier (RFC 6598)"),
    v4(127, 0, 0, 0, 8, "loopback (RFC 1122)"),
    v4(169, 254, 0, 0, 16, "link-local (RFC 3927)"),
    v4(172, 16, 0, 0, 12, "private-use (RFC 1918)"),
    v4(192, 0, 0, 0, 24, "IETF protocol (RFC 6890)"),
    v4(192, 0, 2, 0, 24, "documentation (RFC 5737)"),
    v4(192, 31, 196, 0, 24, "AS112 (RFC 7535)"),
    v4(192, 52, 193, 0, 24, "multicast tunnelling (RFC 7450)"),
    v4(192, 88, 99, 0, 24, "6to4 relay (RFC 7526)"),
    v4(192, 168, 0, 0, 16, "private-use (RFC 1918)"),
    v4(192, 175, 48, 0, 24, "AS112 (RFC 7534)"),
    v4(198, 18, 0, 0, 15, "benchmarking (RFC 2544)"),
    v4(198, 51, 100, 0, 24, "documentation (RFC 5737)"),
    v4(203, 0, 113, 0, 24, "documentation (RFC 5737)"),
    v4(224, 0, 0, 0, 4, "multicast (RFC 5771)"),
    v4(240, 0, 0, 0, 4, "reserved and broadcast (RFC 1112, RFC 919)"),
    v4(168, 63, 129, 16, 32, "Azure host agent"),
];

/// The one part of IPv6 from which public addresses are given out (RFC 4291, section 2.4).
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The IANA IPv6 Special-Purpose Address Registry (read 2026-11-24), the part inside [`GLOBAL_UNICAST`].
const SPECIAL_V6: &[Range6] = &[
    // Holds Teredo, benchmarking, AMT, AS112, ORCHID, DRIP and anycast blocks.
    v6([0x2001, 0, 0], 23, "IETF protocol (RFC 2928)"),
    v6([0x2001, 0xdb8, 0], 32, "documentation (RFC 3849)"),
    v6([0x2002, 0, 0], 16, "6to4 (RFC 3056)"),
    v6([0x2620, 0x4f, 0x8000], 48, "AS112 (RFC 7534)"),
    v6([0x3ffe, 0, 0], 16, "6bone (RFC 3701)"),
    v6([0x3fff, 0, 0], 20, "documentation (RFC 9637)"),
];

/// The IPv6 forms outside [`GLOBAL_UNICAST`] whose names help the person who wrote one.
const NAMED_V6: &[Range6] = &[
    v6([0x64, 0xff9b, 0], 96, "NAT64 (RFC 6052)"),
    v6([0x64, 0xff9b, 1], 48, "local NAT64 (RFC 8215)"),
    v6([0x100, 0, 0], 64, "discard-only (RFC 6666)"),
    v6([0x5f00, 0, 0], 16, "segment routing (RFC 9602)"),
    v6([0xfc00, 0, 0], 7, "unique local (RFC 4193)"),
    v6([0xfe80, 0, 0], 10, "link-local (RFC 4291)"),
    v6([0xfec0, 0, 0], 10, "site-local (RFC 3879)"),
    v6([0xff00, 0, 0], 8, "multicast (RFC 4291)"),
    v6([0, 0, 0], 8, "loopback, unspecified and IPv4-embedding (RFC 4291)"),
];

/// Judges whether `ip` is a public address.
///
/// # Errors
/// [`Forbidden`] with the name of the range that it lies in.
pub fn verdict(ip: IpAddr) -> Result<(), Forbidden> {
    let range = match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().find(|range| range.0.contains(&ip)).map(|range| range.1),
        IpAddr::V6(ip) => special_v6(ip),
    };
    range.map_or(Ok(()), |name| Err(Forbidden(name)))
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if !GLOBAL_UNICAST.contains(&ip) {
        let named = NAMED_V6.iter().find(|range| range.0.contains(&ip));
        return Some(named.map_or("not globally assigned (RFC 4291)", |range| range.1));
    }
    if is_isatap(ip) {
        return Some("ISATAP (RFC 5214)");
    }
    SPECIAL_V6.iter().find(|range| range.0.contains(&ip)).map(|range| range.1)
}

/// ISATAP puts an IPv4 address behind `0000:5efe` or `0200:5efe`, under any prefix.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let [.., flags, marker, _, _] = ip.segments();
    flags & !0x0200 == 0 && marker == 0x5efe
}

/// What an operator exempts from the address rule: networks, and single servers by host and port.
///
/// Text form: CIDRs and `host:port` pairs, separated by commas. What is exempt may also be asked over plain
/// http and on any port. A pair holds for the host as written in the URL, not for what other names resolve to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    networks: Vec<IpNet>,
    servers: Vec<(Host, u16)>,
}

impl Allowlist {
    /// Whether `ip` lies in an exempt network. An IPv6 address that embeds an exempt IPv4 one does not.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// Whether this very host and port are exempt. `host` is in the form that the `url` crate gives it.
    #[must_use]
    pub fn has_server(&self, host: &Host, port: u16) -> bool {
        self.servers.iter().any(|(exempt, at)| exempt == host && *at == port)
    }

    /// Whether any network is exempt.
    #[must_use]
    pub fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }
}

/// An entry of an [`Allowlist`] is neither a network nor a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?} is not exempted: {reason}")]
pub struct AllowlistError {
    /// The entry as it was written.
    pub entry: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Allowlist {
    type Err = AllowlistError;

    fn from_str(text: &str) -> Result<Self, AllowlistError> {
        let mut list = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = |reason| AllowlistError { entry: entry.to_owned(), reason };
            if entry.contains('/') {
                list.networks.push(parse_network(entry).map_err(wrong)?);
            } else {
                list.servers.push(parse_server(entry).map_err(wrong)?);
            }
        }
        Ok(list)
    }
}

fn parse_network(entry: &str) -> Result<IpNet, &'static str> {
    let network: IpNet = entry.parse().map_err(|_| "a network is written like 10.1.0.0/16 or fd00::/8")?;
    // A slip such as 10.0.0.5/8 would open sixteen million addresses instead of one.
    if network.addr() == network.network() { Ok(network) } else { Err("the address has bits set behind its prefix") }
}

fn parse_server(entry: &str) -> Result<(Host, u16), &'static str> {
    let form = "write a network like 10.1.0.0/16, or a server like images.corp:8080 or [fd00::1]:8080";
    let (host, port) = entry.rsplit_once(':').ok_or(form)?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(form);
    }
    let port = port.parse().map_err(|_| "the port is not a number from 1 to 65535")?;
    if port == 0 {
        return Err("the port is not a number from 1 to 65535");
    }
    let host = Host::parse(host.strip_suffix('.').unwrap_or(host)).map_err(|_| "the host is not one a URL can have")?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_public(ip: &str) -> bool {
        verdict(ip.parse().unwrap()).is_ok()
    }

    #[test]
    fn both_ends_of_every_special_range_are_refused_and_what_lies_beside_is_not() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("168.63.129.16", "168.63.129.16"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.31.196.0", "192.31.196.255"),
            ("192.52.193.0", "192.52.193.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("192.175.48.0", "192.175.48.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
        ] {
            let (first, last) = (first.parse::<Ipv4Addr>().unwrap(), last.parse::<Ipv4Addr>().unwrap());
            assert!(verdict(first.into()).is_err(), "{first}");
            assert!(verdict(last.into()).is_err(), "{last}");
            if let Some(below) = u32::from(first).checked_sub(1).map(Ipv4Addr::from) {
                assert!(verdict(below.into()).is_ok(), "{below}");
            }
            if let Some(above) = u32::from(last).checked_add(1).map(Ipv4Addr::from) {
                assert!(verdict(above.into()).is_ok(), "{above}");
            }
        }
    }

    #[test]
    fn ipv6_is_global_unicast_less_its_special_blocks() {
        for special in [
            "::",
            "::1",
            "::8.8.8.8",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "1fff:ffff::1",
            "2001::1",
            "2001:1::1",
            "2001:2::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:10::1",
            "2001:20::1",
            "2001:30::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:808:808::1",
            "2620:4f:8000::1",
            "3ffe::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2606:4700::5efe:808:808",
            "2606:4700::200:5efe:808:808",
        ] {
            assert!(!is_public(special), "{special}");
        }
        for public in [
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700:4700::1111",
            "2620:4f:7fff::1",
            "2620:4f:8001::1",
            "2a00:1450:4001::64",
            "3ffd::1",
            "3fff:1000::1",
        ] {
            assert!(is_public(public), "{public}");
        }
    }

    #[test]
    fn an_allowlist_exempts_networks_and_servers_in_any_spelling_of_the_url() {
        let list: Allowlist = "10.1.0.0/16, fd00::/8,Images.Corp.:8080 ,[::1]:90,127.0.0.1:7000,".parse().unwrap();
        assert!(list.has_address("10.1.255.1".parse().unwrap()));
        assert!(list.has_address("fd12::1".parse().unwrap()));
        assert!(!list.has_address("10.2.0.0".parse().unwrap()));
        assert!(!list.has_address("::ffff:10.1.0.1".parse().unwrap()));
        assert!(list.has_server(&Host::parse("images.corp").unwrap(), 8080));
        assert!(list.has_server(&Host::parse("0x7f.1").unwrap(), 7000));
        assert!(list.has_server(&Host::parse("[0::1]").unwrap(), 90));
        assert!(!list.has_server(&Host::parse("images.corp").unwrap(), 80));
        assert!(!list.has_server(&Host::parse("localhost").unwrap(), 7000));
    }

    #[test]
    fn a_bad_exemption_is_named() {
        for bad in ["10.0.0.5/8", "10.0.0.0/33", "10.0.0.1", "host", "host:0", "host:99999", "::1:80", "a b:80", ":80"]
        {
            let error = format!("10.1.0.0/16,{bad}").parse::<Allowlist>().unwrap_err();
            assert_eq!(error.entry, bad);
        }
    }
}
