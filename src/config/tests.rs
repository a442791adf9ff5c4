use std::time::Duration;

use super::*;
use crate::domain::money::MicroUsd;

fn parse(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(&variables.collect())
}

/// The names of the refused variables, in order.
fn refused(variables: &[(&str, &str)]) -> Vec<&'static str> {
    parse(variables).err().map(|errors| errors.0.iter().map(|error| error.name).collect()).unwrap_or_default()
}

fn problem(variables: &[(&str, &str)]) -> String {
    parse(variables).unwrap_err().to_string()
}

#[test]
fn an_empty_environment_gives_the_defaults_of_the_contract() {
    let config = parse(&[]).unwrap();
    assert_eq!(config.http.address().to_string(), "127.0.0.1:9090");
    assert_eq!(config.http.max_body_bytes, 16 * 1024 * 1024);
    assert_eq!(config.http.request_limit, None);
    assert_eq!(config.database.url.expose(), "sqlite:./data/orchestrator.db");
    assert_eq!(config.run_mode, RunMode::Live);
    assert_eq!(config.budget.daily, "100".parse::<MicroUsd>().unwrap());
    assert_eq!(config.budget.user_daily, None);
    assert_eq!(config.provider.kind, ProviderKind::Synthetic);
    assert_eq!(config.provider.model, "synthetic");
    assert_eq!((config.provider.concurrency, config.provider.requests_per_minute), (8, None));
    assert_eq!(config.provider.timeout, Duration::from_mins(2));
    assert_eq!(config.provider.synthetic_latency, Duration::from_secs(1));
    assert_eq!((config.references.concurrency, config.references.retries), (4, 2));
    assert_eq!((config.references.max_bytes, config.references.max_pixels), (10 * 1024 * 1024, 25_000_000));
    assert_eq!(config.urls.ttl, Duration::from_hours(12));
    assert_eq!(config.urls.min_left, Duration::from_mins(5));
    assert_eq!((config.limits.max_rows_per_batch, config.limits.max_variants_per_row), (1_000, 3));
    assert!(config.features.budget_guard && config.features.sse && config.features.url_refresh);
    assert!(config.features.thumbnails && !config.features.budget_ledger);
    assert_eq!((config.work.lease, config.work.shutdown_grace), (Duration::from_secs(30), Duration::from_secs(8)));
    assert_eq!((config.logging.format, config.logging.filter.as_str()), (LogFormat::ByTerminal, "info"));
}

#[test]
fn every_problem_is_reported_at_once() {
    let names = refused(&[
        ("PORT", "70000"),
        ("MAX_BODY_BYTES", "many"),
        ("API_KEYS", "k1"),
        ("DATABASE_URL", "mysql://root@localhost/x"),
        ("GCS_BUCKET", "gs://b"),
        ("IMAGE_MODEL", "dall-e"),
        ("RUN_MODE", "wet_run"),
        ("DAILY_BUDGET_USD", "-1"),
        ("REFERENCE_TIMEOUT", "10"),
        ("SSE_ENABLED", "maybe"),
        ("LEDGER_PROMPTS", "some"),
        ("SHUTDOWN_GRACE", "0"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "a=b=c"),
        ("GOOGLE_CLOUD_PROJECT", "My Project"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "k"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    let expected = [
        "PORT",
        "MAX_BODY_BYTES",
        "API_KEYS",
        "DATABASE_URL",
        "GCS_BUCKET",
        "IMAGE_MODEL",
        "RUN_MODE",
        "DAILY_BUDGET_USD",
        "REFERENCE_TIMEOUT",
        "SSE_ENABLED",
        "LEDGER_PROMPTS",
        "SHUTDOWN_GRACE",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "GOOGLE_CLOUD_PROJECT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];
    assert_eq!(names, expected);
}

#[test]
fn no_problem_and_no_debug_output_shows_a_value() {
    let secret = "hunter2";
    let names = Config::names();
    let everything: Vec<(&str, &str)> = names.iter().map(|name| (*name, secret)).collect();
    let errors = parse(&everything).unwrap_err();
    assert!(errors.0.len() > 30, "{errors}");
    assert!(!errors.to_string().contains(secret), "{errors}");
    let config =
        parse(&[("DATABASE_URL", "postgres://me:hunter2@db/x"), ("PROVIDER", "synthetic"), ("GEMINI_API_KEY", secret)]);
    assert!(!format!("{:?}", config.unwrap()).contains(secret));
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let config = parse(&[("PORT", ""), ("USER_DAILY_BUDGET_USD", "  "), ("GCS_BUCKET", ""), ("RUST_LOG", "")]).unwrap();
    assert_eq!((config.http.port, config.budget.user_daily), (9090, None));
}

#[test]
fn only_on_loopback_is_anyone_let_in_without_a_key() {
    for host in ["localhost", "::1", "127.0.0.1"] {
        assert_eq!(parse(&[("HOST", host)]).unwrap().access.auth, Auth::OpenWithoutKeys, "{host}");
        assert_eq!(parse(&[("HOST", host), ("AUTH", "open")]).unwrap().access.auth, Auth::Open, "{host}");
        assert_eq!(parse(&[("HOST", host), ("AUTH", "keys")]).unwrap().access.auth, Auth::Keys, "{host}");
    }
    for host in ["0.0.0.0", "192.168.1.4", "::"] {
        assert_eq!(parse(&[("HOST", host)]).unwrap().access.auth, Auth::Keys, "{host}");
        assert_eq!(refused(&[("HOST", host), ("AUTH", "open")]), ["AUTH"], "{host}");
    }
    assert!(problem(&[("HOST", "0.0.0.0"), ("AUTH", "open")]).contains("keys new"));
    assert_eq!(refused(&[("HOST", "example.com")]), ["HOST"]);
    assert_eq!(refused(&[("AUTH", "cloud-run")]), ["AUTH"]);
    let on_cloud_run = parse(&[("AUTH", "cloud-run"), ("K_SERVICE", "s"), ("RUN_MODE", "dry_run")]).unwrap();
    assert_eq!(on_cloud_run.access.auth, Auth::CloudRun);
}

#[test]
fn keys_are_read_and_a_fault_among_them_does_not_show_them() {
    let key = crate::domain::access::ApiKey::from_random([1; 6], [2; 24]).reveal();
    let config = parse(&[("API_KEYS", &format!("alice={key};scopes=admin"))]).unwrap();
    assert_eq!(config.access.keys[0].user.as_str(), "alice");
    assert!(!format!("{config:?}").contains(&key[20..]));
    let fault = problem(&[("API_KEYS", &format!("alice={key};scopes=all"))]);
    assert!(fault.contains("scopes") && !fault.contains(&key[20..]), "{fault}");
}

#[test]
fn other_pages_are_named_by_their_exact_origins() {
    let config = parse(&[("CORS_ORIGINS", "https://app.example, http://localhost:3000")]).unwrap();
    assert_eq!(config.access.origins, ["https://app.example", "http://localhost:3000"]);
    for wrong in ["*", "app.example", "https://app.example/", "https://*.example", "HTTPS://app.example", "null"] {
        assert_eq!(refused(&[("CORS_ORIGINS", wrong)]), ["CORS_ORIGINS"], "{wrong}");
    }
}

#[test]
fn on_cloud_run_everyone_is_served_and_a_live_sqlite_is_refused() {
    assert_eq!(refused(&[("K_SERVICE", "s")]), ["DATABASE_URL"]);
    let shared = parse(&[("K_SERVICE", "s"), ("DATABASE_URL", "postgresql://db/x")]).unwrap();
    assert!(shared.http.host.is_unspecified() && shared.access.auth == Auth::Keys);
    let local = [("K_SERVICE", "s"), ("HOST", "127.0.0.1")];
    assert_eq!(refused(&[local[0], local[1], ("RUN_MODE", "dry_run")]), [""; 0]);
    assert_eq!(refused(&[local[0], local[1], ("ALLOW_EPHEMERAL_STATE", "true")]), [""; 0]);
    assert_eq!(refused(&[local[0], local[1], ("DATABASE_URL", "postgresql://db/x")]), [""; 0]);
    let limit = parse(&[local[0], local[1], ("RUN_MODE", "dry_run")]).unwrap().http.stream_limit();
    assert_eq!(limit, Some(Duration::from_secs(870)));
}

#[test]
fn what_this_version_cannot_do_is_refused_rather_than_ignored() {
    for (name, value) in [
        ("API_KEYS", "k"),
        ("AUTH", "basic"),
        ("GCS_BUCKET", "gs://b"),
        ("LEDGER_BUCKET", "b"),
        ("PROVIDER", "openai"),
        ("PROVIDER", "vertex"),
        ("PROVIDER", "dall-e"),
    ] {
        assert_eq!(refused(&[(name, value)]), [name], "{name}={value}");
    }
}

#[test]
fn a_gemini_key_chooses_gemini_its_model_and_a_dry_run() {
    let config = parse(&[("GEMINI_API_KEY", "hunter2")]).unwrap();
    let ProviderKind::Gemini(gemini) = &config.provider.kind else { panic!("{:?}", config.provider) };
    assert_eq!(gemini.base_url.as_str(), "https://generativelanguage.googleapis.com/");
    assert_eq!(gemini.api_key.expose(), "hunter2");
    assert_eq!((config.provider.model.as_str(), config.run_mode), ("gemini-nano-banana-2.1", RunMode::DryRun));
    assert!(!format!("{config:?}").contains("hunter2"));
    let live = parse(&[("GEMINI_API_KEY", "k"), ("PROVIDER", "gemini"), ("RUN_MODE", "live")]).unwrap();
    assert_eq!(live.run_mode, RunMode::Live);
    let free = parse(&[("GEMINI_API_KEY", "k"), ("PROVIDER", "synthetic")]).unwrap();
    assert_eq!((free.provider.kind, free.run_mode), (ProviderKind::Synthetic, RunMode::Live));
}

#[test]
fn gemini_needs_a_key_and_one_of_its_own_models() {
    assert_eq!(refused(&[("PROVIDER", "gemini")]), ["GEMINI_API_KEY"]);
    for key in ["a b", "k\u{e9}y", "k\ny"] {
        assert_eq!(refused(&[("PROVIDER", "gemini"), ("GEMINI_API_KEY", key)]), ["GEMINI_API_KEY"], "{key:?}");
    }
    assert_eq!(refused(&[("GEMINI_API_KEY", "k"), ("IMAGE_MODEL", "synthetic")]), ["IMAGE_MODEL"]);
    let config = parse(&[("GEMINI_API_KEY", "k"), ("IMAGE_MODEL", "gemini-3-pro-image")]).unwrap();
    assert!(config.prices.get("synthetic").is_none() && config.prices.get("gemini-3-pro-image").is_some());
    assert!(parse(&[]).unwrap().prices.get("gemini-3-pro-image").is_some(), "the free provider rehearses all");
}

#[test]
fn the_gemini_api_is_at_a_plain_web_address() {
    for url in ["http://127.0.0.1:8080", "https://gateway.test/gemini/", "http://gateway.internal"] {
        assert!(parse(&[("GEMINI_BASE_URL", url)]).is_ok(), "{url}");
    }
    for url in [
        "gateway",
        "ftp://a.test",
        "https://me@a.test",
        "https://:p@a.test",
        "https://a.test/?k=v",
        "https://a.test/#f",
        "https://",
    ] {
        assert_eq!(refused(&[("GEMINI_BASE_URL", url)]), ["GEMINI_BASE_URL"], "{url}");
    }
}

#[test]
fn a_link_outlives_what_must_be_left_of_it() {
    assert_eq!(refused(&[("SIGNED_URL_TTL", "5m")]), ["SIGNED_URL_MIN_LEFT"]);
    let longest = parse(&[("SIGNED_URL_TTL", "169h")]).unwrap().urls;
    assert_eq!((longest.ttl, longest.asked_ttl), (Duration::from_hours(168), Duration::from_hours(169)));
    assert!(parse(&[("SIGNED_URL_TTL", "7d")]).is_ok());
}

#[test]
fn streams_need_room_before_the_request_limit() {
    assert_eq!(refused(&[("REQUEST_LIMIT", "30s")]), ["REQUEST_LIMIT"]);
    assert_eq!(parse(&[("REQUEST_LIMIT", "60s")]).unwrap().http.stream_limit(), Some(Duration::from_secs(30)));
}

#[test]
fn the_database_is_a_file_or_postgres() {
    assert_eq!(parse(&[("DATABASE_URL", "postgres://db/x")]).unwrap().database.engine, Engine::Postgres);
    assert_eq!(parse(&[("DATABASE_URL", "sqlite:/tmp/x.db")]).unwrap().database.engine, Engine::Sqlite);
    for url in ["sqlite::memory:", "sqlite:x?mode=memory", "/tmp/x.db", "mysql://db/x"] {
        assert_eq!(refused(&[("DATABASE_URL", url)]), ["DATABASE_URL"], "{url}");
    }
    let odd = parse(&[("DATA_DIR", "/tmp/a b?c#d%e")]).unwrap();
    assert_eq!(odd.database.url.expose(), "sqlite:/tmp/a%20b%3Fc%23d%25e/orchestrator.db");
}

#[test]
fn a_price_file_replaces_the_table_and_its_faults_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prices.toml");
    let path = path.to_str().unwrap();
    assert_eq!(refused(&[("PRICES_FILE", path), ("IMAGE_MODEL", "synthetic")]), ["PRICES_FILE"]);
    std::fs::write(path, "model = 3").unwrap();
    assert!(refused(&[("PRICES_FILE", path)]).contains(&"PRICES_FILE"));
    let renamed = crate::domain::prices::EMBEDDED.replace("id = \"synthetic\"", "id = \"mine\"");
    std::fs::write(path, renamed).unwrap();
    assert_eq!(refused(&[("PRICES_FILE", path)]), ["IMAGE_MODEL"]);
    assert_eq!(parse(&[("PRICES_FILE", path), ("IMAGE_MODEL", "mine")]).unwrap().provider.model, "mine");
}

#[test]
fn a_word_that_is_no_level_is_refused_instead_of_silencing_the_log() {
    for filter in ["info", "WARN", "off", "warn,orchestrator=debug", "orchestrator[request]=trace,info"] {
        assert_eq!(parse(&[("LOG_LEVEL", filter)]).unwrap().logging.filter, filter);
    }
    for filter in ["loud", "info,orchestrator", "orchestrator=loud"] {
        assert_eq!(refused(&[("LOG_LEVEL", filter)]), ["LOG_LEVEL"], "{filter}");
        assert_eq!(refused(&[("RUST_LOG", filter)]), ["RUST_LOG"], "{filter}");
    }
}

#[test]
fn the_ledger_goes_where_the_pictures_go_unless_it_has_a_bucket_of_its_own() {
    let storage = parse(&[("GCS_BUCKET", "pictures")]).unwrap().storage;
    assert_eq!((storage.pictures.as_deref(), storage.ledger.as_deref()), (Some("pictures"), Some("pictures")));
    let storage = parse(&[("GCS_BUCKET", "pictures"), ("LEDGER_BUCKET", "the.ledger_1")]).unwrap().storage;
    assert_eq!(storage.ledger.as_deref(), Some("the.ledger_1"));
    let storage = parse(&[("LEDGER_BUCKET", "ledger")]).unwrap().storage;
    assert_eq!((storage.pictures, storage.ledger.as_deref()), (None, Some("ledger")));
    for name in ["gs://bucket", "bucket/folder", "Bucket", "b", "-bucket", "bucket."] {
        assert_eq!(refused(&[("LEDGER_BUCKET", name)]), ["LEDGER_BUCKET"], "{name}");
    }
}

#[test]
fn an_emulator_has_a_plain_address() {
    for address in ["127.0.0.1:4443", "http://127.0.0.1:4443", "http://127.0.0.1:4443/"] {
        let emulator = parse(&[("STORAGE_EMULATOR_HOST", address)]).unwrap().storage.emulator.unwrap();
        assert_eq!(emulator.trim_end_matches('/'), "http://127.0.0.1:4443");
    }
    for address in ["https://storage.googleapis.com", "http://", "127.0.0.1:4443/storage", "a b"] {
        assert_eq!(refused(&[("STORAGE_EMULATOR_HOST", address)]), ["STORAGE_EMULATOR_HOST"], "{address}");
    }
}

#[test]
fn traces_are_sent_nowhere_unless_a_collector_is_named() {
    let config = parse(&[]).unwrap();
    assert_eq!((config.traces.endpoint, config.traces.service.as_str()), (None, "orchestrator"));
    let named =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otlp.example/hunter2"), ("OTEL_EXPORTER_OTLP_HEADERS", "k=hunter2")];
    let config = parse(&[named[0], named[1], ("OTEL_SERVICE_NAME", "pictures")]).unwrap();
    assert_eq!(config.traces.endpoint.as_ref().unwrap().as_str(), "https://otlp.example/hunter2");
    assert_eq!((config.traces.headers[0].1.expose(), config.traces.service.as_str()), ("hunter2", "pictures"));
    assert!(!format!("{config:?}").contains("hunter2"));
    for wrong in
        ["collector", "grpc://collector:4317", "https://me:pw@otlp.example", "http://c/?token=x", "http://c/#x"]
    {
        assert_eq!(refused(&[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]), ["OTEL_EXPORTER_OTLP_ENDPOINT"], "{wrong}");
    }
}
