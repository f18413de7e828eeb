//! TLS by rustls with ring, with client certificates where configured.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::IngestError;
use crate::config::{ClientAuth, Tls};

/// What does the handshakes. Errors name the key and the file that are wrong.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, IngestError> {
    let chain = certificates("tls.certificate", &tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| wrong("tls.key", &tls.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| IngestError::config("tls", error.to_string()))?;
    let builder = match &tls.client_ca {
        None if tls.client_auth == ClientAuth::Required => {
            return Err(IngestError::config("tls.client_auth", "is \"required\", but tls.client_ca is not set"));
        }
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("tls.client_ca", path)? {
                roots.add(certificate).map_err(|error| wrong("tls.client_ca", path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match tls.client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::Required => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong("tls.client_ca", path, error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| wrong("tls.key", &tls.key, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, IngestError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(key, path, error))?;
    match certificates.is_empty() {
        true => Err(wrong(key, path, "has no certificate in it")),
        false => Ok(certificates),
    }
}

fn wrong(key: &'static str, path: &Path, reason: impl ToString) -> IngestError {
    IngestError::File { key, path: path.to_owned(), reason: reason.to_string() }
}
