//! Object stores that a lake's URL may name, beside the local folder: S3, Google Cloud Storage, Azure.
//!
//! A commit is a conditional put (`If-None-Match: *`), which all three offer; no lock service is needed.

use std::sync::{Arc, Once};

use deltalake::logstore::{
    ObjectStoreFactory, ObjectStoreRef, StorageConfig, logstore_factories, object_store_factories,
};
use deltalake::{DeltaResult, DeltaTableError};
use object_store::path::Path;
use url::Url;

pub(super) const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];

/// Teaches deltalake the schemes, once a process.
pub(super) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let scheme = |name: &str| Url::parse(&format!("{name}://")).ok();
        // Its plain log store, which commits by conditional put, serves any object store.
        let plain = scheme("memory").and_then(|memory| logstore_factories().get(&memory).map(|found| found.clone()));
        for (url, plain) in SCHEMES.iter().filter_map(|name| scheme(name).zip(plain.clone())) {
            object_store_factories().insert(url.clone(), Arc::new(ByUrl));
            logstore_factories().insert(url, plain);
        }
    });
}

/// Credentials come from the cloud's own environment variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`) or its metadata service;
/// the lake's `storage_options` come on top.
struct ByUrl;

impl ObjectStoreFactory for ByUrl {
    fn parse_url_opts(&self, url: &Url, config: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let environment = std::env::vars().filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            ["aws_", "google_", "azure_"].iter().any(|cloud| name.starts_with(cloud)).then_some((name, value))
        });
        let options = environment.chain(config.raw.clone());
        let (store, path) = object_store::parse_url_opts(url, options).map_err(DeltaTableError::from)?;
        Ok((Arc::new(store), path))
    }
}
