//! One provider of an encryption configuration: turns a value into what is stored and back.
//!
//! Stored values look as upstream's do: `k8s:enc:<provider>:v1:<key>:` and what the provider made.
//! The key in the store is authenticated with the value where the provider can (AES-GCM), so that a
//! stored value cannot be moved to another object.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use crate::util::tls::random_bytes;

/// What every encrypted value begins with. No plain value does: theirs is the codec's format byte.
pub(super) const ENCRYPTED: &[u8] = b"k8s:enc:";
const IV_BYTES: usize = 16;

/// A key that reads and writes.
#[derive(Debug)]
pub(super) struct Cipher {
    prefix: Vec<u8>,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    /// Values as they are.
    Identity,
    Gcm(Box<LessSafeKey>),
    Cbc {
        encrypt: Box<PaddedBlockEncryptingKey>,
        decrypt: Box<PaddedBlockDecryptingKey>,
    },
}

/// A key that cannot be used, or a value it does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfit;

impl Cipher {
    pub(super) fn identity() -> Self {
        Self {
            prefix: Vec::new(),
            algorithm: Algorithm::Identity,
        }
    }

    /// Of 16, 24 or 32 bytes.
    pub(super) fn aes_gcm(name: &str, key: &[u8]) -> Result<Self, Unfit> {
        let algorithm = match key.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            _ => return Err(Unfit),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| Unfit)?;
        Ok(Self {
            prefix: format!("k8s:enc:aesgcm:v1:{name}:").into_bytes(),
            algorithm: Algorithm::Gcm(Box::new(LessSafeKey::new(key))),
        })
    }

    /// Of 16, 24 or 32 bytes.
    pub(super) fn aes_cbc(name: &str, key: &[u8]) -> Result<Self, Unfit> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            _ => return Err(Unfit),
        };
        let unbound = || UnboundCipherKey::new(algorithm, key).map_err(|_| Unfit);
        let encrypt = PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).map_err(|_| Unfit)?;
        let decrypt = PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).map_err(|_| Unfit)?;
        Ok(Self {
            prefix: format!("k8s:enc:aescbc:v1:{name}:").into_bytes(),
            algorithm: Algorithm::Cbc {
                encrypt: Box::new(encrypt),
                decrypt: Box::new(decrypt),
            },
        })
    }

    /// Whether `stored` says it was written by this key.
    pub(super) fn wrote(&self, stored: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Identity => !stored.starts_with(ENCRYPTED),
            _ => stored.starts_with(&self.prefix),
        }
    }

    /// What to store for `plain` at `key`.
    pub(super) fn seal(&self, key: &[u8], plain: &[u8]) -> Result<Vec<u8>, Unfit> {
        match &self.algorithm {
            Algorithm::Identity => Ok(plain.to_vec()),
            Algorithm::Gcm(gcm) => {
                let nonce = random_bytes::<{ aead::NONCE_LEN }>();
                let mut text = plain.to_vec();
                let used = Nonce::assume_unique_for_key(nonce);
                gcm.seal_in_place_append_tag(used, Aad::from(key), &mut text)
                    .map_err(|_| Unfit)?;
                Ok([&self.prefix[..], &nonce, &text].concat())
            }
            Algorithm::Cbc { encrypt, .. } => {
                let mut text = plain.to_vec();
                let context = encrypt.encrypt(&mut text).map_err(|_| Unfit)?;
                let DecryptionContext::Iv128(iv) = context else {
                    return Err(Unfit);
                };
                let iv: [u8; IV_BYTES] = iv.try_into().map_err(|_| Unfit)?;
                Ok([&self.prefix[..], &iv, &text].concat())
            }
        }
    }

    /// The plain value of what [`Cipher::wrote`].
    pub(super) fn open(&self, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, Unfit> {
        let body = stored.get(self.prefix.len()..).ok_or(Unfit)?;
        match &self.algorithm {
            Algorithm::Identity => Ok(stored.to_vec()),
            Algorithm::Gcm(gcm) => {
                let (nonce, text) = body.split_at_checked(aead::NONCE_LEN).ok_or(Unfit)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unfit)?;
                let mut text = text.to_vec();
                let plain = gcm
                    .open_in_place(nonce, Aad::from(key), &mut text)
                    .map_err(|_| Unfit)?
                    .len();
                text.truncate(plain);
                Ok(text)
            }
            Algorithm::Cbc { decrypt, .. } => {
                let (iv, text) = body.split_at_checked(IV_BYTES).ok_or(Unfit)?;
                let iv = FixedLength::<IV_BYTES>::try_from(iv).map_err(|_| Unfit)?;
                let mut text = text.to_vec();
                let plain = decrypt
                    .decrypt(&mut text, DecryptionContext::Iv128(iv))
                    .map_err(|_| Unfit)?
                    .len();
                text.truncate(plain);
                Ok(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_under_its_key_only() {
        for len in [16, 24, 32] {
            let key = vec![7; len];
            let makers = [Cipher::aes_gcm, Cipher::aes_cbc];
            for make in makers {
                let cipher = make("a", &key).unwrap();
                let stored = cipher.seal(b"/k", b"hello").unwrap();
                assert!(stored.starts_with(ENCRYPTED) && cipher.wrote(&stored));
                assert!(!stored.windows(5).any(|w| w == b"hello"));
                assert_ne!(stored, cipher.seal(b"/k", b"hello").unwrap());
                assert_eq!(cipher.open(b"/k", &stored).unwrap(), b"hello");
                let other = make("b", &key).unwrap();
                assert!(!other.wrote(&stored));
            }
        }
        assert!(Cipher::aes_gcm("a", &[0; 15]).is_err());
    }

    #[test]
    fn an_authenticated_value_cannot_be_moved_or_changed() {
        let cipher = Cipher::aes_gcm("a", &[1; 32]).unwrap();
        let mut stored = cipher.seal(b"/k", b"hello").unwrap();
        assert_eq!(cipher.open(b"/other", &stored), Err(Unfit));
        *stored.last_mut().unwrap() ^= 1;
        assert_eq!(cipher.open(b"/k", &stored), Err(Unfit));
        assert_eq!(cipher.open(b"/k", b"k8s:enc:aesgcm:v1:a:x"), Err(Unfit));
    }

    #[test]
    fn values_upstream_wrote_are_read() {
        // printf secret | openssl enc -aes-128-cbc -K 00…00 -iv 00…00
        let cipher = Cipher::aes_cbc("key1", &[0; 16]).unwrap();
        let text = hex::decode("1d6a84a8bdaf6775cae1b5ef1f7cd158").unwrap();
        let stored = [&b"k8s:enc:aescbc:v1:key1:"[..], &[0; 16], &text].concat();
        assert!(cipher.wrote(&stored));
        assert_eq!(cipher.open(b"/k", &stored).unwrap(), b"secret");
    }
}
