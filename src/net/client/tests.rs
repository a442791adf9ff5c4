use std::collections::HashMap;
use std::process::Command;

use super::*;
use crate::net::scripted::{Answer, Names, Server};

const BLOCKED: FetchError = FetchError::Blocked(Refusal::Resolved);

fn config(allow: &str) -> GuardConfig {
    GuardConfig { allow: allow.parse().unwrap(), ..GuardConfig::default() }
}

fn client(allow: &str, names: Names) -> GuardedClient {
    GuardedClient::new(config(allow), names).unwrap()
}

/// A client that may ask just this server.
fn client_of(server: &Server, change: impl FnOnce(&mut GuardConfig)) -> GuardedClient {
    let mut config = config(&server.addr.to_string());
    change(&mut config);
    GuardedClient::new(config, Names::default()).unwrap()
}

fn is_blocked(outcome: &Result<Fetched, FetchError>) -> bool {
    matches!(outcome, Err(FetchError::Blocked(_)))
}

fn lasting<T: std::fmt::Debug>(outcome: Result<T, FetchError>) -> String {
    match outcome {
        Err(FetchError::Lasting(detail)) => detail,
        other => panic!("{other:?}"),
    }
}

fn passing<T: std::fmt::Debug>(outcome: Result<T, FetchError>) -> String {
    match outcome {
        Err(FetchError::Passing(detail)) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_server_sends_arrives() {
    let server = Server::start(|_, _| {
        Answer::with_headers("200 OK", "Content-Type: image/png\r\nContent-Length: 5\r\n", b"bytes")
    })
    .await;
    let fetched = client_of(&server, |_| {}).fetch(&server.url("/a?b#c")).await.unwrap();
    assert_eq!((&fetched.bytes[..], fetched.content_type.as_deref()), (&b"bytes"[..], Some("image/png")));
}

#[tokio::test]
async fn a_request_carries_nothing_but_what_it_needs() {
    let server = Server::start(|path, _| match path {
        "/1" => Answer::with_headers("302 Found", "Location: /2\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n", b""),
        _ => Answer::ok(b""),
    })
    .await;
    client_of(&server, |_| {}).fetch(&server.url("/1")).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    for (request, path) in requests.iter().zip(["/1", "/2"]) {
        let mut lines: Vec<_> = request.trim_end().split("\r\n").map(str::to_ascii_lowercase).collect();
        lines.sort();
        let agent = format!("user-agent: {USER_AGENT}");
        let host = format!("host: {}", server.addr);
        let first = format!("get {path} http/1.1");
        assert_eq!(lines, ["accept-encoding: identity", "accept: */*", &first, &host, &agent].map(str::to_owned));
    }
}

#[tokio::test]
async fn every_line_of_the_case_file_is_judged_as_it_says() {
    let allow = Allowlist::default();
    let mut judged = 0;
    for line in include_str!("../../../tests/fixtures/ssrf_cases.tsv").lines().skip(1) {
        let [url, verdict, class, _] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let target = Target::parse(url, &allow, true);
        match verdict {
            "block" => assert!(target.is_err(), "{line}"),
            "allow" => assert_eq!(target.unwrap().rule(), Rule::Public, "{line}"),
            "needs-dns" => judge_with_names(url, class).await,
            other => panic!("{other}"),
        }
        judged += 1;
    }
    assert_eq!(judged, 175);
}

/// Rows whose verdict depends on what a name resolves to, or on where a server redirects.
async fn judge_with_names(url: &str, class: &str) {
    let given: HashMap<_, _> = class.split(';').map(|part| part.split_once('=').unwrap()).collect();
    let plain_http = GuardConfig { plain_http: true, ..GuardConfig::default() };
    let target = Target::parse(url, &plain_http.allow, true);
    if let Some(redirect) = given.get("redirect") {
        return judge_redirects(&target.unwrap(), redirect, given["expect"]).await;
    }
    let host = target.as_ref().map(|target| target.url().host_str().unwrap().to_owned()).unwrap_or_default();
    let names = match (given.get("answers"), given.get("rebind")) {
        (Some(&"NXDOMAIN"), _) => Names::default(),
        (Some(answers), _) => {
            let answers = answers.rsplit("->").next().unwrap().split(',').collect::<Vec<_>>();
            Names::default().with(&host, &[&answers])
        }
        (None, Some(rebind)) => {
            let (first, second) = rebind.split_once('|').unwrap();
            Names::default().with(&host, &[&[first], &[second]])
        }
        (None, None) => panic!("{class}"),
    };
    let resolver =
        GuardedResolver { rule: Rule::Public, config: Arc::new(plain_http.clone()), lookup: Arc::new(names) };
    match given["expect"] {
        "allow" => {
            target.unwrap();
            assert_eq!(resolver.resolve(host.parse().unwrap()).await.unwrap().count(), 1, "{url}");
        }
        "block" if target.is_err() => {}
        "block" => {
            assert!(resolver.resolve(host.parse().unwrap()).await.is_err(), "{url}");
            // The rows that answer an address are refusals; one that answers nothing is merely not there.
            let client = GuardedClient::new(plain_http, resolver.lookup).unwrap();
            assert_eq!(client.fetch(url).await.unwrap_err(), BLOCKED, "{url}");
        }
        "connect-only-to-checked-ip" => {
            let dialled: Vec<_> = resolver.resolve(host.parse().unwrap()).await.unwrap().collect();
            assert_eq!(dialled, ["93.184.216.34:0".parse().unwrap()]);
            assert!(resolver.resolve(host.parse().unwrap()).await.is_err());
        }
        other => panic!("{other}"),
    }
}

/// The row's chain on the wire: its public hops are this test's server, under the row's name.
async fn judge_redirects(from: &Target, redirect: &str, expect: &str) {
    let (hops, location) = match redirect.split_once("->") {
        Some(("302", location)) => (1, Some(location.to_owned())),
        Some((hops, location)) => (hops.split(' ').next().unwrap().parse().unwrap(), Some(location.to_owned())),
        None => (redirect.split(' ').next().unwrap().parse().unwrap(), None),
    };
    let server = Server::start(move |_, nth| match &location {
        Some(location) if nth + 1 == hops => Answer::redirect(location),
        _ => Answer::redirect("/next"),
    })
    .await;
    let host = from.url().host_str().unwrap();
    let start = format!("{host}:{}", server.port());
    let config = GuardConfig { plain_http: true, ..config(&start) };
    let client = GuardedClient::new(config, Names::default().with(host, &[&["127.0.0.1"]])).unwrap();
    let outcome = client.fetch(&format!("http://{start}{}", from.url().path())).await;
    assert!(is_blocked(&outcome), "{from:?} {redirect}: {outcome:?}");
    let asked = server.requests().len();
    match expect {
        "block-too-many" => {
            assert!(hops > MAX_REDIRECTS);
            assert_eq!((outcome.unwrap_err(), asked), (Refusal::Redirects.into(), MAX_REDIRECTS + 1));
        }
        _ => assert_eq!(format!("block-at-hop-{asked}"), expect, "{redirect}"),
    }
}

/// Every name leads to one address.
struct AllNames(&'static str);

#[async_trait::async_trait]
impl Lookup for AllNames {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![self.0.parse().unwrap()])
    }
}

#[tokio::test]
async fn no_blocked_line_of_the_case_file_reaches_a_listener_on_loopback() {
    let decoy = Server::start(|_, _| Answer::ok(b"secret")).await;
    // Any network exempt, and scheme and port are no reason any more: what is left is the address.
    let open = |allow: &str| {
        let config = GuardConfig { plain_http: true, ..config(allow) };
        GuardedClient::new(config, AllNames("127.0.0.1")).unwrap()
    };
    let (guarded, unguarded) = (open("203.0.113.0/24"), open("127.0.0.0/8,0.0.0.0/8"));
    let (mut tried, mut could) = (0, 0);
    for line in include_str!("../../../tests/fixtures/ssrf_cases.tsv").lines().skip(1) {
        let [text, verdict, ..] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(verdict != "block" || is_blocked(&guarded.fetch(text).await), "{line}");
        let Ok(mut url) = url::Url::parse(text) else { continue };
        let _ =
            (url.set_scheme("http"), url.set_port(Some(decoy.port())), url.set_username(""), url.set_password(None));
        if verdict == "allow" || url.port() != Some(decoy.port()) {
            continue;
        }
        let outcome = guarded.fetch(url.as_str()).await;
        assert!(is_blocked(&outcome), "{line}: {outcome:?}");
        assert_eq!(decoy.connections(), could, "{line}");
        // The same URL gets there when it may, so the listener would have seen it.
        could += usize::from(unguarded.fetch(url.as_str()).await.is_ok());
        tried += 1;
    }
    assert!(tried > 100 && could > 40, "{tried} {could}");
}

#[tokio::test]
async fn a_name_with_one_forbidden_address_among_its_answers_is_refused_whole() {
    let decoy = Server::start(|_, _| Answer::ok(b"secret")).await;
    let url = format!("http://mixed.test:{}/", decoy.port());
    for answers in [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "::ffff:127.0.0.2"]] {
        let client = client("127.0.0.2/32", Names::default().with("mixed.test", &[&answers]));
        assert_eq!(client.fetch(&url).await.unwrap_err(), BLOCKED, "{answers:?}");
    }
    assert_eq!(decoy.connections(), 0);
}

#[tokio::test]
async fn a_name_that_answers_differently_the_second_time_reaches_only_what_was_judged() {
    let good = Server::start_on("127.0.0.2:0", |_, _| Answer::ok(b"good")).await;
    let decoy = Server::start_on(&format!("127.0.0.1:{}", good.port()), |_, _| Answer::ok(b"secret")).await;
    let names = Arc::new(Names::default().with("rebind.test", &[&["127.0.0.2"], &["127.0.0.1"]]));
    let client = GuardedClient::new(config("127.0.0.2/32"), names.clone()).unwrap();
    let url = format!("http://rebind.test:{}/", good.port());
    assert_eq!(&client.fetch(&url).await.unwrap().bytes[..], b"good");
    assert_eq!(names.asked().len(), 1, "one look-up a connection, or the second could be the one that is dialled");
    assert_eq!(client.fetch(&url).await.unwrap_err(), BLOCKED);
    assert_eq!((good.connections(), decoy.connections()), (1, 0));
}

#[tokio::test]
async fn a_redirect_is_resolved_and_judged_anew() {
    let good = Server::start_on("127.0.0.2:0", |_, _| Answer::redirect("/again")).await;
    let decoy = Server::start_on(&format!("127.0.0.1:{}", good.port()), |_, _| Answer::ok(b"secret")).await;
    let client = client("127.0.0.2/32", Names::default().with("rebind.test", &[&["127.0.0.2"], &["127.0.0.1"]]));
    let outcome = client.fetch(&format!("http://rebind.test:{}/", good.port())).await;
    assert_eq!(outcome.unwrap_err(), BLOCKED);
    assert_eq!((good.connections(), decoy.connections()), (1, 0));
}

#[tokio::test]
async fn no_redirect_leads_inside_in_any_spelling() {
    let decoy = Server::start(|_, _| Answer::ok(b"secret")).await;
    let port = decoy.port();
    let locations = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("//127.1:{port}/"),
        format!(r"\\127.0.0.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://u:p@127.0.0.1:{port}/"),
        "https://127.0.0.1/".to_owned(),
        "https://169.254.169.254/".to_owned(),
        "https://metadata.google.internal/".to_owned(),
        "http://example.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "ftp://example.com/".to_owned(),
        "gopher://example.com/".to_owned(),
        "data:image/png;base64,AAAA".to_owned(),
        "http://①②⑦.⓪.⓪.①/".to_owned(),
    ];
    let script = locations.clone();
    // The path says which of them the chain ends at, and how many hops from here.
    let server = Server::start(move |path, _| match path[1..].split_once('/').unwrap() {
        (which, "0") => Answer::redirect(&script[which.parse::<usize>().unwrap()]),
        (which, hops) => Answer::redirect(&format!("/{which}/{}", hops.parse::<usize>().unwrap() - 1)),
    })
    .await;
    let client = client_of(&server, |_| {});
    for (which, location) in locations.iter().enumerate() {
        for hops in 0..=2 {
            let before = server.requests().len();
            let outcome = client.fetch(&server.url(&format!("/{which}/{hops}"))).await;
            assert!(is_blocked(&outcome), "{location} after {hops}: {outcome:?}");
            assert_eq!(server.requests().len(), before + hops + 1);
        }
    }
    assert_eq!(decoy.connections(), 0);
}

#[tokio::test]
async fn three_redirects_are_followed_and_a_fourth_is_not() {
    for (redirects, arrives) in [(3, true), (4, false)] {
        let server =
            Server::start(
                move |_, nth| {
                    if nth < redirects { Answer::redirect(&format!("/{nth}")) } else { Answer::ok(b"end") }
                },
            )
            .await;
        let outcome = client_of(&server, |_| {}).fetch(&server.url("/")).await;
        assert_eq!(outcome.is_ok(), arrives);
        assert_eq!(server.requests().len(), 4);
        if !arrives {
            assert_eq!(outcome.unwrap_err(), Refusal::Redirects.into());
        }
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_an_error() {
    let server = Server::start(|_, _| Answer::with_headers("302 Found", "Content-Length: 0\r\n", b"")).await;
    assert!(lasting(client_of(&server, |_| {}).fetch(&server.url("/")).await).contains("nowhere"));
}

#[tokio::test]
async fn what_is_not_written_in_the_allowlist_is_not_exempt() {
    let decoy = Server::start(|_, _| Answer::ok(b"secret")).await;
    let port = decoy.port();
    let names = || Names::default().with("evil.test", &[&["127.0.0.1"]]);
    for (allow, url) in [
        (String::new(), decoy.url("/")),
        (format!("127.0.0.1:{}", port - 1), decoy.url("/")),
        (format!("127.0.0.1:{port}"), format!("http://evil.test:{port}/")),
        (format!("evil.test:{}", port - 1), format!("http://evil.test:{port}/")),
        ("127.0.0.2/32".to_owned(), decoy.url("/")),
        ("127.0.0.2/32".to_owned(), format!("http://evil.test:{port}/")),
    ] {
        let outcome = client(&allow, names()).fetch(&url).await;
        assert!(is_blocked(&outcome), "{allow} {url}: {outcome:?}");
    }
    assert_eq!(decoy.connections(), 0);
    let fetched = client(&format!("evil.test:{port}"), names()).fetch(&format!("http://evil.test:{port}/")).await;
    assert_eq!(&fetched.unwrap().bytes[..], b"secret");
}

#[tokio::test]
async fn a_refusal_does_not_say_what_a_name_resolved_to() {
    let mut told = Vec::new();
    for answer in ["10.1.2.3", "169.254.169.254", "::1"] {
        let client = client("", Names::default().with("probe.test", &[&[answer]]));
        told.push(client.fetch("https://probe.test/").await.unwrap_err());
    }
    assert_eq!(told, [BLOCKED, BLOCKED, BLOCKED]);
    assert_eq!(format!("{BLOCKED} {BLOCKED:?}").find(|c: char| c.is_ascii_digit()), None);
}

#[tokio::test]
async fn one_deadline_spans_slow_heads_slow_bodies_and_all_hops() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec();
    let late = "it did not arrive in time";
    let short = |config: &mut GuardConfig| config.deadline = Duration::from_millis(150);

    let slow_head = Server::start({
        let head = head.clone();
        move |_, _| Answer::Drip(head.clone())
    })
    .await;
    assert_eq!(passing(client_of(&slow_head, short).fetch(&slow_head.url("/")).await), late);

    let slow_hops = Server::start(|_, _| {
        let Answer::Bytes(bytes) = Answer::redirect("/") else { unreachable!() };
        Answer::Drip(bytes)
    })
    .await;
    assert_eq!(passing(client_of(&slow_hops, short).fetch(&slow_hops.url("/")).await), late);

    // Each byte comes soon enough for a time limit on reads.
    let body = Server::start(move |path, _| match path {
        "/body" => Answer::Drip([head.clone(), vec![b'x'; 1_000]].concat()),
        _ => Answer::redirect("/body"),
    })
    .await;
    assert_eq!(passing(client_of(&body, short).fetch(&body.url("/")).await), late);
}

#[tokio::test]
async fn a_name_system_that_does_not_answer_is_given_up_at_the_deadline() {
    struct Silent;
    #[async_trait::async_trait]
    impl Lookup for Silent {
        async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }
    let config = GuardConfig { deadline: Duration::from_millis(50), ..GuardConfig::default() };
    let outcome = GuardedClient::new(config, Silent).unwrap().fetch("https://example.com/").await;
    assert!(matches!(outcome, Err(FetchError::Passing(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_body_is_counted_whatever_its_length_is_said_to_be() {
    let too_large = FetchError::TooLarge { limit: 100 };
    let small = |config: &mut GuardConfig| config.max_bytes = 100;
    for (headers, body) in [
        ("Content-Length: 101\r\n", vec![b'x'; 101]),
        ("Content-Length: 9223372036854775807\r\n", vec![]),
        ("Transfer-Encoding: chunked\r\n", [b"65\r\n".to_vec(), vec![b'x'; 101]].concat()),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", [b"65\r\n".to_vec(), vec![b'x'; 101]].concat()),
        ("", vec![b'x'; 101]),
    ] {
        let server = Server::start(move |_, _| Answer::with_headers("200 OK", headers, &body)).await;
        assert_eq!(client_of(&server, small).fetch(&server.url("/")).await.unwrap_err(), too_large, "{headers}");
    }
    let endless = Server::start(|_, _| Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 65_536])).await;
    assert_eq!(client_of(&endless, small).fetch(&endless.url("/")).await.unwrap_err(), too_large);
    let drip = Server::start(|_, _| Answer::Drip(b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxx".to_vec())).await;
    let outcome = client_of(&drip, |config| config.max_bytes = 3).fetch(&drip.url("/")).await;
    assert_eq!(outcome.unwrap_err(), FetchError::TooLarge { limit: 3 });
    let fits = Server::start(|_, _| Answer::with_headers("200 OK", "", &[b'x'; 100])).await;
    assert_eq!(client_of(&fits, small).fetch(&fits.url("/")).await.unwrap().bytes.len(), 100);
}

#[tokio::test]
async fn all_bodies_together_are_bounded_until_they_are_dropped() {
    let server = Server::start(|path, _| match path {
        "/unsaid" => Answer::with_headers("200 OK", "", b"short"),
        _ => Answer::ok(&[b'x'; 2_048]),
    })
    .await;
    let client = client_of(&server, |config| {
        (config.max_bytes, config.bodies) = (4_096, 5_000);
        config.deadline = Duration::from_millis(200);
    });
    let [first, second] =
        [client.fetch(&server.url("/")).await.unwrap(), client.fetch(&server.url("/")).await.unwrap()];
    assert_eq!(passing(client.fetch(&server.url("/")).await), "it did not arrive in time");
    drop(first);
    let third = client.fetch(&server.url("/")).await.unwrap();
    // What does not say how long it is could be the longest.
    assert_eq!(passing(client.fetch(&server.url("/unsaid")).await), "it did not arrive in time");
    drop((second, third));
    let short = client.fetch(&server.url("/unsaid")).await.unwrap();
    assert!(client.fetch(&server.url("/unsaid")).await.is_ok(), "it needs less than it could have");
    assert_eq!(&short.bytes[..], b"short");
}

#[tokio::test]
async fn a_body_shorter_than_promised_is_not_taken() {
    let server = Server::start(|_, _| Answer::with_headers("200 OK", "Content-Length: 10\r\n", b"short")).await;
    passing(client_of(&server, |_| {}).fetch(&server.url("/")).await);
}

#[tokio::test]
async fn a_compressed_answer_is_refused_unread() {
    for encoding in ["gzip", "br", "deflate", "zstd", "identity, gzip", "identity\r\nContent-Encoding: gzip"] {
        let headers = format!("Content-Encoding: {encoding}\r\nContent-Length: 2\r\n");
        let server = Server::start(move |_, _| Answer::with_headers("200 OK", &headers, b"\x1f\x8b")).await;
        assert!(lasting(client_of(&server, |_| {}).fetch(&server.url("/")).await).contains("compressed"), "{encoding}");
    }
}

#[tokio::test]
async fn what_may_pass_is_told_from_what_will_not() {
    for status in ["408 Late", "425 Early", "429 Slow", "500 Oops", "503 Busy"] {
        let server = Server::start(move |_, _| Answer::status(status)).await;
        passing(client_of(&server, |_| {}).fetch(&server.url("/")).await);
    }
    for status in ["304 Same", "300 Many", "400 Bad", "401 Who", "404 Gone", "451 Law"] {
        let server = Server::start(move |_, _| Answer::status(status)).await;
        lasting(client_of(&server, |_| {}).fetch(&server.url("/")).await);
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    passing(client(&closed.to_string(), Names::default()).fetch(&format!("http://{closed}/")).await);
    passing(client("", Names::default()).fetch("https://not-there.test/").await);
}

#[tokio::test]
async fn an_endless_head_is_not_collected() {
    let server = Server::start(|_, _| Answer::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 65_536])).await;
    // Long before the deadline, as the head's own bound ends it.
    assert_ne!(passing(client_of(&server, |_| {}).fetch(&server.url("/")).await), "it did not arrive in time");
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    let proxy = Server::start(|_, _| Answer::ok(b"proxied")).await;
    let mut straight = Command::new(std::env::current_exe().unwrap());
    straight.args(["--exact", "net::client::tests::what_a_server_sends_arrives"]);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        straight.env(name, proxy.url(""));
    }
    let outcome = tokio::task::spawn_blocking(move || straight.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert!(outcome.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_post_is_answered_by_the_status_alone() {
    let server = Server::start(|path, _| match path {
        "/endless" => Answer::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 4_096]),
        "/redirect" => Answer::redirect("http://127.0.0.1/"),
        "/busy" => Answer::with_headers("503 Busy", "Retry-After: 7\r\nContent-Length: 0\r\n", b""),
        _ => Answer::with_headers("200 OK", "Content-Length: 9\r\n", b"short"),
    })
    .await;
    let config = GuardConfig { allow: server.addr.to_string().parse().unwrap(), ..GuardConfig::default() };
    let client = GuardedClient::new(config, Names::default()).unwrap();
    for (path, status, retry_after) in
        [("/endless", 200, None), ("/redirect", 302, None), ("/busy", 503, Some("7")), ("/torn", 200, None)]
    {
        let posted = client.post(&server.url(path), HeaderMap::new(), Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!((posted.status.as_u16(), posted.retry_after.as_deref()), (status, retry_after), "{path}");
    }
    assert!(server.requests().iter().all(|request| request.starts_with("POST ")));
    let refused = client.post("http://127.0.0.1/", HeaderMap::new(), Bytes::new()).await;
    assert!(matches!(refused, Err(FetchError::Blocked(_))));
}
