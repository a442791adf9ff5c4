//! Which URLs may be asked. Pure: judges the text, and says what rule its addresses must then pass.
//!
//! Refuses every scheme but https (and http where allowed), user names and passwords, other ports than 80 and
//! 443, literal addresses that are not public in whatever spelling, and names that only mean something inside a
//! network. Asks no name system: a name that passes here is judged again by what it resolves to.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::{self, Allowlist, Forbidden};

/// Longest URL that is looked at, in bytes. Links signed by cloud stores are about 2,000 long.
pub const MAX_URL_BYTES: usize = 8_192;

/// Top-level names that lead inside a network or nowhere: RFC 6761, 6762, 7686, 8375, 9476, ICANN's `internal`,
/// and those that never became public because private networks use them.
const PRIVATE_SUFFIXES: &[&str] = &[
    "alt",
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
];

/// Why a URL is not asked. Says only what can be seen in the URL itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not an absolute URL with a host, or too long.
    #[error("it is not a URL")]
    NotAUrl,
    /// Its scheme is not one that is fetched here.
    #[error("only https is fetched")]
    Scheme,
    /// It carries a user name or password.
    #[error("it carries credentials")]
    Credentials,
    /// Its port is not a web server's.
    #[error("only ports 80 and 443 are asked")]
    Port,
    /// Its host is an address that is not public.
    #[error(transparent)]
    Address(#[from] Forbidden),
    /// Its host is a name of private networks.
    #[error("its host is not a public name")]
    Name,
    /// Its name resolved to, or its connection ended at, something that is not public. Never says what.
    #[error("its host is not public")]
    Resolved,
    /// It led from one redirect to the next too often.
    #[error("it redirects too often")]
    Redirects,
}

/// What the addresses behind an accepted URL must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Public, or in an exempt network.
    Public,
    /// In an exempt network: the URL uses what only those may, plain http or another port.
    Exempt,
    /// Anything: the operator named this very host and port.
    Trusted,
}

impl Rule {
    /// Whether an address may be dialled under this rule.
    #[must_use]
    pub fn admits(self, ip: IpAddr, allow: &Allowlist) -> bool {
        match self {
            Self::Public => address::verdict(ip).is_ok() || allow.has_address(ip),
            Self::Exempt => allow.has_address(ip),
            Self::Trusted => true,
        }
    }
}

/// A URL that may be asked, provided that the addresses behind it pass its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    rule: Rule,
}

impl Target {
    /// Judges a URL that somebody wrote. `plain_http` permits the scheme http everywhere.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was asked of anybody.
    pub fn parse(text: &str, allow: &Allowlist, plain_http: bool) -> Result<Self, Refusal> {
        if text.len() > MAX_URL_BYTES {
            return Err(Refusal::NotAUrl);
        }
        Self::judge(Url::parse(text).map_err(|_| Refusal::NotAUrl)?, allow, plain_http)
    }

    /// Judges where a redirect leads, relative to this target.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn redirect(&self, location: &str, allow: &Allowlist, plain_http: bool) -> Result<Self, Refusal> {
        if location.len() > MAX_URL_BYTES {
            return Err(Refusal::NotAUrl);
        }
        Self::judge(self.url.join(location).map_err(|_| Refusal::NotAUrl)?, allow, plain_http)
    }

    /// The URL as it will be asked: without a fragment, its host without a last dot.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What the addresses behind it must be.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    fn judge(mut url: Url, allow: &Allowlist, plain_http: bool) -> Result<Self, Refusal> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(Refusal::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        url.set_fragment(None);
        let host = drop_last_dot(&mut url)?;
        let port = url.port_or_known_default().ok_or(Refusal::Port)?;
        let rule = if allow.has_server(&host, port) {
            Rule::Trusted
        } else {
            judge_host(&host, allow, judge_transport(&url, port, plain_http))?
        };
        Ok(Self { url, rule })
    }
}

/// `example.com.` is `example.com`, but neither certificates nor exemptions are written that way.
fn drop_last_dot(url: &mut Url) -> Result<Host, Refusal> {
    let host = url.host().ok_or(Refusal::NotAUrl)?.to_owned();
    let Host::Domain(name) = &host else { return Ok(host) };
    let Some(bare) = name.strip_suffix('.').map(str::to_owned) else { return Ok(host) };
    url.set_host(Some(&bare)).map_err(|_| Refusal::NotAUrl)?;
    Ok(url.host().ok_or(Refusal::NotAUrl)?.to_owned())
}

/// What only an exempt network may use is a refusal for everyone else.
fn judge_transport(url: &Url, port: u16, plain_http: bool) -> Result<(), Refusal> {
    if url.scheme() != "https" && !plain_http {
        Err(Refusal::Scheme)
    } else if !matches!(port, 80 | 443) {
        Err(Refusal::Port)
    } else {
        Ok(())
    }
}

fn judge_host(host: &Host, allow: &Allowlist, transport: Result<(), Refusal>) -> Result<Rule, Refusal> {
    let literal = match host {
        Host::Domain(name) => {
            judge_name(name)?;
            None
        }
        Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
    };
    match literal {
        Some(ip) if allow.has_address(ip) => return Ok(Rule::Exempt),
        Some(ip) => address::verdict(ip)?,
        // Whether the name leads into an exempt network is known only once it is resolved.
        None if transport.is_err() && allow.has_networks() => return Ok(Rule::Exempt),
        None => {}
    }
    transport.map(|()| Rule::Public)
}

fn judge_name(name: &str) -> Result<(), Refusal> {
    let mut labels = 0;
    for label in name.split('.') {
        let known = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if !known || !(1..=63).contains(&label.len()) {
            return Err(Refusal::Name);
        }
        labels += 1;
    }
    let top = name.rsplit('.').next().unwrap_or_default();
    if labels < 2 || name.len() > 253 || PRIVATE_SUFFIXES.contains(&top) { Err(Refusal::Name) } else { Ok(()) }
}

#[cfg(test)]
#[path = "../../fuzz/oracle.rs"]
mod oracle;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::net::address::verdict;

    fn strict(url: &str) -> Result<Rule, Refusal> {
        Target::parse(url, &Allowlist::default(), false).map(|target| target.rule())
    }

    fn with(allow: &str, url: &str) -> Result<Rule, Refusal> {
        Target::parse(url, &allow.parse().unwrap(), false).map(|target| target.rule())
    }

    #[test]
    fn only_https_is_fetched_by_default() {
        assert_eq!(strict("https://example.com/a.png"), Ok(Rule::Public));
        assert_eq!(strict("https://8.8.8.8/"), Ok(Rule::Public));
        assert_eq!(strict("https://example.com:80/"), Ok(Rule::Public));
        for url in ["http://example.com/", "HTTP://example.com/", "http://8.8.8.8/", "http://example.com:443/"] {
            assert_eq!(strict(url), Err(Refusal::Scheme), "{url}");
        }
        for url in ["ftp://example.com/", "data:image/png;base64,AAAA", "file:///etc/passwd", "wss://example.com"] {
            assert_eq!(strict(url), Err(Refusal::Scheme), "{url}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_wrong_with_the_url() {
        assert_eq!(strict("https://example.com:8443/"), Err(Refusal::Port));
        assert_eq!(strict("https://u@example.com/"), Err(Refusal::Credentials));
        assert_eq!(strict("https://:p@example.com/"), Err(Refusal::Credentials));
        assert_eq!(strict("//example.com/"), Err(Refusal::NotAUrl));
        assert_eq!(strict("https://10.0.0.1/"), Err(Forbidden("private-use (RFC 1918)").into()));
        assert_eq!(strict(&format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES))), Err(Refusal::NotAUrl));
    }

    #[test]
    fn names_that_mean_something_only_inside_a_network_are_refused() {
        for name in [
            "localhost",
            "a.localhost",
            "localhost.localdomain",
            "x.local",
            "db.internal",
            "metadata.google.internal.",
            "metadata",
            "router.lan",
            "1.0.0.127.in-addr.arpa",
            "a.onion",
            "a..example.com",
            "example.com..",
            "a%2b.com",
            "home.arpa",
            "ⓛocalhost",
            "a$b.com",
            "x.INVALID",
        ] {
            let refusal = strict(&format!("https://{name}/")).unwrap_err();
            assert!(matches!(refusal, Refusal::Name | Refusal::NotAUrl), "{name}: {refusal:?}");
        }
        for name in
            ["localhost.example.com", "internal.example.com", "my_bucket.s3.amazonaws.com", "münchen.de", "a.b."]
        {
            assert_eq!(strict(&format!("https://{name}/")), Ok(Rule::Public), "{name}");
        }
    }

    #[test]
    fn an_exempt_server_may_be_anything_but_only_as_written() {
        let allow = "minio:9000,127.0.0.1:7000";
        assert_eq!(with(allow, "http://minio:9000/a"), Ok(Rule::Trusted));
        assert_eq!(with(allow, "http://MINIO.:9000/a"), Ok(Rule::Trusted));
        assert_eq!(with(allow, "http://2130706433:7000/"), Ok(Rule::Trusted));
        assert!(with(allow, "https://minio/a").is_err());
        assert!(with(allow, "http://127.0.0.1:7001/").is_err());
        assert!(with(allow, "http://localhost:7000/").is_err());
        assert!(with(allow, "http://[::ffff:127.0.0.1]:7000/").is_err());
        assert!(with(allow, "http://u:p@minio:9000/").is_err());
        assert!(with(allow, "ftp://minio:9000/").is_err());
    }

    #[test]
    fn an_exempt_network_may_use_plain_http_and_other_ports() {
        let allow = "10.1.0.0/16";
        assert_eq!(with(allow, "http://10.1.2.3:8080/"), Ok(Rule::Exempt));
        assert_eq!(with(allow, "http://images.example.com:8080/"), Ok(Rule::Exempt));
        assert_eq!(with(allow, "https://images.example.com/"), Ok(Rule::Public));
        assert!(with(allow, "https://10.2.0.1/").is_err());
        assert!(with(allow, "http://8.8.8.8:8080/").is_err());
        assert!(with(allow, "http://localhost:8080/").is_err());
        let list: Allowlist = allow.parse().unwrap();
        assert!(Rule::Exempt.admits("10.1.0.1".parse().unwrap(), &list));
        assert!(!Rule::Exempt.admits("8.8.8.8".parse().unwrap(), &list));
        assert!(Rule::Public.admits("8.8.8.8".parse().unwrap(), &list));
        assert!(!Rule::Public.admits("10.2.0.1".parse().unwrap(), &list));
    }

    #[test]
    fn the_url_that_is_asked_has_neither_fragment_nor_last_dot() {
        let target = Target::parse("https://EXAMPLE.com./a?b#c", &Allowlist::default(), false).unwrap();
        assert_eq!(target.url().as_str(), "https://example.com/a?b");
    }

    #[test]
    fn a_redirect_is_read_relative_to_where_it_came_from() {
        let allow = Allowlist::default();
        let from = Target::parse("https://example.com/a/b.png", &allow, false).unwrap();
        let to = |location| from.redirect(location, &allow, false).map(|target| target.url().to_string());
        assert_eq!(to("c.png").unwrap(), "https://example.com/a/c.png");
        assert_eq!(to("//cdn.example.com/c.png").unwrap(), "https://cdn.example.com/c.png");
        assert_eq!(to("http://example.com/"), Err(Refusal::Scheme));
        assert_eq!(to("//user@example.com/"), Err(Refusal::Credentials));
        assert!(to("//169.254.169.254/").is_err());
        assert!(to(r"\\2130706433/").is_err());
    }

    fn spellings(ip: Ipv4Addr) -> Vec<String> {
        let [a, b, c, d] = ip.octets();
        let (whole, tail) = (u32::from(ip), u32::from(ip) & 0xff_ffff);
        let circled = |n: u8| n.to_string().chars().map(|c| if c == '0' { '⓪' } else { circle(c) }).collect::<String>();
        vec![
            format!("{ip}"),
            format!("{ip}."),
            format!("{whole}"),
            format!("{whole:#x}"),
            format!("0{whole:o}"),
            format!("{a}.{tail}"),
            format!("{a:#x}.0{b:o}.{}", u16::from_be_bytes([c, d])),
            format!("0{a:o}.{b:#X}.{c}.000{d:o}"),
            format!("{a}。{b}｡{c}．{d}"),
            format!("{}.{}.{}.{}", circled(a), circled(b), circled(c), circled(d)),
            ip.to_string().replace('.', "%2e").replace('1', "%31"),
        ]
    }

    fn circle(digit: char) -> char {
        char::from_u32(u32::from(digit) - u32::from('1') + u32::from('①')).unwrap()
    }

    /// Most random addresses are public; most of these are not.
    fn any_ipv4() -> impl Strategy<Value = Ipv4Addr> {
        let special = prop_oneof![
            Just(0),
            Just(10),
            Just(100),
            Just(127),
            Just(168),
            Just(169),
            Just(172),
            Just(192),
            Just(198),
            Just(203),
            224..=255_u8
        ];
        let octets = (prop_oneof![any::<u8>(), special], any::<u8>(), any::<u8>(), any::<u8>());
        let heads = [
            [169, 254, 169, 254],
            [192, 168, 0, 1],
            [168, 63, 129, 16],
            [192, 0, 0, 0],
            [192, 0, 2, 0],
            [192, 31, 196, 0],
            [192, 52, 193, 0],
            [192, 88, 99, 0],
            [192, 175, 48, 0],
            [198, 51, 100, 0],
            [203, 0, 113, 0],
            [100, 64, 0, 0],
            [198, 18, 0, 0],
            [172, 16, 0, 0],
        ];
        let near = (proptest::sample::select(heads.to_vec()), any::<u32>(), 0..32_u32)
            .prop_map(|(head, tail, shift)| Ipv4Addr::from(u32::from_be_bytes(head) ^ (tail >> shift)));
        prop_oneof![1 => octets.prop_map(|(a, b, c, d)| Ipv4Addr::new(a, b, c, d)), 1 => near]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

        #[test]
        fn an_address_is_judged_the_same_in_every_spelling(ip in any_ipv4()) {
            for host in spellings(ip) {
                let outcome = strict(&format!("https://{host}/"));
                prop_assert_eq!(outcome.is_err(), oracle::is_special(ip.into()), "{} as {}", ip, host);
            }
        }

        #[test]
        fn no_ipv6_address_that_carries_an_ipv4_one_is_dialled(ip in any_ipv4(), prefix in 0x2000..0x4000_u16) {
            let (high, low) = (u32::from(ip) >> 16, u32::from(ip) & 0xffff);
            for host in [
                format!("::{ip}"),
                format!("::ffff:{ip}"),
                format!("::ffff:0:{ip}"),
                format!("64:ff9b::{ip}"),
                format!("64:ff9b:1::{ip}"),
                format!("2002:{high:x}:{low:x}::1"),
                format!("2001:0:{high:x}:{low:x}::1"),
                format!("2001::{:x}:{:x}", !high & 0xffff, !low & 0xffff),
                format!("{prefix:x}:db9::5efe:{ip}"),
                format!("{prefix:x}:db9::200:5efe:{ip}"),
            ] {
                prop_assert!(strict(&format!("https://[{host}]/")).is_err(), "{}", host);
            }
        }

        #[test]
        fn an_address_is_judged_as_the_registries_say(v4 in any_ipv4(), head in any_head(), tail in any::<u128>()) {
            let near = u128::from(head) ^ (tail >> (tail % 129).min(127));
            for ip in [IpAddr::from(v4), Ipv6Addr::from(tail).into(), Ipv6Addr::from(near).into()] {
                prop_assert_eq!(verdict(ip).is_err(), oracle::is_special(ip), "{}", ip);
                let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
                prop_assert_eq!(strict(&format!("https://{host}/")).is_err(), oracle::is_special(ip), "{}", ip);
            }
        }

        #[test]
        fn whatever_is_accepted_is_a_public_web_address_and_so_is_where_it_redirects(
            text in any_url(),
            locations in proptest::collection::vec(any_url(), 0..3),
        ) {
            let allow = Allowlist::default();
            let base = Target::parse("https://example.com/a", &allow, false).unwrap();
            for start in [Target::parse(&text, &allow, false).ok(), Some(base)].into_iter().flatten() {
                let mut target = start;
                oracle::assert_public(target.url().as_str());
                for location in &locations {
                    let Ok(next) = target.redirect(location, &allow, false) else { break };
                    oracle::assert_public(next.url().as_str());
                    prop_assert_eq!(Target::parse(next.url().as_str(), &allow, false), Ok(next.clone()));
                    target = next;
                }
            }
        }
    }

    /// Where the special blocks of IPv6 begin.
    fn any_head() -> impl Strategy<Value = Ipv6Addr> {
        let heads = [
            "::",
            "::ffff:0:0",
            "64:ff9b::",
            "64:ff9b:1::",
            "100::",
            "100:0:0:1::",
            "1fff::",
            "2000::",
            "2001::",
            "2001:200::",
            "2001:db8::",
            "2002::",
            "2620:4f:8000::",
            "2606:4700::5efe:0:0",
            "3ffe::",
            "3fff::",
            "3fff:1000::",
            "4000::",
            "5f00::",
            "fc00::",
            "fe80::",
            "fec0::",
            "ff00::",
        ];
        proptest::sample::select(heads.map(|head| head.parse().unwrap()).to_vec())
    }

    /// Made of what URLs are made of, so that many of them mean something to some reader.
    fn any_url() -> impl Strategy<Value = String> {
        let parts = [
            "https:",
            "http:",
            "HTTPS:",
            "file:",
            "/",
            "//",
            "///",
            "\\",
            "\\\\",
            "@",
            ":",
            "#",
            "?",
            "%",
            "%2e",
            "%00",
            "%5b",
            "[",
            "]",
            ".",
            "..",
            "。",
            "．",
            "①",
            "⑦",
            "１",
            "ⓛocal",
            "0x7f",
            "0177",
            "127",
            "127.1",
            "0",
            "1",
            "2130706433",
            "10.0.0.1",
            "8.8.8.8",
            "169.254.169.254",
            "[::1]",
            "[::ffff:7f00:1]",
            "[2606:4700::1111]",
            "[fe80::1%25eth0]",
            "localhost",
            "internal",
            "example.com",
            "user",
            ":80",
            ":443",
            ":8443",
            ":0",
            ":65536",
            "\t",
            "\n",
            "\r\n",
            " ",
            "\0",
            "\u{ad}",
            "\u{200b}",
            "ß",
            "xn--",
            "-",
            "_",
        ];
        let made =
            proptest::collection::vec(proptest::sample::select(parts.to_vec()), 0..9).prop_map(|parts| parts.concat());
        prop_oneof![3 => made.clone().prop_map(|rest| format!("https://{rest}")), 1 => made, 1 => "(https?:)?[/\\\\]{0,3}[a-z0-9.:@%\\[\\]#?①。-]{0,24}"]
    }

    #[test]
    fn tricks_that_the_case_file_does_not_list_are_refused() {
        for url in [
            "https://127.0.0.1:0/",
            "https://example.com:0/",
            "https://example.com:65536/",
            "https://example.com:+443/",
            "https://example.com:443:80/",
            r"https:\\127.0.0.1\",
            r"https:\10.0.0.1",
            "https:127.0.0.1",
            "https:////127.0.0.1//",
            "https://127.0.0.1\\@example.com/",
            "https://@127.0.0.1/",
            "https://:@10.0.0.1/",
            "https://a:b@c@127.0.0.1/",
            "https://[fe80::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://[::ffff:0x7f.1]/",
            "https://[0:0:0:0:0:FFFF:7F00:0001]/",
            "https://[::ffff:8.8.8.8]/",
            "https://[64:ff9b:1:ffff::7f00:1]/",
            "https://[64:ff9b:2::1]/",
            "https://[100:0:0:1::1]/",
            "https://[2001:2f::1]/",
            "https://[5f00:1::1]/",
            "https://[3fff:fff:ffff::1]/",
            "https://[2001:0:7f00:1::]/",
            "https://[2002:7f00:1::]/",
            "https://[v1.fe80::1]/",
            "https://[127.0.0.1]/",
            "https://[::1/",
            "https://::1/",
            "https://192.0.0.8/",
            "https://192.0.0.170/",
            "https://100.64.0.1/",
            "https://198.19.255.255/",
            "https://255.255.255.255/",
            "https://239.255.255.250/",
            "https://0x7f.0x1/",
            "https://0X7F000001/",
            "https://00000177.1/",
            "https://127.0.0.1.../",
            "https://127.0.0.1\u{ad}/",
            "https://1\u{200b}27.0.0.1/",
            "https://12\t7.0.0.1/",
            "https://127。0｡0．1./",
            "https://①⑦②.16.0.1/",
            "https://𝟏𝟐𝟕.0.0.1/",
            "https://%30x7f.1/",
            "https://%5B::1%5D/",
            "https://example.com%00/",
            "https://example.com%2f.evil.com/",
            "https://exa\0mple.com/",
            "https://LOCALHOST./",
            "https://ＬＯＣＡＬＨＯＳＴ/",
            "https://metadata.google.INTERNAL/",
            "https://ⅰnternal/",
            "https:///",
            "https://./",
            "https://../",
            "https://.example.com/",
            "https://*.example.com/",
            "https://exam ple.com/",
            "https://1.2.3.4.5/",
            "https://example.1/",
            "https://example.0x/",
        ] {
            assert!(strict(url).is_err(), "{url:?}: {:?}", Target::parse(url, &Allowlist::default(), false));
        }
        let long = |label: usize| format!("https://{}.example.com/", "a".repeat(label));
        assert!(strict(&long(63)).is_ok() && strict(&long(64)).is_err());
        assert!(strict(&format!("https://{}com/", "abcdefg.".repeat(32))).is_err());
    }
}
