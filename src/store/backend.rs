//! One store, opened: its client with the options that hold for it, credentials from the environment, and what was learnt
//! about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpClient;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientConfigKey, ObjectStore};

use crate::error::{Error, Result};
use crate::runtime::tls;
use crate::store::address::{self, Address, Kind};
use crate::store::config::{ConditionalPut, StoreConfig};
use crate::store::persistent::Persistent;
use crate::store::profile;
use crate::store::retries::Retries;
use crate::store::wire::{Connector, Wire};
use crate::telemetry::metrics::StoreStats;

/// What is known of an open store beside its objects.
#[derive(Debug)]
pub struct Backend {
    pub(super) kind: Kind,
    /// Scheme and bucket, for messages.
    pub(crate) name: String,
    pub(super) conditional_put: ConditionalPut,
    pub(super) retries: Arc<Retries>,
    pub(super) wire: Arc<Wire>,
    pub(super) uploads: Option<UploadLister>,
    /// Whether "write only if absent" was seen to work.
    pub(super) probed: tokio::sync::OnceCell<()>,
}

/// What lists and aborts uploads that never ended.
#[derive(Debug)]
pub(super) enum UploadLister {
    S3(Arc<AmazonS3>, HttpClient),
    Gcs { store: Arc<GoogleCloudStorage>, bucket_url: String, client: HttpClient },
}

impl Backend {
    /// A store whose requests need no second try and whose conditional writes are known to hold.
    pub(super) fn simple(kind: Kind) -> Arc<Self> {
        let name = match kind {
            Kind::Local => "the file system",
            _ => "memory",
        };
        Arc::new(Self {
            kind,
            name: name.to_owned(),
            conditional_put: ConditionalPut::Etag,
            retries: Arc::new(Retries::none()),
            wire: Arc::default(),
            uploads: None,
            probed: tokio::sync::OnceCell::new(),
        })
    }
}

/// Open the store of `address`. Nothing is asked of it yet.
pub(super) fn open(
    address: &Address,
    config: &StoreConfig,
    stats: Option<StoreStats>,
) -> Result<(Arc<dyn ObjectStore>, Arc<Backend>)> {
    match address.kind {
        Kind::Local => {
            // what is committed must survive a power failure, and so must what it names
            let store = object_store::local::LocalFileSystem::new().with_fsync(true);
            return Ok((Arc::new(store), Backend::simple(Kind::Local)));
        }
        Kind::Memory => return Ok((memory_store(&address.bucket), Backend::simple(Kind::Memory))),
        Kind::S3 | Kind::Gcs | Kind::Azure | Kind::Http => {}
    }
    tls::install_provider();
    let wire = Arc::new(Wire::new(stats));
    let retries = Arc::new(Retries::new(&config.retry, Arc::clone(&wire)));
    let connector = Connector(Arc::clone(&wire));
    let opened = match address.kind {
        Kind::S3 => s3(address, config, connector),
        Kind::Gcs => gcs(address, config, connector),
        Kind::Azure => azure(address, config, connector),
        _ => http(address, config, connector),
    };
    let shown = crate::store::redact(&address.root);
    let (mut store, uploads) = opened.map_err(|e| {
        let text = crate::store::redact(&crate::store::chain(&e));
        Error::config(format!("cannot open the store `{}`: {text}", shown.trim_end_matches('/')))
    })?;
    store.retries = Arc::clone(&retries);
    let backend = Backend {
        kind: address.kind,
        name: shown,
        conditional_put: config.conditional_put,
        retries,
        wire,
        uploads,
        probed: tokio::sync::OnceCell::new(),
    };
    Ok((Arc::new(store), Arc::new(backend)))
}

type Opened = object_store::Result<(Persistent, Option<UploadLister>)>;

fn persistent<S: ObjectStore>(store: Arc<S>) -> Persistent {
    Persistent { inner: store, multipart: None, retries: Arc::new(Retries::none()) }
}

/// The client tries nothing again by itself: [`Retries`] does.
fn no_retries() -> object_store::RetryConfig {
    object_store::RetryConfig { max_retries: 0, ..object_store::RetryConfig::default() }
}

/// Options of the HTTP client.
fn client_options(config: &StoreConfig, allow_http: bool) -> Vec<(ClientConfigKey, String)> {
    let mut options = vec![
        (ClientConfigKey::ConnectTimeout, config.connect_timeout.to_string()),
        (ClientConfigKey::Timeout, config.timeout.to_string()),
    ];
    if allow_http {
        options.push((ClientConfigKey::AllowHttp, "true".to_owned()));
    }
    options
}

fn s3(address: &Address, config: &StoreConfig, connector: Connector) -> Opened {
    let mut builder = AmazonS3Builder::new().with_http_connector(connector.clone()).with_retry(no_retries());
    let mut environment = environment("AWS_");
    for (key, value) in client_options(config, false) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    if !environment.contains_key("aws_access_key_id")
        && !environment.contains_key("aws_web_identity_token_file")
        && !config.anonymous
    {
        environment.extend(profile::credentials(&environment));
    }
    for (key, value) in environment {
        if let Ok(key) = key.parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    builder = builder.with_bucket_name(&address.bucket).with_virtual_hosted_style_request(!config.path_style);
    if config.allow_http {
        builder = builder.with_allow_http(true);
    }
    if config.anonymous {
        builder = builder.with_skip_signature(true);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    let store = Arc::new(builder.build()?);
    let client = signing_client(config, connector)?;
    let opened = Persistent { multipart: Some(store.clone()), ..persistent(store.clone()) };
    Ok((opened, Some(UploadLister::S3(store, client))))
}

fn gcs(address: &Address, config: &StoreConfig, connector: Connector) -> Opened {
    let mut builder = GoogleCloudStorageBuilder::new().with_http_connector(connector.clone()).with_retry(no_retries());
    for (key, value) in client_options(config, config.allow_http) {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    let mut environment = environment("GOOGLE_");
    environment.extend(self::environment("SERVICE_ACCOUNT").into_iter().filter(|(key, _)| key == "service_account"));
    let mut bucket_url = "https://storage.googleapis.com".to_owned();
    for (key, value) in environment {
        if let Ok(key) = key.parse::<GoogleConfigKey>() {
            if key == GoogleConfigKey::BaseUrl {
                bucket_url.clone_from(&value);
            }
            builder = builder.with_config(key, value);
        }
    }
    builder = builder.with_bucket_name(&address.bucket);
    if config.anonymous {
        builder = builder.with_skip_signature(true);
    }
    if let Some(endpoint) = &config.endpoint {
        bucket_url.clone_from(endpoint);
        builder = builder.with_base_url(endpoint);
    }
    bucket_url = format!("{}/{}", bucket_url.trim_end_matches('/'), address.bucket);
    let store = Arc::new(builder.build()?);
    let client = signing_client(config, connector)?;
    let opened = Persistent { multipart: Some(store.clone()), ..persistent(store.clone()) };
    Ok((opened, Some(UploadLister::Gcs { store, bucket_url, client })))
}

fn azure(address: &Address, config: &StoreConfig, connector: Connector) -> Opened {
    let mut builder = MicrosoftAzureBuilder::new().with_http_connector(connector).with_retry(no_retries());
    for (key, value) in client_options(config, config.allow_http) {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in environment("AZURE_") {
        if let Ok(key) = key.parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    for (_, endpoint) in environment("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    builder = builder.with_url(&address.root);
    if let Some(account) = &config.account {
        builder = builder.with_account(account);
    }
    if config.anonymous {
        builder = builder.with_skip_signature(true);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let store = Arc::new(builder.build()?);
    Ok((Persistent { multipart: Some(store.clone()), ..persistent(store) }, None))
}

fn http(address: &Address, config: &StoreConfig, connector: Connector) -> Opened {
    // whoever writes http:// means it
    let allow_http = config.allow_http || address.root.starts_with("http://");
    let mut options = object_store::ClientOptions::new();
    for (key, value) in client_options(config, allow_http) {
        options = options.with_config(key, value);
    }
    let mut root = address.root.clone();
    if let Some((credentials, without)) = address::user(&root) {
        options = options.with_default_headers(object_store::HeaderMap::from_iter([credentials]));
        root = without;
    }
    let builder = HttpBuilder::new().with_url(root).with_http_connector(connector).with_retry(no_retries());
    Ok((persistent(Arc::new(builder.with_client_options(options).build()?)), None))
}

/// A client for requests that are signed here.
fn signing_client(config: &StoreConfig, connector: Connector) -> object_store::Result<HttpClient> {
    use object_store::client::HttpConnector;
    let options = client_options(config, config.allow_http || !environment("AWS_ALLOW_HTTP").is_empty());
    let options =
        options.into_iter().fold(object_store::ClientOptions::new(), |o, (key, value)| o.with_config(key, value));
    connector.connect(&options)
}

/// Variables whose names begin with `prefix`, names in small letters. One that is not UTF-8 is none.
#[allow(clippy::disallowed_methods, reason = "credentials come from the environment")]
pub(super) fn environment(prefix: &str) -> BTreeMap<String, String> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(prefix))?;
        Some((name.to_ascii_lowercase(), value.into_string().ok()?))
    });
    variables.collect()
}

/// The in-memory store called `name`; it lives as long as the process.
fn memory_store(name: &str) -> Arc<dyn ObjectStore> {
    static STORES: OnceLock<Mutex<BTreeMap<String, Arc<object_store::memory::InMemory>>>> = OnceLock::new();
    let stores = STORES.get_or_init(Mutex::default);
    let mut stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(stores.entry(name.to_owned()).or_default()) as Arc<dyn ObjectStore>
}
