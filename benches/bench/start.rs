//! From the start of the process to its first answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::Arguments;
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// Starts of each kind.
const STARTS: usize = 15;

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    let new = |_: &mut Option<tempfile::TempDir>| tempfile::tempdir().unwrap();
    let mut first = Vec::new();
    for _ in 0..STARTS {
        first.push(started(arguments, &new(&mut None)).await);
    }
    table.add("start", "SQLite, a new folder: first answer", median(first), "ms");
    let folder = tempfile::tempdir().unwrap();
    let mut again = Vec::new();
    for _ in 0..STARTS {
        again.push(started(arguments, &folder).await);
    }
    table.add("start", "SQLite, a folder that is there: first answer", median(again), "ms");
}

/// Milliseconds to the first 200 on `/health`.
async fn started(arguments: &Arguments, folder: &tempfile::TempDir) -> f64 {
    // A port that is free now is free a moment later.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings =
        [&[setting("PORT", address.port()), setting("PROVIDER", "synthetic")], &*arguments.settings()].concat();
    let mut command = Service::command(folder, "http://127.0.0.1:9", &settings);
    let start = Instant::now();
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    while !is_healthy(address) {
        std::thread::sleep(Duration::from_micros(500));
        assert!(start.elapsed() < Duration::from_secs(30), "the service does not start");
    }
    let took = start.elapsed();
    child.kill().await.unwrap();
    took.as_secs_f64() * 1e3
}

fn is_healthy(address: SocketAddr) -> bool {
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    let mut head = [0; 12];
    let asked = connection.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    asked.is_ok() && connection.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 200"
}
