//! A Postgres server of the test's own, which may be stopped the hard way; it writes through to the disk, as real ones do.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Ports that are tried: one that is free now may be taken a moment later.
const PORTS: u32 = 5;

/// A running server. It is stopped and removed with the test.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    programs: PathBuf,
    options: &'static str,
    port: u16,
}

impl Cluster {
    /// A new, empty server; `options` as its command line has them.
    pub(crate) fn start(options: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("cluster-").tempdir().unwrap();
        let mut cluster = Self { folder, programs: programs(), options, port: 0 };
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(cluster.folder.path()).status().unwrap();
            assert!(owned.success(), "there is no user postgres");
        }
        let data = cluster.data();
        let made =
            cluster.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for _ in 0..PORTS {
            cluster.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if cluster.try_start() {
                return cluster;
            }
        }
        panic!("{}", std::fs::read_to_string(cluster.folder.path().join("server.log")).unwrap_or_default());
    }

    /// Its own database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it as a power cut does, and returns when it is gone.
    pub(crate) fn stop_at_once(&self) {
        let stopped = self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
        assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    }

    /// Starts it again on the same port, and returns when it takes connections.
    pub(crate) fn start_again(&self) {
        assert!(self.try_start(), "the server does not start again");
    }

    fn try_start(&self) -> bool {
        let folder = self.folder.path().display();
        let options = format!("-p {} -k {folder} -c listen_addresses=127.0.0.1 {}", self.port, self.options);
        let log = format!("{folder}/server.log");
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "-t", "60", "-o", &options, "start"])
            .status
            .success()
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Postgres refuses to run as root, so that root runs it as the user of the system's package.
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // The server keeps what it inherits: a pipe to this process would never end.
        let (out, err) = (self.folder.path().join("out"), self.folder.path().join("err"));
        let files = [&out, &err].map(|path| std::fs::File::create(path).unwrap());
        let [to_out, to_err] = files;
        let status = command.args(arguments).current_dir("/").stdout(to_out).stderr(to_err).status().unwrap();
        Output { status, stdout: std::fs::read(out).unwrap(), stderr: std::fs::read(err).unwrap() }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The folder of the newest server's programs, where Debian has it; else where the path has them.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let folders = versions.map(|version| version.unwrap().path().join("bin"));
    let mut folders: Vec<PathBuf> = folders.filter(|folder| folder.join("initdb").exists()).collect();
    folders.sort();
    let path = std::env::var("PATH").unwrap_or_default();
    let on_path = path.split(':').map(Path::new).find(|folder| folder.join("initdb").exists()).map(Path::to_owned);
    folders.pop().or(on_path).expect("Postgres's server programs are not installed; scripts/test installs them")
}
