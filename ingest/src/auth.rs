//! Who a sender is, and which clusters it may write. Tokens are kept and compared as hashes, in constant time.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use rustls::crypto::hash::Hash;
use subtle::{Choice, ConstantTimeEq};

use crate::IngestError;
use crate::certificate::Names;
use crate::config::{Certificate, Token};

/// Why a request is refused. The sender is told no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No identity that is known: 401.
    Unknown,
    /// A known identity, of other clusters: 403.
    Forbidden,
}

/// The identities that are known.
#[derive(Debug, Default)]
pub struct Auth {
    tokens: Vec<(Vec<u8>, Clusters)>,
    certificates: Vec<(Certificate, Clusters)>,
}

#[derive(Debug)]
struct Clusters {
    /// The identity they belong to, for logs.
    of: String,
    names: Vec<String>,
}

impl Clusters {
    fn include(&self, cluster: &str) -> bool {
        self.names.iter().any(|allowed| allowed == "*" || allowed == cluster)
    }
}

impl Auth {
    /// Errors name the key that is wrong.
    pub fn new(tokens: &[Token], certificates: &[Certificate]) -> Result<Self, IngestError> {
        let mut auth = Self::default();
        for (i, token) in tokens.iter().enumerate() {
            let hash = unhex(&token.sha256).filter(|hash| hash.len() == 32).ok_or_else(|| {
                IngestError::config(format!("tokens[{i}].sha256"), "is not a SHA-256 in 64 hex digits")
            })?;
            auth.tokens.push((hash, clusters(&token.name, &token.clusters, || format!("tokens[{i}].clusters"))?));
        }
        for (i, certificate) in certificates.iter().enumerate() {
            if certificate.subject_cn.is_some() == certificate.san.is_some() {
                return Err(IngestError::config(format!("certificates[{i}]"), "needs one of subject_cn and san"));
            }
            let name = certificate.subject_cn.as_ref().or(certificate.san.as_ref()).map_or("", String::as_str);
            let clusters = clusters(name, &certificate.clusters, || format!("certificates[{i}].clusters"))?;
            auth.certificates.push((certificate.clone(), clusters));
        }
        Ok(auth)
    }

    /// Whether everybody may write everything.
    pub fn open(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty()
    }

    /// Lets a sender with these headers and this certificate write a cluster, or not.
    pub fn permit(&self, cluster: &str, headers: &HeaderMap, certificate: Option<&Names>) -> Result<(), Denied> {
        if self.open() {
            return Ok(());
        }
        let mut known = false;
        for clusters in self.by_token(headers).into_iter().chain(self.by_certificate(certificate)) {
            if clusters.include(cluster) {
                return Ok(());
            }
            tracing::warn!(identity = clusters.of, cluster, "an identity that may not write this cluster");
            known = true;
        }
        Err(if known { Denied::Forbidden } else { Denied::Unknown })
    }

    /// Every token is compared in full, whichever matches.
    fn by_token(&self, headers: &HeaderMap) -> Option<&Clusters> {
        let presented = secret(headers.get(AUTHORIZATION)?.as_bytes())?;
        let hash = sha256(&presented);
        let mut found = None;
        for (known, clusters) in &self.tokens {
            let same: Choice = known.as_slice().ct_eq(&hash);
            if bool::from(same) {
                found = Some(clusters);
            }
        }
        found
    }

    fn by_certificate<'a>(&'a self, names: Option<&'a Names>) -> impl Iterator<Item = &'a Clusters> {
        self.certificates.iter().filter_map(move |(certificate, clusters)| {
            let names = names?;
            let by_cn = certificate.subject_cn.is_some() && certificate.subject_cn == names.common_name;
            let by_san = certificate.san.as_ref().is_some_and(|san| names.alternative.contains(san));
            (by_cn || by_san).then_some(clusters)
        })
    }
}

fn clusters(of: &str, names: &[String], key: impl Fn() -> String) -> Result<Clusters, IngestError> {
    if names.is_empty() {
        return Err(IngestError::config(key(), "is empty: it may write no cluster"));
    }
    match names.iter().find(|name| *name != "*" && !valid_cluster(name)) {
        Some(name) => Err(IngestError::config(key(), format!("has {name:?}, which is no cluster's name"))),
        None => Ok(Clusters { of: of.to_owned(), names: names.to_vec() }),
    }
}

/// Whether this can be a cluster's name: up to 253 letters, digits, dots, underscores and dashes.
pub fn valid_cluster(name: &str) -> bool {
    let fits = (1..=253).contains(&name.len());
    fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The token of a bearer header, or the password of a basic one.
fn secret(header: &[u8]) -> Option<Vec<u8>> {
    let space = header.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = (&header[..space], header[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if scheme.eq_ignore_ascii_case(b"basic") {
        let decoded = unbase64(rest)?;
        let colon = decoded.iter().position(|b| *b == b':')?;
        return Some(decoded[colon + 1..].to_vec());
    }
    None
}

/// The SHA-256 of a secret.
pub fn sha256(secret: &[u8]) -> Vec<u8> {
    use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    // rustls has the hash at hand; every TLS 1.3 suite is of this variant.
    let hash: Option<&dyn Hash> = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider);
    hash.map(|hash| hash.hash(secret).as_ref().to_vec()).unwrap_or_default()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for byte in text.iter().take_while(|b| **b != b'=') {
        let digit = DIGITS.iter().position(|d| d == byte)?;
        bits = bits << 6 | u32::try_from(digit).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn auth() -> Auth {
        let token = |secret: &[u8], clusters: &[&str]| Token {
            name: "test".into(),
            sha256: hex(&sha256(secret)),
            clusters: clusters.iter().map(ToString::to_string).collect(),
        };
        let certificate =
            Certificate { subject_cn: Some("apiserver".into()), san: None, clusters: vec!["prod".into()] };
        Auth::new(&[token(b"one", &["prod", "dev"]), token(b"all", &["*"])], &[certificate]).unwrap()
    }

    fn check(header: &str, certificate: Option<&str>, cluster: &str) -> Result<(), Denied> {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        let names = certificate.map(|cn| Names { common_name: Some(cn.into()), alternative: Vec::new() });
        auth().permit(cluster, &headers, names.as_ref())
    }

    #[test]
    fn tokens_and_certificates_are_bound_to_clusters() {
        assert_eq!(check("Bearer one", None, "prod"), Ok(()));
        assert_eq!(check("bearer  one ", None, "dev"), Ok(()));
        assert_eq!(check("Bearer one", None, "other"), Err(Denied::Forbidden));
        assert_eq!(check("Bearer all", None, "other"), Ok(()));
        assert_eq!(check("Basic ZmFsY286b25l", None, "prod"), Ok(()));
        assert_eq!(check("Bearer two", None, "prod"), Err(Denied::Unknown));
        assert_eq!(check("Bearer", None, "prod"), Err(Denied::Unknown));
        assert_eq!(check("Basic !!", None, "prod"), Err(Denied::Unknown));
        assert_eq!(check("", None, "prod"), Err(Denied::Unknown));
        assert_eq!(check("", Some("apiserver"), "prod"), Ok(()));
        assert_eq!(check("", Some("apiserver"), "dev"), Err(Denied::Forbidden));
        assert_eq!(check("", Some("other"), "prod"), Err(Denied::Unknown));
        assert_eq!(check("Bearer one", Some("apiserver"), "other"), Err(Denied::Forbidden));
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let hash = hex(&sha256(b"abc"));
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn wrong_configuration_names_its_key() {
        let token = Token { name: "t".into(), sha256: "abc".into(), clusters: vec!["*".into()] };
        let error = Auth::new(&[token], &[]).unwrap_err().to_string();
        assert!(error.contains("ingest.tokens[0].sha256"), "{error}");
        let token = Token { name: "t".into(), sha256: "ab".repeat(32), clusters: vec!["a/b".into()] };
        let error = Auth::new(&[token], &[]).unwrap_err().to_string();
        assert!(error.contains("tokens[0].clusters"), "{error}");
        let error = Auth::new(&[], &[Certificate::default()]).unwrap_err().to_string();
        assert!(error.contains("certificates[0]"), "{error}");
    }

    #[test]
    fn cluster_names() {
        assert!(valid_cluster("prod-eu.1_a"));
        assert!(!valid_cluster(""));
        assert!(!valid_cluster("a b"));
        assert!(!valid_cluster("é"));
        assert!(valid_cluster(&"x".repeat(253)));
        assert!(!valid_cluster(&"x".repeat(254)));
    }
}
