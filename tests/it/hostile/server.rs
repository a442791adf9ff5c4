//! A server that answers each path in a way of its own, on the real wire.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::ImageFormat;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::pictures::{self, SIDE, Scans};

/// The largest photograph that is taken, by name.
pub(crate) const LARGEST_PHOTOGRAPH: &str = "largest-jpeg";

/// What a server does with a connection, once it has read a request.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Writes and closes.
    Send(Vec<u8>),
    /// Writes the first at once, then the second a byte at a time, then stays silent.
    Drip(Vec<u8>, Vec<u8>),
    /// Writes the first once, the second for ever.
    Repeat(Vec<u8>, Vec<u8>),
}

/// What becomes of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Picture,
    Blocked,
    TooLarge,
    /// Trying again might have helped.
    Passing,
    /// Trying again would not have helped.
    Lasting,
}

/// A path of the server, what it does there, and what must become of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) manner: Manner,
    pub(crate) end: End,
}

impl Case {
    /// A file that is served as it should be.
    pub(crate) fn file(name: &'static str, end: End, file: &[u8]) -> Self {
        Self { name, manner: ok(file), end }
    }
}

fn head(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}\r\n").into_bytes()
}

fn send(status: &str, headers: &str, body: &[u8]) -> Manner {
    Manner::Send([&head(status, headers), body].concat())
}

fn ok(body: &[u8]) -> Manner {
    send("200 OK", &format!("Content-Length: {}\r\n", body.len()), body)
}

fn redirect(location: &str) -> Manner {
    send("302 Found", &format!("Location: {location}\r\nContent-Length: 0\r\n"), b"")
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Servers that are slow, endless, or break the rules of HTTP.
pub(crate) fn wire() -> Vec<Case> {
    let png = pictures::plain(ImageFormat::Png);
    let whole = format!("Content-Length: {}\r\n", png.len());
    let half = &png[..png.len() / 2];
    let large = |length: usize| format!("Content-Length: {length}\r\n");
    let many: String = "X: y\r\n".repeat(5_000);
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let passing = [
        ("silence", Manner::Send(Vec::new())),
        ("stays-silent", Manner::Drip(Vec::new(), Vec::new())),
        ("slow-head", Manner::Drip(Vec::new(), [&head("200 OK", &whole)[..], &png].concat())),
        ("slow-body", Manner::Drip(head("200 OK", &whole), png.clone())),
        ("slow-chunks", Manner::Drip(head("200 OK", CHUNKED), b"1\r\nx\r\n".repeat(9_000))),
        ("length-too-large", send("200 OK", &large(png.len() + 1), &png)),
        ("two-lengths", send("200 OK", &format!("{whole}Content-Length: 7\r\n"), &png)),
        ("negative-length", send("200 OK", "Content-Length: -1\r\n", &png)),
        ("chunk-of-no-number", send("200 OK", CHUNKED, b"zz\r\nxx\r\n0\r\n\r\n")),
        ("chunk-too-long-for-a-number", send("200 OK", CHUNKED, b"fffffffffffffffff\r\nx")),
        ("chunk-cut-off", send("200 OK", CHUNKED, b"ffff\r\nx")),
        ("endless-chunk-extension", Manner::Repeat([&head("200 OK", CHUNKED)[..], b"1;"].concat(), vec![b'x'; 65_536])),
        ("endless-trailer", Manner::Repeat([&head("200 OK", CHUNKED)[..], b"0\r\n"].concat(), b"X: y\r\n".repeat(99))),
        ("continue-flood", Manner::Repeat(Vec::new(), head("100 Continue", ""))),
        ("early-hints-flood", Manner::Repeat(Vec::new(), head("103 Early Hints", &"Link: <x>\r\n".repeat(50)))),
        ("header-flood", send("200 OK", &many, &png)),
        ("endless-header", Manner::Repeat(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 65_536])),
        ("endless-status", Manner::Repeat(b"HTTP/1.1 200 ".to_vec(), vec![b'x'; 65_536])),
        ("no-http", Manner::Send(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec())),
        ("half-a-status-line", Manner::Send(b"HTTP/1.1 2".to_vec())),
        ("half-of-the-picture", send("200 OK", &whole, half)),
    ];
    let too_large = [
        ("endless-body", Manner::Repeat(head("200 OK", ""), vec![b'x'; 65_536])),
        ("endless-chunks", Manner::Repeat(head("200 OK", CHUNKED), chunk)),
        ("endless-picture", Manner::Repeat([&head("200 OK", "")[..], &png].concat(), vec![0; 65_536])),
        ("a-length-nobody-has", send("200 OK", &large(1 << 60), b"x")),
    ];
    let lasting = [
        ("length-too-small", send("200 OK", &large(half.len()), &png)),
        ("no-body", send("200 OK", "Content-Length: 0\r\n", b"")),
        ("no-body-and-no-length", send("200 OK", "", b"")),
        ("no-content", send("204 No Content", "", b"")),
        ("part", send("206 Partial Content", &format!("{whole}Content-Range: bytes 0-9/10\r\n"), &png)),
        ("not-modified", send("304 Not Modified", "", b"")),
        ("switching", send("101 Switching Protocols", "Upgrade: x\r\nConnection: Upgrade\r\n", &png)),
        ("zipped", send("200 OK", "Content-Encoding: gzip\r\n", b"\x1f\x8b\x08\0\0\0\0\0")),
        ("zip-bomb", Manner::Repeat(head("200 OK", "Content-Encoding: gzip\r\n"), vec![0; 65_536])),
        ("redirect-to-nowhere", send("302 Found", "Content-Length: 0\r\n", b"")),
    ];
    let fine = [
        ("plain", ok(&png)),
        ("plain-for-ever-open", Manner::Drip([&head("200 OK", &whole)[..], &png].concat(), Vec::new())),
        (
            "a-hint-and-a-picture",
            Manner::Send([head("103 Early Hints", ""), head("200 OK", &whole), png.clone()].concat()),
        ),
    ];
    [(End::Passing, passing.to_vec()), (End::TooLarge, too_large.to_vec())]
        .into_iter()
        .chain([(End::Lasting, lasting.to_vec()), (End::Picture, fine.to_vec())])
        .flat_map(|(end, cases)| cases.into_iter().map(move |(name, manner)| Case { name, manner, end }))
        .collect()
}

/// Servers that lead elsewhere; `decoy` is what they want to be asked.
pub(crate) fn redirects(decoy: SocketAddr) -> Vec<Case> {
    let inside = format!("http://{decoy}/");
    [
        ("for-ever", redirect("/for-ever")),
        ("ping", redirect("/pong")),
        ("pong", redirect("/ping")),
        ("inside-1", redirect(&inside)),
        ("inside-2", redirect("/inside-1")),
        ("inside-3", redirect("/inside-2")),
        ("endless-hop", Manner::Repeat(head("302 Found", &format!("Location: {inside}\r\n")), vec![0; 65_536])),
        ("decimal", redirect(&format!("//2130706433:{}/", decoy.port()))),
        ("metadata", redirect("https://169.254.169.254/computeMetadata/v1/")),
        ("file", redirect("file:///etc/passwd")),
    ]
    .map(|(name, manner)| Case { name, manner, end: End::Blocked })
    .into()
}

/// Files that say they are pictures.
pub(crate) fn files() -> Vec<Case> {
    let plain = pictures::plain(ImageFormat::Png);
    let jpeg = pictures::plain(ImageFormat::Jpeg);
    let html = b"<html><script>alert(1)</script></html>";
    [
        ("pixel-bomb", End::TooLarge, pictures::png_head(65_535)),
        ("half-a-gigabyte", End::TooLarge, pictures::half_a_gigabyte()),
        (
            "jpeg-of-65535",
            End::TooLarge,
            [&pictures::jpeg(65_535, Scans::Progressive)[..4_096], &[0xff, 0xd9]].concat(),
        ),
        ("gif-of-65535", End::TooLarge, [&b"GIF89a\xff\xff\xff\xff\0\0\0"[..], &[0x2c; 64]].concat()),
        ("cut-off-png", End::Lasting, plain[..plain.len() * 3 / 4].to_vec()),
        ("cut-off-jpeg", End::Lasting, jpeg[..jpeg.len() * 3 / 4].to_vec()),
        ("page", End::Lasting, html.to_vec()),
        ("page-with-a-picture's-head", End::Lasting, [&b"\x89PNG\r\n\x1a\n"[..], html].concat()),
        ("picture-with-a-page", End::Picture, [&plain[..], html].concat()),
        ("largest-png", End::Picture, pictures::png(SIDE.into(), png::ColorType::Rgba, png::BitDepth::Eight)),
        ("photograph", End::Picture, pictures::jpeg(3_500, Scans::Baseline)),
        (LARGEST_PHOTOGRAPH, End::Picture, pictures::jpeg(SIDE, Scans::Baseline)),
        ("largest-progressive-jpeg", End::TooLarge, pictures::jpeg(SIDE, Scans::Progressive)),
        ("largest-gif", End::TooLarge, pictures::gif(SIDE)),
        ("largest-webp", End::TooLarge, pictures::webp(SIDE.into())),
    ]
    .map(|(name, end, file)| Case::file(name, end, &file))
    .into()
}

/// The server, and how many came.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Serves `cases`, each at the path of its name, on a port of its own. Ends with the runtime.
    pub(crate) async fn start(cases: &[Case]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), connections: Arc::default() };
        let manners: BTreeMap<_, _> =
            cases.iter().map(|case| (format!("/{}", case.name), case.manner.clone())).collect();
        let (manners, connections) = (Arc::new(manners), server.connections.clone());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(connection, manners.clone()));
            }
        });
        server
    }

    pub(crate) fn url(&self, case: &Case) -> String {
        format!("http://{}/{}", self.address, case.name)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut connection: TcpStream, manners: Arc<BTreeMap<String, Manner>>) -> Option<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let byte = connection.read_u8().await.ok()?;
        if request.is_empty() && byte == 0x16 {
            // A TLS handshake: close in the middle of it.
            return None;
        }
        request.push(byte);
    }
    let request = String::from_utf8(request).ok()?;
    match manners.get(request.split(' ').nth(1)?)? {
        Manner::Send(bytes) => connection.write_all(bytes).await.ok()?,
        Manner::Drip(first, bytes) => {
            connection.write_all(first).await.ok()?;
            for byte in bytes {
                connection.write_u8(*byte).await.ok()?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        }
        Manner::Repeat(first, bytes) => {
            connection.write_all(first).await.ok()?;
            loop {
                connection.write_all(bytes).await.ok()?;
            }
        }
    }
    connection.shutdown().await.ok()
}
