//! `edge-serve` with TLS: certificates of a test's own authority, clients with and without one, files that change, and
//! whoever does not speak it.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use system_tests::{
    assert_misused, assert_refused, command,
    http::{PATIENCE, reply, start_at},
    server::{Server, home_of},
};
use tempfile::TempDir;

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    /// Of a name, by which whoever sees its certificates looks for it.
    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for this machine, which ends at the beginning of a year.
    fn sign_until(&self, year: i32) -> Pair {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    fn sign(&self) -> Pair {
        self.sign_until(4000)
    }

    /// Clients that trust it, with a certificate or without one.
    fn trusting(&self, own: Option<&Pair>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                config.with_client_auth_cert(vec![own.certificate.der().clone()], key).unwrap()
            }
        })
    }
}

impl Pair {
    /// Writes `cert.pem` and `key.pem` one after the other, each in one step.
    fn write(&self, home: &Path) {
        for (name, text) in [("cert.pem", self.certificate.pem()), ("key.pem", self.key.serialize_pem())] {
            fs::write(home.join("beside"), text).unwrap();
            fs::rename(home.join("beside"), home.join(name)).unwrap();
        }
    }
}

/// A server with a certificate of an authority, whose own is in `ca.pem`.
fn server(authority: &Authority, more: &[&'static str]) -> Server {
    let (home, bundle) = home_of(&["a"]);
    authority.sign().write(home.path());
    fs::write(home.path().join("ca.pem"), authority.0.pem()).unwrap();
    let arguments = [&["--tls-certificate", "cert.pem", "--tls-key", "key.pem"][..], more].concat();
    Server::at(home, bundle, &arguments)
}

/// The status of an answer to a question; none if there is no answer, with the reason if the client knows one.
fn asked(server: &Server, client: &Arc<ClientConfig>) -> Result<u16, String> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(client.clone(), name).unwrap(), server.connect());
    let body = r#"{"text": "the film was good"}"#;
    let head = format!("POST /predict/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).map_err(|e| e.to_string())?;
    // Why there is no answer is known once it is read.
    let mut first = [0];
    stream.read_exact(&mut first).map_err(|e| e.to_string())?;
    Ok(reply(&mut (&first[..]).chain(stream)).expect("a whole answer").status)
}

fn log(server: &Server) -> String {
    fs::read_to_string(server.home.path().join("log")).unwrap()
}

/// Waits until something holds.
fn wait(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn whoever_trusts_the_authority_is_answered_and_nothing_else_is_said() {
    let (ours, other) = (Authority::named("ours"), Authority::named("other"));
    let server = server(&ours, &[]);
    assert_eq!(asked(&server, &ours.trusting(None)), Ok(200));
    let refused = asked(&server, &other.trusting(None)).unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");

    // What is not TLS gets TLS's alert, no word of HTTP, and a closed connection.
    let mut plain = server.connect();
    plain.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut found = Vec::new();
    // The rest of what it sent may be lost with the connection, which some systems report.
    let _ = plain.read_to_end(&mut found);
    assert!(found.len() == 7 && found[0] == 0x15, "{found:?}");
    assert_eq!(asked(&server, &ours.trusting(None)), Ok(200));
    let log = log(&server);
    assert!(log.contains(&format!("ready on https://{}", server.address)) && !log.contains("panicked"), "{log}");
}

#[test]
fn curl_and_openssl_are_answered() {
    let authority = Authority::named("ours");
    let server = server(&authority, &[]);
    let (home, port) = (server.home.path(), server.address.port());
    let url = |scheme| format!("{scheme}://localhost:{port}/v2/health/live");
    let run = |program: &str, arguments: &[&str]| {
        let run = Command::new(program).current_dir(home).args(arguments).stdin(std::process::Stdio::null()).output();
        // Not print, which is kept back where a test succeeds.
        run.inspect_err(|e| drop(writeln!(std::io::stderr(), "skipped: {program}: {e}"))).ok()
    };
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let most = version.replace("v1", "-max 1").replace("--tls-max ", "");
        let Some(found) = run("curl", &["-sS", version, "--tls-max", &most, "--cacert", "ca.pem", &url("https")])
        else {
            return;
        };
        assert_eq!(String::from_utf8_lossy(&found.stdout), r#"{"live":true}"#, "{found:?}");
    }
    for arguments in [["-sS", &url("https")], ["-sS", &url("http")]] {
        assert!(run("curl", &arguments).is_some_and(|found| !found.status.success() && found.stdout.is_empty()));
    }
    let at = format!("localhost:{port}");
    let arguments = ["s_client", "-connect", &at, "-CAfile", "ca.pem", "-verify_return_error", "-alpn", "h2,http/1.1"];
    if let Some(found) = run("openssl", &arguments) {
        let said = String::from_utf8_lossy(&found.stdout);
        assert!(said.contains("ALPN protocol: http/1.1") && said.contains("return code: 0"), "{said}");
    }
}

#[test]
fn a_client_shows_a_certificate_where_one_is_asked_for() {
    let (ours, other) = (Authority::named("ours"), Authority::named("other"));
    let server = server(&ours, &["--tls-clients", "ca.pem"]);
    assert_eq!(asked(&server, &ours.trusting(Some(&ours.sign()))), Ok(200));
    for (client, reason) in [
        (ours.trusting(None), "CertificateRequired"),
        (ours.trusting(Some(&other.sign())), "UnknownCA"),
        (ours.trusting(Some(&ours.sign_until(2020))), "CertificateExpired"),
    ] {
        let refused = asked(&server, &client).unwrap_err();
        assert!(refused.contains(reason), "expected {reason}, found {refused}");
    }
    assert_eq!(asked(&server, &ours.trusting(Some(&ours.sign()))), Ok(200));
}

#[test]
fn files_that_change_are_used_without_a_restart_and_wrong_ones_are_not() {
    let (before, after) = (Authority::named("before"), Authority::named("after"));
    let server = server(&before, &[]);
    let home = server.home.path();
    // A key of another certificate, as when only one of two files was replaced.
    fs::write(home.join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    wait("a warning", || asked(&server, &before.trusting(None)) == Ok(200) && log(&server).contains("KeyMismatch"));
    after.sign().write(home);
    wait("the new certificate", || asked(&server, &after.trusting(None)) == Ok(200));
    assert!(asked(&server, &before.trusting(None)).is_err());
    fs::remove_file(home.join("cert.pem")).unwrap();
    wait("a warning", || asked(&server, &after.trusting(None)) == Ok(200) && log(&server).contains("No such file"));
    assert_eq!(log(&server).matches("those before are used on").count(), 2, "{}", log(&server));
}

#[test]
fn files_that_no_client_would_accept_are_refused_with_the_remedy() {
    let authority = Authority::named("ours");
    let (good, other, expired) = (authority.sign(), authority.sign(), authority.sign_until(2020));
    let (certificate, key) = (good.certificate.pem(), good.key.serialize_pem());
    let locked = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let future = {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(3999, 1, 1);
        params.self_signed(&good.key).unwrap().pem()
    };
    let home = TempDir::new().unwrap();
    fs::create_dir(home.path().join("patches")).unwrap();
    let serve = |arguments: &[&str]| {
        let mut serve = command("edge-serve", home.path());
        serve.current_dir(home.path()).args(["--patches", "patches", "--listen", "127.0.0.1:0"]);
        serve.args(arguments).output().unwrap()
    };
    for (certificate, key, clients, parts) in [
        ("", &*key, &*certificate, ["cert.pem: expected certificates in PEM", "found none; openssl x509"]),
        (&certificate[40..], &key, &certificate, ["cert.pem: expected certificates in PEM", "openssl x509"]),
        (&key, &key, &certificate, ["cert.pem: expected certificates in PEM", "found none"]),
        (&certificate, &certificate, &certificate, ["key.pem: expected a private key in PEM", "openssl pkey"]),
        (&certificate, &locked, &certificate, ["key.pem: expected a private key in PEM", "without a password"]),
        (
            &certificate,
            &other.key.serialize_pem(),
            &certificate,
            ["key.pem: expected the private key of", "KeyMismatch"],
        ),
        (
            &expired.certificate.pem(),
            &expired.key.serialize_pem(),
            &certificate,
            ["cert.pem: expected a certificate that is valid now", "renew it, or set the clock"],
        ),
        (&future, &key, &certificate, ["cert.pem: expected a certificate that is valid now", "not valid yet"]),
        (&certificate, &key, "", ["clients.pem: expected certificates in PEM", "found none"]),
    ] {
        for (name, text) in [("cert.pem", certificate), ("key.pem", key), ("clients.pem", clients)] {
            fs::write(home.path().join(name), text).unwrap();
        }
        let files = ["--tls-certificate", "cert.pem", "--tls-key", "key.pem", "--tls-clients", "clients.pem"];
        assert_refused(&serve(&files), &parts);
    }
    let absent = serve(&["--tls-certificate", "absent.pem", "--tls-key", "key.pem"]);
    assert_refused(&absent, &["absent.pem", "No such file"]);
    assert_misused(&serve(&["--tls-certificate", "cert.pem"]), &["--tls-key"]);
    assert_misused(&serve(&["--tls-clients", "clients.pem"]), &["--tls-certificate"]);
}

#[test]
fn handshakes_count_among_connections_and_end_in_time() {
    let authority = Authority::named("ours");
    let server = server(&authority, &[]);
    let begun = Instant::now();
    // As many as may be connected at once. Half say nothing, half stop after the head of a first message.
    let silent: Vec<TcpStream> = (0..512)
        .map(|at| {
            let mut stream = server.connect();
            stream.write_all(&b"\x16\x03\x01\x02\x00\x01"[..at % 2 * 6]).unwrap();
            stream
        })
        .collect();
    // It waits until they are given up, after 10 seconds, and no longer.
    assert_eq!(asked(&server, &authority.trusting(None)), Ok(200));
    let waited = begun.elapsed();
    assert!((Duration::from_secs(9)..PATIENCE).contains(&waited), "answered after {waited:?}");
    for mut stream in silent {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "still open");
    }
}

#[test]
fn a_token_that_others_can_read_on_the_way_is_warned_of() {
    let authority = Authority::named("ours");
    let (home, bundle) = home_of(&[]);
    authority.sign().write(home.path());
    fs::write(home.path().join("ca.pem"), authority.0.pem()).unwrap();
    fs::write(home.path().join("token"), "0123456789abcdef\n").unwrap();
    let said = |arguments: &[&str]| {
        let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let _ = fs::remove_file(home.path().join("log"));
        let connect = || TcpStream::connect(("127.0.0.1", port));
        let mut child = start_at(&format!("0.0.0.0:{port}"), connect, home.path(), bundle.dir(), arguments);
        let log = || fs::read_to_string(home.path().join("log")).unwrap();
        wait("readiness", || log().contains("ready on"));
        child.kill().unwrap();
        child.wait().unwrap();
        log()
    };
    let (open, clear) = ("anyone who reaches this address may ask", "whoever is on the way reads tokens and texts");
    let token = ["--token-file", "token"];
    let tls = ["--tls-certificate", "cert.pem", "--tls-key", "key.pem"];
    let certificates = ["--tls-clients", "ca.pem"];
    for (arguments, warned) in [
        (vec![], [true, false]),
        (token.to_vec(), [false, true]),
        (tls.to_vec(), [true, false]),
        ([&token[..], &tls].concat(), [false, false]),
        ([&tls[..], &certificates].concat(), [false, false]),
    ] {
        let log = said(&arguments);
        assert_eq!([log.contains(open), log.contains(clear)], warned, "{arguments:?}: {log}");
    }
}
