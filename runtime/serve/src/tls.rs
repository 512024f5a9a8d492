//! TLS: the certificate that clients see, and those that clients have to show.
//!
//! In: files in PEM, and connections. Out: encrypted connections. Refused at the start: a file without what it is to
//! hold, a key of another certificate, and a certificate that has expired. Refused later: a client that is too slow, does
//! not speak TLS, or lacks a certificate that is asked for.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bias_patch::Digest;
use tokio::time::timeout;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        CertificateError, Error as TlsError, RootCertStore, ServerConfig,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::{
    TlsFiles,
    error::{Error, Result},
    limits,
    listen::{Connection, Stream},
};

/// Files that were replaced are noticed by the first client after this time.
const REREAD: Duration = Duration::from_secs(1);

/// What turns connections into encrypted ones.
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// The bytes that the configuration was made of.
    digests: Vec<Digest>,
    read: Instant,
    /// What is wrong with files that came later, as the log has said.
    wrong: String,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or used.
    pub fn open(files: &TlsFiles) -> Result<Self> {
        let bytes = read(files)?;
        let current = Current {
            config: configure(files, &bytes)?,
            digests: digests(&bytes),
            read: Instant::now(),
            wrong: String::new(),
        };
        Ok(Tls { files: files.clone(), current: Mutex::new(current) })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When the client is too slow, does not speak TLS, or has no certificate that is accepted.
    pub async fn accept(&self, stream: Stream) -> io::Result<Box<dyn Connection>> {
        let handshake = TlsAcceptor::from(self.config()).accept(stream);
        let encrypted = timeout(limits::HANDSHAKE_TIME, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Box::new(encrypted))
    }

    /// The configuration of the files as they are now, or, while they are wrong, as they were.
    fn config(&self) -> Arc<ServerConfig> {
        // What a thread that panicked left behind is whole: fields are set one at a time, each to a valid value.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.read.elapsed() >= REREAD {
            current.read = Instant::now();
            match self.renewed(&current.digests) {
                Ok(None) => current.wrong.clear(),
                Ok(Some(renewed)) => {
                    tracing::info!("TLS: the files have changed, and new connections use them");
                    *current = renewed;
                }
                Err(error) => {
                    let wrong = error.to_string();
                    if current.wrong != wrong {
                        tracing::warn!("TLS: the files have changed, and those before are used on: {wrong}");
                        current.wrong = wrong;
                    }
                }
            }
        }
        current.config.clone()
    }

    /// What the files say now; none if they say what they said.
    fn renewed(&self, before: &[Digest]) -> Result<Option<Current>> {
        let bytes = read(&self.files)?;
        let digests = digests(&bytes);
        if digests == before {
            return Ok(None);
        }
        let config = configure(&self.files, &bytes)?;
        Ok(Some(Current { config, digests, read: Instant::now(), wrong: String::new() }))
    }
}

/// The bytes of the certificate, of its key, and of the clients' authorities if they are asked for.
fn read(files: &TlsFiles) -> Result<Vec<Vec<u8>>> {
    let read = |path: &Path| bias_patch::read_at_most(path, bias_patch::MOST_SMALL).map_err(Error::from);
    files.paths().map(read).collect()
}

fn digests(bytes: &[Vec<u8>]) -> Vec<Digest> {
    bytes.iter().map(|bytes| Digest::of(bytes)).collect()
}

fn configure(files: &TlsFiles, bytes: &[Vec<u8>]) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(ring::default_provider());
    let [certificate, key, clients @ ..] = bytes else { unreachable!("read gives the certificate and its key") };
    let chain = certificates(&files.certificate, certificate)?;
    check_dates(&files.certificate, &chain, &provider)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| {
        let remedy = "openssl pkey -in KEY -out PLAIN writes one that has a password as one without";
        wrong(&files.key, "a private key in PEM without a password", e, remedy)
    })?;
    let verifier = match (&files.clients, clients) {
        (Some(path), [authorities]) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, authorities)? {
                roots.add(authority).map_err(|e| wrong(path, "certificates of authorities", e, "replace the file"))?;
            }
            let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            built.map_err(|e| wrong(path, "certificates of authorities", e, "replace the file"))?
        }
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_client_cert_verifier(verifier))
        .and_then(|builder| builder.with_single_cert(chain, key));
    let mut config = config.map_err(|e| {
        let expected = format!("the private key of the certificate in {}", files.certificate.display());
        wrong(&files.key, expected, e, "name both files of one certificate")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let expected = "certificates in PEM, each after -----BEGIN CERTIFICATE-----";
    let remedy = "openssl x509 -inform der -in DER -out PEM writes one that is in DER as PEM";
    let chain = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    match chain.map_err(|e| wrong(path, expected, e, remedy))? {
        chain if chain.is_empty() => Err(wrong(path, expected, "none", remedy)),
        chain => Ok(chain),
    }
}

/// Refuses a certificate that has expired, which every client would refuse.
///
/// rustls compares the dates before it asks who signed the certificate. Who did is for clients to judge, so whatever else
/// it has to say is left alone, and any authority will do: here, the certificate itself.
fn check_dates(path: &Path, chain: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<()> {
    let Some(own) = chain.first() else { return Ok(()) };
    let expected = "a certificate that is valid now";
    let remedy = "renew it, or set the clock";
    let mut roots = RootCertStore::empty();
    roots.add(own.clone()).map_err(|e| wrong(path, expected, e, "replace the file"))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let verifier = verifier.map_err(|e| wrong(path, expected, e, "replace the file"))?;
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    match verifier.verify_server_cert(own, &[], &name, &[], UnixTime::now()) {
        Err(TlsError::InvalidCertificate(
            e @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Err(wrong(path, expected, e, remedy)),
        _ => Ok(()),
    }
}

fn wrong(path: &Path, expected: impl Into<String>, found: impl std::fmt::Display, remedy: &'static str) -> Error {
    Error::Tls { path: path.to_owned(), expected: expected.into(), found: found.to_string(), remedy }
}
