//! Who may do what: a bearer token, a client's certificate, or both; and what is served over TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::tls::install_provider;

/// Shorter tokens can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// A secret that clients show as `Authorization: Bearer ...`. Only its digest is kept, so that comparing takes the same time
/// whatever was shown.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// A token; white space around it (the newline of a file) does not count.
    ///
    /// # Errors
    /// `Config` if it is shorter than 16 characters, or holds others than visible ASCII.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < TOKEN_CHARS_MIN || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::config(format!(
                "the token must be at least {TOKEN_CHARS_MIN} visible ASCII characters without spaces; \
                 `openssl rand -hex 32` makes one"
            )));
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    /// Whether `shown` is it.
    pub fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        self.0 == shown
    }
}

/// Certificate and key of the server, and who may connect; read again on demand.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// From PEM files. With `client_ca`, a client that shows a certificate of that authority may change things; one without a
    /// certificate may do what needs none.
    ///
    /// # Errors
    /// `Config` that names the file that cannot be used.
    pub fn open(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self> {
        let config = server_config(certificate, key, client_ca)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.map(Path::to_owned),
            config: RwLock::new(Arc::new(config)),
        })
    }

    /// Read the files again; connections from now on see what they hold. After an error the old ones are used.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reload(&self) -> Result<()> {
        let config = server_config(&self.certificate, &self.key, self.client_ca.as_deref())?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerConfig> {
    install_provider();
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .or_kind(ErrorKind::Config, || format!("`{}` holds no private key in PEM", key.display()))?;
    let builder = match client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            let unfit = || format!("`{}` holds no certificate of an authority", file.display());
            for authority in certificates(file)? {
                roots.add(authority).or_kind(ErrorKind::Config, unfit)?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
            ServerConfig::builder().with_client_cert_verifier(verifier.or_kind(ErrorKind::Config, unfit)?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).or_kind(ErrorKind::Config, || {
        format!("certificate `{}` and key `{}` do not fit", certificate.display(), key.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = || format!("`{}` holds no certificates in PEM", file.display());
    let read = CertificateDer::pem_file_iter(file).or_kind(ErrorKind::Config, wrong)?;
    let found: Vec<_> = read.collect::<Result<_, _>>().or_kind(ErrorKind::Config, wrong)?;
    if found.is_empty() { Err(Error::config(wrong())) } else { Ok(found) }
}

/// Who may do what.
#[derive(Default)]
pub struct Access {
    /// Shown by those who may change things.
    pub token: Option<Token>,
    /// Encryption, and certificates of those who may change things.
    pub tls: Option<Arc<Tls>>,
    /// Whether reading needs the same; `/livez` and `/readyz` never do.
    pub protect_reads: bool,
}

impl Access {
    /// Whether anybody can show who they are: without, nothing can be changed.
    pub fn has_keys(&self) -> bool {
        self.token.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Refuse to listen where strangers are, unless they can be told from friends.
    ///
    /// # Errors
    /// `Config` that says what to do.
    pub fn check(&self, listen: SocketAddr) -> Result<()> {
        if !listen.ip().is_loopback() && !self.has_keys() {
            return Err(Error::config(format!(
                "--listen {listen} is reachable from other machines: give a token (--token-file, or HARVESTD_TOKEN in the \
                 environment) or an authority for clients' certificates (--tls-client-ca), or listen on 127.0.0.1"
            )));
        }
        if self.protect_reads && !self.has_keys() {
            return Err(Error::config("--protect-reads needs a token (--token-file) or --tls-client-ca"));
        }
        if !listen.ip().is_loopback() && self.tls.is_none() {
            tracing::warn!(%listen, "the token is sent unencrypted: give --tls-cert and --tls-key unless a proxy encrypts");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole_and_short_ones_refused() {
        let token = Token::new("  0123456789abcdef\n").unwrap();
        assert!(token.is("0123456789abcdef"));
        assert!(!token.is("0123456789abcdeF") && !token.is("0123456789abcde") && !token.is(""));
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcdé0"] {
            assert_eq!(Token::new(bad).err().unwrap().kind(), ErrorKind::Config, "{bad}");
        }
    }

    #[test]
    fn strangers_need_a_lock() {
        let (open, mut access) = ("0.0.0.0:9464".parse().unwrap(), Access::default());
        let error = access.check(open).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("--token-file"), "{error}");
        assert!(access.check("[::1]:9464".parse().unwrap()).is_ok());
        access.token = Some(Token::new("0123456789abcdef").unwrap());
        assert!(access.check(open).is_ok());
        let reads = Access { protect_reads: true, ..Access::default() };
        assert!(reads.check("127.0.0.1:1".parse().unwrap()).is_err());
    }

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
        for file in [file, folder.path().join("absent.pem")] {
            let error = Tls::open(&file, &file, None).err().unwrap();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(".pem"), "{error}");
        }
    }
}
