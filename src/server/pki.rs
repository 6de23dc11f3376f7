//! The cluster's keys and certificates: authority, serving certificate, administrator's
//! certificate, service-account key; and the server token. Kept below `DATA/server`, mode 0600.
//!
//! Loaded or made at start. The authority and the service-account key live as long as the
//! cluster; the certificates signed by them are replaced in the running process after two thirds
//! of their life, and at start when the names they are good for have changed.
//!
//! After a crash: every file is written whole or not at all, a key before the certificate that
//! belongs to it; a pair that does not belong together is made again, except the authority's,
//! which is an error because every node trusts it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::util::clock::Clock;
use crate::util::x509::{Authority, Facts, Key, Profile, Usage};
use crate::util::{fs, tls, x509};

const DAY: Duration = Duration::from_secs(86_400);
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);
const SERVING_LIFETIME: Duration = DAY.saturating_mul(365);
const ADMIN_LIFETIME: Duration = DAY.saturating_mul(365);
const NODE_LIFETIME: Duration = DAY.saturating_mul(365);

/// A file of the cluster's identity could not be read, written or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{doing} `{path}`")]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is there and is not what it should be.
    #[error("`{path}` is damaged; restore it from a backup of the data folder")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: x509::Error,
    },
    /// A key or certificate could not be made.
    #[error(transparent)]
    X509(#[from] x509::Error),
    /// The serving certificate is not usable.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Names and addresses the serving certificate is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Host names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// Sorts `name` by what it is; an unspecified address (`0.0.0.0`) names nobody.
    pub fn add(&mut self, name: &str) {
        match name.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => {}
            Ok(address) => {
                self.addresses.insert(address);
            }
            Err(_) => {
                self.dns.insert(name.to_ascii_lowercase());
            }
        }
    }
}

/// The cluster's keys and certificates, loaded.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    clock: Clock,
    names: Names,
    authority: Arc<Authority>,
    serving: tls::Identity,
    service_account: Key,
}

/// A certificate with its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Certificate.
    pub certificate: String,
    /// Key.
    pub key: String,
}

impl Pki {
    /// Loads what is in `folder` (`DATA/server/tls`) and makes what is not.
    pub fn open(folder: &Path, names: Names, clock: Clock) -> Result<Self, Error> {
        let now = clock.now();
        let authority = open_authority(folder, now)?;
        let service_account = open_key(folder, "service-account")?;
        let pair = ensure(folder, "serving", &authority, &serving_profile(&names), now)?;
        Ok(Self {
            folder: folder.to_owned(),
            serving: tls::Identity::new(&pair.certificate, &pair.key)?,
            clock,
            names,
            authority: Arc::new(authority),
            service_account,
        })
    }

    /// Replaces the serving certificate where it is due. Returns when to call again.
    pub fn renew(&self) -> Result<Timestamp, Error> {
        let profile = serving_profile(&self.names);
        let now = self.clock.now();
        let pair = ensure(&self.folder, "serving", &self.authority, &profile, now)?;
        self.serving.replace(&pair.certificate, &pair.key)?;
        let admin = Facts::from_pem(&self.admin()?.certificate)?;
        Ok(Facts::from_pem(&pair.certificate)?
            .renew_at()
            .min(admin.renew_at()))
    }

    /// What the listener shows.
    pub fn serving(&self) -> &tls::Identity {
        &self.serving
    }

    /// The authority's certificate: the exact bytes of the file, which the token's hash is of.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Who signs.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Signs and checks service-account tokens.
    pub fn service_account_key(&self) -> &Key {
        &self.service_account
    }

    /// The administrator's client certificate (`system:admin` in `system:masters`), renewed where
    /// it is due.
    pub fn admin(&self) -> Result<Pair, Error> {
        let profile = client_profile("system:admin", "system:masters", ADMIN_LIFETIME);
        ensure(
            &self.folder,
            "admin",
            &self.authority,
            &profile,
            self.clock.now(),
        )
    }

    /// The client certificate of node `name` for the key in `request` (PEM).
    pub fn sign_node(&self, name: &str, request: &str) -> Result<String, Error> {
        let profile = client_profile(
            &format!("system:node:{name}"),
            "system:nodes",
            NODE_LIFETIME,
        );
        let now = self.clock.now();
        Ok(self.authority.sign_request(&profile, request, now)?)
    }

    /// A kubeconfig for the administrator, reaching the server at `url`.
    pub fn kubeconfig(&self, url: &str) -> Result<String, Error> {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let admin = self.admin()?;
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    \
             certificate-authority-data: {}\n    server: {url}\ncontexts:\n- name: default\n  \
             context:\n    cluster: default\n    user: default\ncurrent-context: default\n\
             users:\n- name: default\n  user:\n    client-certificate-data: {}\n    \
             client-key-data: {}\n",
            encode(self.ca_pem()),
            encode(&admin.certificate),
            encode(&admin.key),
        ))
    }
}

/// The server token's file: loaded, or made of `secret` where there is one and of randomness
/// where not. `given` replaces what is in the file. Returns the bare secret.
pub fn server_secret(file: &Path, given: Option<&str>, ca_pem: &str) -> Result<String, Error> {
    let kept = read(file)?;
    let secret = match (given, &kept) {
        (Some(given), _) => bare_secret(given).to_owned(),
        (None, Some(kept)) if !kept.trim().is_empty() => bare_secret(kept.trim()).to_owned(),
        (None, _) => hex::encode(tls::random_bytes::<16>()),
    };
    let long = format!("{}\n", long_token(ca_pem, "server", &secret));
    if kept.as_deref() != Some(&long) {
        write(file, &long)?;
    }
    Ok(secret)
}

/// What all servers of a cluster share, by file name.
const SHARED: &[&str] = &["ca.crt", "ca.key", "service-account.key"];

/// The files of the shared identity that are in `folder`.
pub(super) fn shared_files(folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut files = BTreeMap::new();
    for name in SHARED {
        if let Some(text) = read(&folder.join(name))? {
            files.insert((*name).to_owned(), text);
        }
    }
    Ok(files)
}

/// Writes the files of the shared identity, the authority's certificate last: without it the
/// others are a start that was cut short.
pub(super) fn replace_shared(folder: &Path, files: &BTreeMap<String, String>) -> Result<(), Error> {
    let shared = SHARED.iter().rev();
    let texts = shared.filter_map(|name| Some((name, files.get(*name)?)));
    for (name, text) in texts {
        write(&folder.join(name), text)?;
    }
    Ok(())
}

/// The bare secret that was given, or that `file` has from an earlier start.
pub(super) fn known_secret(file: &Path, given: Option<&str>) -> Result<Option<String>, Error> {
    let kept = read(file)?;
    let known = given.or(kept.as_deref()).map(str::trim);
    let known = known.filter(|token| !token.is_empty());
    Ok(known.map(|token| bare_secret(token).to_owned()))
}

/// Makes a secret and keeps it in `file`; the authority is in `folder` already.
pub(super) fn new_secret(file: &Path, folder: &Path) -> Result<String, Error> {
    let authority = read(&folder.join("ca.crt"))?.unwrap_or_default();
    server_secret(file, None, &authority)
}

/// `K10<sha256 of the authority's certificate file, hex>::<user>:<secret>`
pub fn long_token(ca_pem: &str, user: &str, secret: &str) -> String {
    format!("K10{}::{user}:{secret}", ca_hash(ca_pem))
}

/// The hex SHA-256 of the authority's certificate file.
pub fn ca_hash(ca_pem: &str) -> String {
    hex::encode(Sha256::digest(ca_pem.as_bytes()))
}

/// The secret of a token in the long or the short form.
pub fn bare_secret(token: &str) -> &str {
    match token.strip_prefix("K10").and_then(|t| t.split_once("::")) {
        Some((_, pair)) => pair.split_once(':').map_or(pair, |(_, secret)| secret),
        None => token,
    }
}

fn serving_profile(names: &Names) -> Profile {
    Profile {
        common_name: "orch".to_owned(),
        organization: None,
        usage: Usage::Server,
        dns_names: names.dns.iter().cloned().collect(),
        addresses: names.addresses.iter().copied().collect(),
        lifetime: SERVING_LIFETIME,
    }
}

fn client_profile(user: &str, group: &str, lifetime: Duration) -> Profile {
    Profile {
        common_name: user.to_owned(),
        organization: Some(group.to_owned()),
        usage: Usage::Client,
        dns_names: Vec::new(),
        addresses: Vec::new(),
        lifetime,
    }
}

fn open_authority(folder: &Path, now: Timestamp) -> Result<Authority, Error> {
    let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    match (read(&certificate)?, read(&key)?) {
        (Some(certificate_pem), Some(key_pem)) => {
            Authority::from_pem(&certificate_pem, &key_pem).map_err(|e| damaged(&certificate, e))
        }
        (Some(_), None) => {
            let why = "the authority's certificate is there and its key is not".to_owned();
            let doing = "read authority";
            Err(damaged(&key, x509::Error { doing, why }))
        }
        // A key without a certificate is a first start that was cut short: nobody trusts it yet.
        (None, _) => {
            let name = format!("orch-ca@{}", now.as_second());
            let (authority, new_key) = Authority::generate(&name, now, AUTHORITY_LIFETIME)?;
            write(&key, &new_key.pem())?;
            write(&certificate, authority.pem())?;
            Ok(authority)
        }
    }
}

fn open_key(folder: &Path, name: &str) -> Result<Key, Error> {
    let file = folder.join(format!("{name}.key"));
    if let Some(pem) = read(&file)? {
        return Key::from_pem(&pem).map_err(|e| damaged(&file, e));
    }
    let key = Key::generate()?;
    write(&file, &key.pem())?;
    Ok(key)
}

/// The pair `name` as it is on disk where it says what `profile` asks for and is not due;
/// otherwise a new one.
fn ensure(
    folder: &Path,
    name: &str,
    authority: &Authority,
    profile: &Profile,
    now: Timestamp,
) -> Result<Pair, Error> {
    let certificate_file = folder.join(format!("{name}.crt"));
    let key_file = folder.join(format!("{name}.key"));
    if let (Some(certificate), Some(key)) = (read(&certificate_file)?, read(&key_file)?)
        && is_current(&certificate, &key, profile, now)
        && chains_to(&certificate, authority)
    {
        return Ok(Pair { certificate, key });
    }
    let key = Key::generate()?;
    let certificate = authority.sign(profile, &key, now)?;
    let key = key.pem();
    write(&key_file, &key)?;
    write(&certificate_file, &certificate)?;
    tracing::info!(certificate = name, "issued");
    Ok(Pair { certificate, key })
}

fn is_current(certificate: &str, key: &str, profile: &Profile, now: Timestamp) -> bool {
    let Ok(facts) = Facts::from_pem(certificate) else {
        return false;
    };
    let wanted_groups: Vec<_> = profile.organization.iter().cloned().collect();
    let as_wanted = facts.common_name == profile.common_name
        && facts.organizations == wanted_groups
        && facts.dns_names == profile.dns_names
        && facts.addresses == profile.addresses;
    let pair_fits = tls::Identity::new(certificate, key).is_ok();
    as_wanted && pair_fits && now >= facts.not_before && now < facts.renew_at()
}

fn chains_to(certificate: &str, authority: &Authority) -> bool {
    x509::is_signed_by(certificate, authority.pem()).unwrap_or(false)
}

fn read(file: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error("read", file, source)),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write_atomic(file, text.as_bytes(), 0o600).map_err(|e| file_error("write", file, e))
}

fn file_error(doing: &'static str, file: &Path, source: std::io::Error) -> Error {
    Error::File {
        doing,
        path: file.display().to_string(),
        source,
    }
}

fn damaged(file: &Path, source: x509::Error) -> Error {
    Error::Damaged {
        path: file.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn clock() -> Clock {
        Clock::fixed("2026-11-23T00:00:00Z".parse().unwrap())
    }

    fn names() -> Names {
        let mut names = Names::default();
        for name in ["localhost", "127.0.0.1", "0.0.0.0"] {
            names.add(name);
        }
        names
    }

    fn serving(folder: &Path) -> String {
        std::fs::read_to_string(folder.join("serving.crt")).unwrap()
    }

    #[test]
    fn a_second_start_finds_the_same_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(folder.path(), names(), clock()).unwrap();
        let certificate = serving(folder.path());
        let second = Pki::open(folder.path(), names(), clock()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.admin().unwrap(), second.admin().unwrap());
        assert_eq!(serving(folder.path()), certificate);
        assert_eq!(
            first.service_account_key().pem(),
            second.service_account_key().pem()
        );
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_new_name_or_a_due_date_makes_a_new_serving_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let clock = clock();
        let pki = Pki::open(folder.path(), names(), clock.clone()).unwrap();
        let first = serving(folder.path());
        let mut more = names();
        more.add("api.example.org");
        Pki::open(folder.path(), more, clock.clone()).unwrap();
        let second = serving(folder.path());
        assert_ne!(first, second);
        assert!(
            Facts::from_pem(&second)
                .unwrap()
                .dns_names
                .contains(&"api.example.org".into())
        );

        let due = pki.renew().unwrap();
        let third = serving(folder.path());
        clock.set(due);
        assert!(pki.renew().unwrap() > due);
        assert_ne!(serving(folder.path()), third);
    }

    #[test]
    fn after_four_hundred_days_nothing_has_expired() {
        let folder = tempfile::tempdir().unwrap();
        let clock = clock();
        let pki = Pki::open(folder.path(), names(), clock.clone()).unwrap();
        let days = |count: i64| jiff::SignedDuration::from_hours(24 * count);
        let request = Key::generate().unwrap().request("any", "").unwrap();
        let mut node = pki.sign_node("a", &request).unwrap();
        let first = [serving(folder.path()), node.clone()];
        let end = clock.now() + days(400);
        while clock.now() < end {
            let now = clock.now();
            let due = pki.renew().unwrap();
            let node_due = Facts::from_pem(&node).unwrap().renew_at();
            if node_due <= now {
                node = pki.sign_node("a", &request).unwrap();
            }
            let admin = pki.admin().unwrap().certificate;
            for certificate in [&serving(folder.path()), &admin, &node] {
                let facts = Facts::from_pem(certificate).unwrap();
                assert!(chains_to(certificate, &pki.authority));
                // Whoever sleeps for two months still finds it good.
                assert!(facts.not_before <= now && now + days(60) < facts.not_after);
            }
            clock.set((now + days(30)).min(due.max(now + days(1))));
        }
        assert_ne!([serving(folder.path()), node], first);
        let authority = Facts::from_pem(pki.ca_pem()).unwrap();
        assert!(authority.not_after > end + days(8 * 365));
    }

    #[test]
    fn an_authority_without_its_key_is_an_error_and_nothing_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), names(), clock()).unwrap();
        std::fs::remove_file(folder.path().join("ca.key")).unwrap();
        let error = Pki::open(folder.path(), names(), clock()).unwrap_err();
        assert!(error.to_string().contains("ca.key"), "{error}");
        let kept = std::fs::read_to_string(folder.path().join("ca.crt")).unwrap();
        assert_eq!(kept, pki.ca_pem());
    }

    #[test]
    fn the_token_file_has_the_long_form_and_outlives_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let secret = server_secret(&file, None, "PEM").unwrap();
        assert_eq!(server_secret(&file, None, "PEM").unwrap(), secret);
        let kept = std::fs::read_to_string(&file).unwrap();
        assert_eq!(kept.trim(), long_token("PEM", "server", &secret));
        assert_eq!(bare_secret(kept.trim()), secret);
        assert_eq!(server_secret(&file, Some("mine"), "PEM").unwrap(), "mine");
        assert_eq!(server_secret(&file, None, "PEM").unwrap(), "mine");
    }
}
