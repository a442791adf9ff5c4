//! The wiring: which adapters stand behind the ports, and in which order things start and stop.
//!
//! The only place, beside the command line, that names adapters.

mod access;
mod advice;
pub mod books;
pub mod keys;
pub mod storage;
mod traces;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::HeaderValue;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::net::TcpListener;

use crate::assets::AssetStore;
use crate::assets::picture::Thumbnailer;
use crate::clock::{Clock, IdSource, RandomIds, SystemClock};
use crate::config::{Config, ConfigError, ConfigErrors, ProviderKind, ReferencesConfig, Secret};
use crate::domain::ids::{AttemptId, WorkerId};
use crate::domain::outcome::BACKOFF_BASE;
use crate::domain::prices::PriceTable;
use crate::domain::spec::RunMode;
use crate::http::serve::Stop;
use crate::http::upload::UploadBudget;
use crate::http::{self, AppState, HttpLimits};
use crate::lifecycle::{Lifecycle, stop_signals};
use crate::net::address::Allowlist;
use crate::net::lookup::SystemLookup;
use crate::provider::ImageProvider;
use crate::provider::gemini::Gemini;
use crate::provider::synthetic::{OWN_MODEL, Synthetic};
use crate::references::shelf::LocalShelf;
use crate::references::web::{ReferenceLimits, WebReferences};
use crate::service::MoneyRules;
use crate::service::access::Access;
use crate::service::admission::Admission;
use crate::service::batches::Batches;
use crate::service::claims::{Claims, LeaseRules};
use crate::service::execute::{Executor, Signals};
use crate::service::feed::{FeedRules, Feeds};
use crate::service::gate::{Gate, GateRules};
use crate::service::health::Health;
use crate::service::ledger::Exporter;
use crate::service::links::{LinkRules, Links};
use crate::service::memory::PictureMemory;
use crate::service::minute::SharedMinute;
use crate::service::notices::Notices;
use crate::service::overview::Overview;
use crate::service::own_references::OwnReferences;
use crate::service::references::References;
use crate::service::settle::Settler;
use crate::service::start::Starter;
use crate::service::uploads::Uploads;
use crate::service::webhooks::{self, Webhooks};
use crate::store::{Limits, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;
use crate::telemetry::traces::collector::Collector;
use crate::webhooks::DEADLINE;
use crate::webhooks::web::WebCourier;
use crate::worker::{POLL, Worker};

/// How long a start waits for today's ledger.
const LEDGER_PATIENCE: Duration = Duration::from_secs(5);
/// The same, where nothing may be spent without it.
const NEEDED_LEDGER_PATIENCE: Duration = Duration::from_mins(1);

/// How long the end of the process waits to tell the other instances.
const LAST_HINTS: Duration = Duration::from_secs(1);

/// The running service.
pub struct App {
    address: SocketAddr,
    lifecycle: Lifecycle,
    store: Arc<Store>,
    /// Where the store is, for the connection on which the other instances are heard.
    database: Secret,
    me: WorkerId,
    exporter: Option<Arc<Exporter>>,
    flush_time: Duration,
    metrics: Arc<Metrics>,
    traces: Traces,
    collector: Option<Collector>,
    /// Those that ask it to stop.
    signals: BoxStream<'static, ()>,
    clock: Arc<dyn Clock>,
    /// When it started, by the monotonic clock.
    since: Duration,
}

/// The parts that more than one use case stands on.
struct Parts {
    config: Config,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    /// This process among those on the database.
    me: WorkerId,
    metrics: Arc<Metrics>,
    traces: Traces,
    /// The other end of `traces`.
    collector: Option<Collector>,
    prices: Arc<PriceTable>,
    store: Arc<Store>,
    assets: Arc<dyn AssetStore>,
    links: Arc<Links>,
    web: Arc<WebReferences>,
    rules: MoneyRules,
    gate: Arc<Gate>,
    lifecycle: Lifecycle,
}

impl App {
    /// Starts everything: the database, the worker, the ledger's export, and the server.
    ///
    /// # Errors
    /// What could not be opened, and why. Nothing keeps running then.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // The data first: who starts the service twice is told what both would work on, not which port.
        let parts = Parts::open(config).await?;
        let (listener, address) = parts.listen().await?;
        parts.log_open_work().await;
        let exporter = parts.exporter().await?;
        let access = access::open(&parts.config, parts.store.clone(), parts.clock.clone()).await?;
        let origins = access::origins(&parts.config)?;
        // From the first call and the first answer on, a signal puts work down instead of ending the process.
        let signals = stop_signals()?.boxed();
        parts.start_worker(exporter.as_ref())?;
        let webhooks = parts.start_webhooks()?;
        parts.start_server(listener, exporter.clone(), access, origins, webhooks);
        parts.log_start(address);
        // Of the three eighths of the grace period that are left once the calls are put down.
        let flush_time = parts.config.work.shutdown_grace / 4;
        let Parts { config, lifecycle, store, me, metrics, traces, collector, clock, .. } = parts;
        let (database, since) = (config.database.url, clock.monotonic());
        Ok(Self {
            address,
            lifecycle,
            store,
            database,
            me,
            exporter,
            flush_time,
            metrics,
            traces,
            collector,
            signals,
            clock,
            since,
        })
    }

    /// Where the service listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The life of the process.
    #[must_use]
    pub const fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Asks the service to stop; [`run`](Self::run) returns when it has.
    pub fn stop(&self) {
        self.lifecycle.stop();
    }

    /// Serves until a signal or [`stop`](Self::stop), then puts the work down and flushes the ledger.
    ///
    /// # Errors
    /// If a background task died, or the work was not put down in time.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let signals = std::mem::replace(&mut self.signals, stream::empty().boxed());
        let collector = self.collector.take();
        let finish = async {
            tokio::join!(self.flush_ledger(), self.flush_traces());
            // What was given back is for the others to take up. Who is not told finds it by himself.
            drop(tokio::time::timeout(LAST_HINTS, self.store.send_hints(self.me)).await);
            self.store.close().await;
        };
        // The relay and the collector outlive the tasks: what they settle at the end is told too.
        let stopped = tokio::select! {
            stopped = Box::pin(self.lifecycle.run_until_stopped(signals, finish)) => stopped,
            never = Box::pin(self.store.relay(self.database.expose(), self.me)) => match never {},
            never = Box::pin(traces::collect(collector)) => match never {},
        };
        self.log_stop(stopped.is_ok());
        Ok(stopped?)
    }

    async fn flush_ledger(&self) {
        if let Some(exporter) = &self.exporter
            && tokio::time::timeout(self.flush_time, exporter.export_logged()).await.is_err()
        {
            tracing::warn!("the ledger does not answer: charges wait in the database for the next start");
        }
    }

    async fn flush_traces(&self) {
        if tokio::time::timeout(self.flush_time, self.traces.flush()).await.is_err() {
            tracing::warn!("the trace collector does not answer: the last spans are lost");
        }
    }

    fn log_stop(&self, clean: bool) {
        let metrics = &self.metrics;
        tracing::info!(
            clean,
            seconds = self.clock.monotonic().saturating_sub(self.since).as_secs(),
            requests = metrics.requests.get(),
            calls = metrics.calls_started.get(),
            made = metrics.images_generated.get(),
            failed = metrics.images_failed.get(),
            "stopped"
        );
    }
}

/// Reads the configuration, together with what only an adapter can judge.
///
/// # Errors
/// [`ConfigErrors`] with every problem there is.
#[expect(clippy::implicit_hasher, reason = "the map of an environment, made in one place")]
pub fn configure(variables: &HashMap<String, String>) -> Result<Config, ConfigErrors> {
    let allow = variables.get("REFERENCE_ALLOW").map_or("", String::as_str);
    let refused = allow.parse::<Allowlist>().err().map(|error| error.to_string());
    let refused = refused.map(|problem| ConfigError { name: "REFERENCE_ALLOW", problem });
    let (config, mut errors) = match Config::parse(variables) {
        Ok(config) => (Some(config), Vec::new()),
        Err(ConfigErrors(errors)) => (None, errors),
    };
    errors.extend(refused);
    config.filter(|_| errors.is_empty()).ok_or(ConfigErrors(errors))
}

/// Brings the database's schema up to date, and nothing else.
///
/// # Errors
/// What could not be opened or changed.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    open_store(config, Arc::new(SystemClock::new())).await?.close().await;
    Ok(())
}

impl Parts {
    async fn open(config: Config) -> anyhow::Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let metrics = Arc::new(Metrics::new(clock.clone()));
        let folder = &config.data.dir;
        std::fs::create_dir_all(folder).with_context(|| advice::unusable_folder(folder))?;
        let store = open_store(&config, clock.clone()).await?;
        let assets = storage::open_assets(&config, clock.clone()).await?;
        let (ttl, min_left, refresh) = (config.urls.ttl, config.urls.min_left, config.features.url_refresh);
        let link_rules = LinkRules { ttl, min_left, refresh };
        let links = Arc::new(Links::new(assets.clone(), clock.clone(), metrics.clone(), link_rules));
        let ids = RandomIds::default();
        let me = WorkerId::new(ids.next());
        let (traces, collector) = traces::open(&config.traces, me, clock.clone())?;
        Ok(Self {
            me,
            ids: Arc::new(ids),
            prices: Arc::new(config.prices.clone()),
            store: Arc::new(store),
            rules: money_rules(&config),
            gate: Arc::new(Gate::new(clock.clone(), gate_rules(&config))),
            web: Arc::new(web_references(&config.references)?),
            lifecycle: Lifecycle::new(config.work.shutdown_grace),
            config,
            clock,
            metrics,
            traces,
            collector,
            assets,
            links,
        })
    }

    async fn listen(&self) -> anyhow::Result<(TcpListener, SocketAddr)> {
        let wanted = self.config.http.address();
        let bound = TcpListener::bind(wanted).await;
        let listener = bound.map_err(|error| {
            let advice = advice::cannot_listen(wanted, &error);
            anyhow::Error::new(error).context(advice)
        })?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Says what an earlier run left open, if anything.
    async fn log_open_work(&self) {
        match self.store.count_open().await {
            Ok((0, _)) => {}
            Ok((batches, pictures)) if self.rules.live => {
                tracing::info!(batches, pictures, "resuming what was accepted before");
            }
            Ok((batches, pictures)) => {
                tracing::warn!(batches, pictures, "what was accepted before waits: RUN_MODE=dry_run starts no call");
            }
            Err(error) => tracing::warn!(%error, "cannot count what was accepted before"),
        }
    }

    /// Says what was started, with everything that decides what a batch does and what it may cost.
    fn log_start(&self, address: SocketAddr) {
        let config = &self.config;
        let cap = if config.features.budget_guard { config.budget.daily.to_string() } else { "none".to_owned() };
        tracing::info!(
            %address,
            provider = format!("{:?}", config.provider.kind).to_lowercase(),
            model = config.provider.model,
            run_mode = config.run_mode.as_str(),
            daily_cap = cap,
            data = %config.data.dir.display(),
            pictures = self.assets.uri(""),
            database = format!("{:?}", config.database.engine).to_lowercase(),
            ledger = self.ledger_place(),
            "listening"
        );
    }

    /// Where charges are exported to, for the log.
    fn ledger_place(&self) -> String {
        match (&self.config.storage.ledger, self.config.features.budget_ledger) {
            (_, false) => "off".to_owned(),
            (Some(bucket), true) => format!("gs://{bucket}/ledger"),
            (None, true) => self.config.data.dir.join("ledger").display().to_string(),
        }
    }

    /// The ledger's export, if it is switched on; a database that lost today's charges takes them in first.
    async fn exporter(&self) -> anyhow::Result<Option<Arc<Exporter>>> {
        if !self.config.features.budget_ledger {
            return Ok(None);
        }
        let bucket = storage::ledger_bucket(&self.config).await?;
        let (store, clock, ids) = (self.store.clone(), self.clock.clone(), self.ids.clone());
        let exporter = Arc::new(Exporter::new(store, bucket, clock, ids, self.metrics.clone()));
        self.import_charges(&exporter).await?;
        let task = exporter.clone();
        let last_export = self.config.work.shutdown_grace / 4;
        let (me, draining) = (self.me, self.lifecycle.draining());
        self.lifecycle.spawn_critical("ledger export", async move { task.run(me, draining, last_export).await });
        Ok(Some(exporter))
    }

    /// Takes charges in that the database does not know. A ledger that does not answer is asked again later, and no
    /// call starts before.
    async fn import_charges(&self, exporter: &Exporter) -> anyhow::Result<()> {
        // A database that knows nothing may be one that was lost: it must not spend before it knows what was.
        let is_needed = self.rules.live && self.store.is_empty().await?;
        let patience = if is_needed { NEEDED_LEDGER_PATIENCE } else { LEDGER_PATIENCE };
        let error = match tokio::time::timeout(patience, exporter.import_recent()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => anyhow::Error::new(error),
            Err(late) => anyhow::Error::new(late),
        };
        let error = error.context("cannot compare the ledger with the database");
        if is_needed {
            return Err(error.context(advice::UNREADABLE_LEDGER));
        }
        tracing::warn!(error = format!("{error:#}"), "no call starts until the ledger answers");
        exporter.owe_import();
        Ok(())
    }

    fn references(&self) -> anyhow::Result<References> {
        let config = &self.config.references;
        let folder = self.config.data.dir.join("cache/references");
        let kept = LocalShelf::open(folder.clone(), config.cache_bytes);
        let kept = kept.with_context(|| advice::unusable_folder(&folder))?;
        let (store, assets, clock) = (self.store.clone(), self.assets.clone(), self.clock.clone());
        let own = OwnReferences::new(store, assets, self.web.preparer(), clock.clone(), self.metrics.clone());
        Ok(References::new(self.web.clone(), own, Arc::new(kept), clock, self.metrics.clone()))
    }

    fn start_worker(&self, exporter: Option<&Arc<Exporter>>) -> anyhow::Result<()> {
        let lease = LeaseRules { duration: self.config.work.lease };
        let claims = Arc::new(Claims::new(self.store.clone(), self.clock.clone(), self.me, lease));
        let provider = &self.config.provider;
        let memory = PictureMemory::new(self.config.limits.image_bytes_in_flight, self.config.references.max_bytes);
        let most = memory.calls_at_once();
        if u64::from(provider.concurrency) > most {
            tracing::warn!(most, "IMAGE_BYTES_IN_FLIGHT has room for fewer calls at once than PROVIDER_CONCURRENCY");
        }
        let executor = Arc::new(Executor {
            store: self.store.clone(),
            provider: self.image_provider()?,
            assets: self.assets.clone(),
            references: self.references()?,
            prices: self.prices.clone(),
            thumbnails: self.config.features.thumbnails.then(Thumbnailer::default),
            clock: self.clock.clone(),
            starter: Starter::new(self.store.clone(), self.clock.clone(), self.metrics.clone()),
            settler: Settler::new(
                self.store.clone(),
                self.clock.clone(),
                self.ids.clone(),
                self.metrics.clone(),
                self.rules,
                self.traces.clone(),
            ),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            admission: Admission::new(
                self.store.clone(),
                claims.clone(),
                self.gate.clone(),
                SharedMinute::of(self.store.clone(), self.clock.clone(), &gate_rules(&self.config)),
                Notices::new(self.store.clone(), self.clock.clone()),
                self.rules,
            )
            .once_compared(exporter.cloned()),
            memory,
            call_timeout: provider.timeout,
            backoff_step: BACKOFF_BASE,
            since: AttemptId::new(self.ids.next()),
        });
        let worker = Worker::new(executor, claims, provider.concurrency, POLL);
        let signals = Signals { draining: self.lifecycle.draining(), aborting: self.lifecycle.abort_calls() };
        self.lifecycle.spawn_critical("worker", async move {
            if let Err(error) = worker.run(signals).await {
                tracing::error!(%error, "the worker stops");
            }
        });
        Ok(())
    }

    /// Tells receivers what happens in batches; also of batches that another process works on.
    fn start_webhooks(&self) -> anyhow::Result<Arc<Webhooks>> {
        let allow: Allowlist = self.config.references.allow.parse().context("REFERENCE_ALLOW")?;
        let webhooks = Arc::new(Webhooks::new(
            self.store.clone(),
            Arc::new(WebCourier::new(allow, DEADLINE, SystemLookup, self.clock.clone())?),
            self.links.clone(),
            self.clock.clone(),
            self.me,
            webhooks::POLL,
        ));
        let signals = Signals { draining: self.lifecycle.draining(), aborting: self.lifecycle.abort_calls() };
        let task = webhooks.clone();
        self.lifecycle.spawn_critical("webhooks", async move { task.run(&signals).await });
        Ok(webhooks)
    }

    fn image_provider(&self) -> anyhow::Result<Arc<dyn ImageProvider>> {
        let provider = &self.config.provider;
        Ok(match &provider.kind {
            ProviderKind::Synthetic => Arc::new(Synthetic::new(self.prices.clone(), provider.synthetic_latency)),
            ProviderKind::Gemini(gemini) => {
                let (base, key) = (gemini.base_url.clone(), gemini.api_key.expose());
                Arc::new(
                    Gemini::new(base, key, provider.timeout, self.clock.clone())
                        .context("cannot set up the gemini provider")?,
                )
            }
        })
    }

    fn start_server(
        &self,
        listener: TcpListener,
        exporter: Option<Arc<Exporter>>,
        access: Arc<Access>,
        origins: Arc<[HeaderValue]>,
        webhooks: Arc<Webhooks>,
    ) {
        let feeds = Feeds::new(
            self.store.clone(),
            self.links.clone(),
            self.clock.clone(),
            self.metrics.clone(),
            self.lifecycle.tracker().clone(),
            self.lifecycle.draining(),
            FeedRules { max_life: self.config.http.stream_limit(), ..FeedRules::default() },
        );
        let batches = Batches::new(
            self.store.clone(),
            self.prices.clone(),
            self.links.clone(),
            self.clock.clone(),
            self.ids.clone(),
            self.rules,
            self.lifecycle.draining(),
            self.metrics.clone(),
        )
        .traced(self.traces.clone());
        let uploads = Uploads::new(
            self.store.clone(),
            self.assets.clone(),
            self.links.clone(),
            self.clock.clone(),
            self.web.preparer(),
        );
        let health = Arc::new(Health::new(
            self.store.clone(),
            self.assets.clone(),
            self.gate.clone(),
            exporter.clone(),
            self.clock.clone(),
        ));
        let limits = &self.config.limits;
        let router = http::router(AppState {
            batches: Arc::new(batches),
            references: Arc::new(uploads),
            webhooks,
            feeds: Arc::new(feeds),
            overview: Arc::new(Overview::new(
                self.store.clone(),
                self.gate.clone(),
                exporter,
                health.clone(),
                self.metrics.clone(),
                self.clock.clone(),
                self.rules.limits,
            )),
            health,
            assets: self.assets.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            clock: self.clock.clone(),
            limits: HttpLimits {
                max_rows: limits.max_rows_per_batch,
                max_variants: limits.max_variants_per_row,
                max_body_bytes: usize::try_from(self.config.http.max_body_bytes).unwrap_or(usize::MAX),
            },
            default_model: self.config.provider.model.as_str().into(),
            sse_enabled: self.config.features.sse,
            uploads: UploadBudget::default(),
            access,
            callers: access::limits(&self.config, &self.clock),
            origins,
            behind_platform: self.config.access.on_cloud_run,
        });
        let stop = Stop { draining: self.lifecycle.draining(), cutting: self.lifecycle.abort_calls() };
        let tracker = self.lifecycle.tracker().clone();
        self.lifecycle.spawn_critical("server", async move {
            if let Err(error) = http::serve::serve(listener, router, &stop, &tracker).await {
                tracing::error!(%error, "the server stops");
            }
        });
    }
}

async fn open_store(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Store> {
    Store::open(config.database.url.expose(), clock).await.map_err(|error| {
        let advice = advice::unusable_database(config.database.engine, &error);
        anyhow::Error::new(error).context(advice)
    })
}

const fn gate_rules(config: &Config) -> GateRules {
    let provider = &config.provider;
    let rules = GateRules::new(provider.concurrency, provider.requests_per_minute);
    GateRules { adaptive: provider.adaptive, ..rules }
}

fn money_rules(config: &Config) -> MoneyRules {
    let limits = if config.features.budget_guard {
        Limits { everyone: Some(config.budget.daily), user: config.budget.user_daily }
    } else {
        Limits::default()
    };
    let own_model = (config.provider.kind == ProviderKind::Synthetic).then_some(OWN_MODEL);
    MoneyRules { limits, live: config.run_mode == RunMode::Live, prompts: config.ledger.prompts, own_model }
}

fn web_references(config: &ReferencesConfig) -> anyhow::Result<WebReferences> {
    let limits = ReferenceLimits {
        concurrency: config.concurrency as usize,
        timeout: config.timeout,
        retries: config.retries,
        max_bytes: config.max_bytes,
        max_pixels: config.max_pixels,
        allow: config.allow.parse().context("REFERENCE_ALLOW")?,
    };
    Ok(WebReferences::new(limits, SystemLookup)?)
}
