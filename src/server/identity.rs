//! One identity for all servers of a cluster: the authority and the key of service-account tokens,
//! kept in the datastore that they share, sealed with the server token.
//!
//! Only for a datastore outside the server; an embedded one has its identity in the folder beside
//! it. The first server makes the identity and puts it there; a further one takes it from there,
//! for which it needs the token. Two first servers at once: one writes, the other gives up what it
//! made a moment ago and takes the winner's.
//!
//! Sealed means AES-256-GCM under a key that PBKDF2-HMAC-SHA256 makes of the token's secret, so
//! that who can read the datastore does not hold the cluster's keys. A changed token leaves the
//! record as it is: the servers that have the identity on disk do not need it again.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::server::{pki, storage};
use crate::store::{self, Precondition, Store, Txn, Write};
use crate::util::tls;

/// Slow enough that a short token is not guessed at once, fast enough not to be felt at a start.
const ITERATIONS: u32 = 100_000;

/// Why the identity could not be shared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The datastore did not answer.
    #[error("read or write the cluster's identity in the datastore")]
    Store(#[from] store::Error),
    /// The files of this server.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A further server was started without a token.
    #[error(
        "the datastore holds a cluster already: start this server with that cluster's token \
         (`--token`; it is in `DATA/server/token` of a server of the cluster)"
    )]
    NoToken,
    /// The token is another cluster's.
    #[error(
        "the token does not fit the cluster in the datastore: take the one in \
         `DATA/server/token` of a server of the cluster"
    )]
    WrongToken,
    /// The folder belongs to another cluster than the datastore.
    #[error(
        "`{file}` is not that of the cluster in the datastore: this data folder belongs to another \
         cluster; use an empty `--data-dir`, or the datastore it belongs to"
    )]
    OtherCluster {
        /// The file that differs.
        file: String,
    },
    /// The record cannot be read.
    #[error("the cluster's identity in the datastore is damaged: {0}")]
    Damaged(String),
}

/// What is in the datastore.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    iterations: NonZeroU32,
    salt: String,
    nonce: String,
    sealed: String,
}

/// File name and content of everything that all servers share.
type Files = BTreeMap<String, String>;

/// Brings the identity in `folder` (`DATA/server/tls`) and that in the datastore together, before
/// the folder is opened. `make` makes in the folder what is missing; `token_file` keeps the token.
pub(super) async fn share(
    store: &dyn Store,
    (folder, token_file): (&Path, &Path),
    given: Option<&str>,
    make: impl Fn() -> Result<(), pki::Error>,
) -> Result<(), Error> {
    let key = storage::keys::identity();
    let secret = pki::known_secret(token_file, given)?;
    if let (Some(kept), _) = store.get(&key).await? {
        let secret = secret.ok_or(Error::NoToken)?;
        return take(folder, &open(&kept.value, &secret)?);
    }
    let had = pki::shared_files(folder)?;
    make()?;
    let made = pki::shared_files(folder)?;
    let secret = match secret {
        Some(secret) => secret,
        None => pki::new_secret(token_file, folder)?,
    };
    let put = Txn {
        preconditions: vec![Precondition::Absent(key.clone())],
        writes: vec![Write::Put {
            key: key.clone(),
            value: seal(&made, &secret)?.into(),
            ttl: None,
        }],
        ..Txn::default()
    };
    match store.txn(put).await {
        Ok(_) => Ok(()),
        Err(store::Error::Conflict { .. }) => {
            let (winner, _) = store.get(&key).await?;
            let winner = winner.ok_or_else(|| Error::Damaged("it came and went".to_owned()))?;
            let files = open(&winner.value, &secret)?;
            if had.is_empty() {
                pki::replace_shared(folder, &files)?;
            }
            take(folder, &files)
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes what is missing; what is there must be the same.
fn take(folder: &Path, files: &Files) -> Result<(), Error> {
    let own = pki::shared_files(folder)?;
    let differs = own
        .iter()
        .find(|(name, text)| files.get(*name).is_some_and(|shared| shared != *text));
    if let Some((name, _)) = differs {
        return Err(Error::OtherCluster {
            file: folder.join(name).display().to_string(),
        });
    }
    Ok(pki::replace_shared(folder, files)?)
}

fn derived(secret: &str, salt: &[u8], iterations: NonZeroU32) -> Result<RandomizedNonceKey, Error> {
    let mut key = [0; 32];
    let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(algorithm, iterations, salt, secret.as_bytes(), &mut key);
    RandomizedNonceKey::new(&AES_256_GCM, &key)
        .map_err(|_| Error::Damaged("no key can be made".to_owned()))
}

fn seal(files: &Files, secret: &str) -> Result<Vec<u8>, Error> {
    let damaged = |error: serde_json::Error| Error::Damaged(error.to_string());
    let salt = tls::random_bytes::<16>();
    let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
    let mut text = serde_json::to_vec(files).map_err(damaged)?;
    let nonce = derived(secret, &salt, iterations)?
        .seal_in_place_append_tag(Aad::empty(), &mut text)
        .map_err(|_| Error::Damaged("it cannot be sealed".to_owned()))?;
    let record = Record {
        iterations,
        salt: STANDARD.encode(salt),
        nonce: STANDARD.encode(nonce.as_ref()),
        sealed: STANDARD.encode(text),
    };
    serde_json::to_vec(&record).map_err(damaged)
}

fn open(record: &[u8], secret: &str) -> Result<Files, Error> {
    let decode = |text: &str| {
        let decoded = STANDARD.decode(text);
        decoded.map_err(|error| Error::Damaged(error.to_string()))
    };
    let record: Record =
        serde_json::from_slice(record).map_err(|error| Error::Damaged(error.to_string()))?;
    let key = derived(secret, &decode(&record.salt)?, record.iterations)?;
    let nonce = Nonce::try_assume_unique_for_key(&decode(&record.nonce)?)
        .map_err(|_| Error::Damaged("the nonce has another length".to_owned()))?;
    let mut sealed = decode(&record.sealed)?;
    let text = key
        .open_in_place(nonce, Aad::empty(), &mut sealed)
        .map_err(|_| Error::WrongToken)?;
    serde_json::from_slice(text).map_err(|error| Error::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pki::{Names, Pki};
    use crate::store::mvcc::Mvcc;
    use crate::util::clock::Clock;
    use tempfile::TempDir;

    async fn start(
        store: &dyn Store,
        data: &TempDir,
        token: Option<&str>,
    ) -> Result<String, Error> {
        let folder = data.path().join("tls");
        let token_file = data.path().join("token");
        let make = || Pki::open(&folder, Names::default(), Clock::system()).map(|_| ());
        share(store, (&folder, &token_file), token, make).await?;
        let pki = Pki::open(&folder, Names::default(), Clock::system()).unwrap();
        pki::server_secret(&token_file, token, pki.ca_pem()).unwrap();
        Ok(pki.ca_pem().to_owned() + &pki.service_account_key().pem())
    }

    #[tokio::test]
    async fn a_further_server_gets_the_identity_of_the_first() {
        let store = Mvcc::in_memory();
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let identity = start(&*store, &first, None).await.unwrap();
        let token = std::fs::read_to_string(first.path().join("token")).unwrap();
        let token = token.trim();
        let refused = start(&*store, &second, None).await.unwrap_err();
        assert!(matches!(refused, Error::NoToken), "{refused}");
        let refused = start(&*store, &second, Some("guess")).await.unwrap_err();
        assert!(matches!(refused, Error::WrongToken), "{refused}");
        let same = start(&*store, &second, Some(token)).await.unwrap();
        assert_eq!(same, identity);
        assert_eq!(start(&*store, &second, None).await.unwrap(), identity);
        assert_eq!(start(&*store, &first, None).await.unwrap(), identity);
    }

    #[tokio::test]
    async fn a_folder_of_another_cluster_is_refused_and_left_alone() {
        let (store, other) = (Mvcc::in_memory(), Mvcc::in_memory());
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        start(&*store, &first, Some("t")).await.unwrap();
        start(&*other, &second, Some("t")).await.unwrap();
        let before = std::fs::read(second.path().join("tls/ca.crt")).unwrap();
        let refused = start(&*store, &second, Some("t")).await.unwrap_err();
        assert!(matches!(refused, Error::OtherCluster { .. }), "{refused}");
        assert_eq!(
            std::fs::read(second.path().join("tls/ca.crt")).unwrap(),
            before
        );
    }
}
