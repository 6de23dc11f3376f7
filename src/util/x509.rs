//! Keys, signing requests and certificates: made, signed, read. ECDSA P-256 throughout.
//!
//! Nothing here knows whose certificate it is or where it is kept.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How far before now a certificate begins to be valid, for clocks that are a little behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A key, request or certificate could not be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct Error {
    /// The step, for instance `read certificate`.
    pub doing: &'static str,
    /// The cause's text.
    pub why: String,
}

/// A private key with its public half.
#[derive(Debug)]
pub struct Key(rcgen::KeyPair);

/// A certificate authority: signs.
#[derive(Debug)]
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// What a certificate shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `CN`: the user's name for client certificates.
    pub common_name: String,
    /// `O`: the user's group for client certificates.
    pub organization: Option<String>,
    /// What it may be used for.
    pub usage: Usage,
    /// Host names it is good for.
    pub dns_names: Vec<String>,
    /// Addresses it is good for.
    pub addresses: Vec<IpAddr>,
    /// From now on.
    pub lifetime: Duration,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `CN`; empty where absent.
    pub common_name: String,
    /// Every `O`, in order.
    pub organizations: Vec<String>,
    /// Host names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Begin of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
}

impl Key {
    /// A new one.
    pub fn generate() -> Result<Self, Error> {
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|e| failed("make key", e))
    }

    /// From PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        rcgen::KeyPair::from_pem(pem)
            .map(Self)
            .map_err(|e| failed("read private key", e))
    }

    /// PKCS#8 PEM.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// PKCS#8 DER.
    pub fn der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// The public half as PEM (`SubjectPublicKeyInfo`).
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// The public half: the uncompressed point, 65 bytes.
    pub fn public_point(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// The public half as DER (`SubjectPublicKeyInfo`).
    pub fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// A signing request for this key, PEM.
    pub fn request(&self, common_name: &str, organization: &str) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, Some(organization));
        params
            .serialize_request(&self.0)
            .and_then(|request| request.pem())
            .map_err(|e| failed("make signing request", e))
    }
}

impl Authority {
    /// A new self-signed one.
    pub fn generate(
        common_name: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<(Self, Key), Error> {
        let key = Key::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::CrlSign,
        ];
        set_validity(&mut params, now, lifetime);
        let certificate = params
            .self_signed(&key.0)
            .map_err(|e| failed("sign authority", e))?;
        let authority = Self::from_pem(&certificate.pem(), &key.pem())?;
        Ok((authority, key))
    }

    /// From certificate and key, both PEM.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = Key::from_pem(key_pem)?;
        let facts = Facts::from_pem(certificate_pem)?;
        if !public_key_of(certificate_pem)?.ends_with(key.public_point()) {
            let why = format!(
                "it is not the key of the certificate `{}`",
                facts.common_name
            );
            return Err(failed("read authority's key", why));
        }
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key.0)
            .map_err(|e| failed("read authority", e))?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            issuer,
        })
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When its own certificate ends.
    pub(super) fn not_after(&self) -> Result<Timestamp, Error> {
        Ok(Facts::from_pem(&self.certificate_pem)?.not_after)
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, rcgen::KeyPair> {
        &self.issuer
    }

    /// A certificate for `key`, PEM.
    pub fn sign(&self, profile: &Profile, key: &Key, now: Timestamp) -> Result<String, Error> {
        self.sign_public(profile, &key.0, now)
    }

    /// A certificate for the key in `request` (PEM); what the request asks for beyond its key is
    /// not looked at. The request's own signature is checked.
    pub fn sign_request(
        &self,
        profile: &Profile,
        request: &str,
        now: Timestamp,
    ) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|e| failed("read signing request", e))?;
        self.sign_public(profile, &request.public_key, now)
    }

    fn sign_public(
        &self,
        profile: &Profile,
        key: &impl PublicKeyData,
        now: Timestamp,
    ) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&profile.common_name, profile.organization.as_deref());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match profile.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        for dns_name in &profile.dns_names {
            let dns_name = dns_name
                .as_str()
                .try_into()
                .map_err(|_| failed("sign certificate", format!("`{dns_name}` is no host name")))?;
            params.subject_alt_names.push(SanType::DnsName(dns_name));
        }
        let addresses = profile.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, profile.lifetime);
        params
            .signed_by(key, &self.issuer)
            .map(|certificate| certificate.pem())
            .map_err(|e| failed("sign certificate", e))
    }
}

impl Facts {
    /// Of the first certificate in `pem`.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| failed("read certificate", e))?;
        Self::from_der(&der)
    }

    /// Of one certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| failed("read certificate", e))?;
        let subject = certificate.subject();
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().unwrap_or_default().to_owned()
        };
        let mut facts = Self {
            common_name: subject
                .iter_common_name()
                .last()
                .map(text)
                .unwrap_or_default(),
            organizations: subject.iter_organization().map(text).collect(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            not_before: timestamp(certificate.validity().not_before.timestamp()),
            not_after: timestamp(certificate.validity().not_after.timestamp()),
        };
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for general in &names.value.general_names {
                match general {
                    GeneralName::DNSName(dns) => facts.dns_names.push((*dns).to_owned()),
                    GeneralName::IPAddress(bytes) => facts.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        Ok(facts)
    }

    /// When it should be replaced: after two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after - life / 3
    }
}

/// Every certificate in `pem`.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| failed("read certificates", e))?;
    if all.is_empty() {
        return Err(failed("read certificates", "there is none in the PEM text"));
    }
    Ok(all)
}

/// The private key in `pem`.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| failed("read private key", e))
}

/// Whether the first certificate in `pem` carries the signature of the one in `authority_pem`.
pub fn is_signed_by(pem: &str, authority_pem: &str) -> Result<bool, Error> {
    let read = |pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| failed("read certificate", e))
    };
    let (child, parent) = (read(pem)?, read(authority_pem)?);
    let parse = |der| X509Certificate::from_der(der).map_err(|e| failed("read certificate", e));
    let ((_, child), (_, parent)) = (parse(&child)?, parse(&parent)?);
    Ok(child.issuer() == parent.subject()
        && child.verify_signature(Some(parent.public_key())).is_ok())
}

fn public_key_of(certificate_pem: &str) -> Result<Vec<u8>, Error> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
        .map_err(|e| failed("read certificate", e))?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|e| failed("read certificate", e))?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization.filter(|o| !o.is_empty()) {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

pub(super) fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let since_1970 = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + since_1970 + lifetime;
}

fn timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(super) fn failed(doing: &'static str, why: impl ToString) -> Error {
    Error {
        doing,
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    fn node() -> Profile {
        Profile {
            common_name: "system:node:a".into(),
            organization: Some("system:nodes".into()),
            usage: Usage::Client,
            dns_names: vec!["a".into()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            lifetime: DAY * 3,
        }
    }

    #[test]
    fn a_certificate_says_what_its_profile_asked_for() {
        let (authority, _) = Authority::generate("orch", now(), DAY).unwrap();
        let request = Key::generate()
            .unwrap()
            .request("someone else", "")
            .unwrap();
        let pem = authority.sign_request(&node(), &request, now()).unwrap();
        let facts = Facts::from_pem(&pem).unwrap();
        assert_eq!(facts.common_name, "system:node:a");
        assert_eq!(facts.organizations, ["system:nodes"]);
        assert_eq!(facts.dns_names, ["a"]);
        assert_eq!(facts.addresses, node().addresses);
        assert_eq!(facts.not_after, now() + DAY * 3);
        assert!(facts.renew_at() > now() + DAY && facts.renew_at() < now() + DAY * 3);
    }

    #[test]
    fn an_authority_refuses_another_key() {
        let (authority, key) = Authority::generate("orch", now(), DAY).unwrap();
        assert!(Authority::from_pem(authority.pem(), &key.pem()).is_ok());
        let other = Key::generate().unwrap();
        assert!(Authority::from_pem(authority.pem(), &other.pem()).is_err());
    }

    #[test]
    fn rubbish_is_an_error() {
        let (authority, _) = Authority::generate("orch", now(), DAY).unwrap();
        assert!(
            authority
                .sign_request(&node(), "no request", now())
                .is_err()
        );
        assert!(Facts::from_pem("").is_err() && certificates("").is_err());
    }
}
