//! The network to the database falls silent without a word: no connection ends, and no answer comes. Nothing waits
//! for ever, and the next try is made on another connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::domain::ids::UserId;
use orchestrator::store::Cancelled;
use sqlx::{AnyConnection, Connection as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::bench::Bench;
use crate::engines::{Database, on_postgres};
use crate::process::PATIENCE;

/// A network to a server, whose present connections can fall silent.
struct Network {
    address: SocketAddr,
    silences: watch::Sender<()>,
    /// Connections on which something is heard.
    heard: watch::Sender<usize>,
}

impl Network {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, silences) = (listener.local_addr().unwrap(), watch::Sender::new(()));
        let (silence, heard) = (silences.clone(), watch::Sender::new(0));
        let count = heard.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, mut silence, count) = (server.clone(), silence.subscribe(), count.clone());
                count.send_modify(|heard| *heard += 1);
                tokio::spawn(async move {
                    let (mut client, mut server) = (client, TcpStream::connect(server).await.unwrap());
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {
                            count.send_modify(|heard| *heard -= 1);
                        }
                        // The server's end is gone, and the client's is told nothing.
                        _ = silence.changed() => {
                            drop(server);
                            count.send_modify(|heard| *heard -= 1);
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Self { address, silences, heard }
    }

    /// Nothing is heard any more on the connections that there are; new ones work.
    async fn fall_silent(&self) {
        self.silences.send_replace(());
        self.heard.subscribe().wait_for(|heard| *heard == 0).await.unwrap();
    }
}

/// The database over a network that can fall silent.
async fn over_network(database: &Database) -> (Network, Database) {
    let mut url = url::Url::parse(&database.url).unwrap();
    let network =
        Network::to(format!("{}:{}", url.host_str().unwrap_or("127.0.0.1"), url.port().unwrap_or(5432))).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(network.address.port())).unwrap();
    (network, Database::at(url.into()))
}

/// Waits until so many statements wait for a lock.
async fn locked(database: &Database, statements: usize) {
    let waiting =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = std::time::Instant::now() + PATIENCE;
    while database.number(waiting).await < i64::try_from(statements).unwrap() {
        assert!(std::time::Instant::now() < deadline, "nothing waits for the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connections that the service takes at most.
const CONNECTIONS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_on_a_silent_connection_ends_and_the_next_try_works() {
    on_postgres(async |database| {
        let (network, near) = over_network(&database).await;
        let bench = Arc::new(Bench::new(&near).await);
        bench.store.beat(bench.worker, 1, bench.clock.now()).await.unwrap();
        let batch = bench.submit(1, 1).await;
        let mut other = AnyConnection::connect(&database.url).await.unwrap();
        let mut lock = other.begin().await.unwrap();
        for sql in ["UPDATE workers SET beat = beat", "UPDATE batches SET total = total"] {
            sqlx::query(sql).execute(&mut *lock).await.unwrap();
        }
        let beating = |bench: &Arc<Bench>| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.store.beat(bench.worker, 1, bench.clock.now()).await })
        };
        let cancelling = bench.clone();
        let cancel = async move { cancelling.store.cancel(batch, &UserId::local(), cancelling.clock.now()).await };
        let (statement, transaction) = (beating(&bench), tokio::spawn(cancel));
        let given_up: Vec<_> = (2..CONNECTIONS).map(|_| beating(&bench)).collect();
        locked(&database, CONNECTIONS).await;
        network.fall_silent().await;
        lock.rollback().await.unwrap();
        // Who does not wait any longer keeps no connection from the others.
        given_up.iter().for_each(tokio::task::JoinHandle::abort);
        bench.store.ping().await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, async { (statement.await.unwrap(), transaction.await.unwrap()) });
        let (statement, transaction) = ended.await.expect("nothing waits for ever");
        assert!(statement.unwrap_err().is_outage() && transaction.unwrap_err().is_outage());
        bench.store.beat(bench.worker, 1, bench.clock.now()).await.unwrap();
        let cancelled = bench.store.cancel(batch, &UserId::local(), bench.clock.now()).await.unwrap();
        assert!(matches!(cancelled, Cancelled::Stopped { pictures: 1, .. }));
    })
    .await;
}
