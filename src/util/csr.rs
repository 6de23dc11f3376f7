//! Signing requests of others: read whole, and signed with the subject exactly as it was asked for.
//!
//! `rcgen` keeps one value of a kind in a subject, but a user may be in several groups (`O=`). So the
//! certificate is made with another subject, that part of it exchanged for the request's own bytes,
//! and the result signed again.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::util::tls;
use crate::util::x509::{Authority, Error, address, failed, set_validity};

const READ: &str = "read signing request";
const SIGN: &str = "sign certificate";
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// What a signing request asks for. Its own signature was good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `CN`; empty where absent.
    pub common_name: String,
    /// Every `O`, in order.
    pub organizations: Vec<String>,
    /// Host names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// The whole subject, DER.
    pub subject: Vec<u8>,
    /// The key the certificate is for (`SubjectPublicKeyInfo`), DER.
    pub public_key: Vec<u8>,
}

/// What of a request is granted beside its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// As `spec.usages` of a CertificateSigningRequest spells them.
    pub usages: Vec<String>,
    /// From now on; never longer than the authority's own.
    pub lifetime: Duration,
}

impl Request {
    /// From a PEM block `CERTIFICATE REQUEST`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let (_, block) = parse_x509_pem(pem).map_err(|error| failed(READ, error))?;
        let (_, parsed) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| failed(READ, error))?;
        parsed
            .verify_signature()
            .map_err(|error| failed(READ, error))?;
        let info = &parsed.certification_request_info;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().unwrap_or_default().to_owned()
        };
        let mut request = Self {
            common_name: info
                .subject
                .iter_common_name()
                .last()
                .map(text)
                .unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for extension in parsed.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    request.add(name);
                }
            }
        }
        Ok(request)
    }

    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => self.addresses.extend(address(bytes)),
            GeneralName::RFC822Name(mail) => self.emails.push((*mail).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            _ => {}
        }
    }

    fn names(&self) -> Result<Vec<SanType>, Error> {
        let wrong = |name: &String| failed(SIGN, format!("`{name}` cannot be written"));
        let mut names = Vec::new();
        for name in &self.dns_names {
            let text = name.as_str().try_into().map_err(|_| wrong(name))?;
            names.push(SanType::DnsName(text));
        }
        for name in &self.emails {
            let text = name.as_str().try_into().map_err(|_| wrong(name))?;
            names.push(SanType::Rfc822Name(text));
        }
        names.extend(self.addresses.iter().copied().map(SanType::IpAddress));
        for name in &self.uris {
            let text = name.as_str().try_into().map_err(|_| wrong(name))?;
            names.push(SanType::URI(text));
        }
        Ok(names)
    }
}

impl Authority {
    /// A certificate with everything `request` asks for, PEM.
    pub fn grant(&self, request: &Request, grant: &Grant, now: Timestamp) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = request.names()?;
        // Positive, so without the first bit.
        let mut serial = tls::random_bytes::<16>();
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        for usage in &grant.usages {
            add_usage(&mut params, usage)?;
        }
        let own_end = self.not_after()?;
        let left = Duration::try_from(own_end.duration_since(now)).unwrap_or_default();
        set_validity(&mut params, now, grant.lifetime.min(left));
        let key = SubjectPublicKeyInfo::from_der(&request.public_key)
            .map_err(|error| failed(READ, error))?;
        let made = params
            .signed_by(&key, self.issuer())
            .map_err(|error| failed(SIGN, error))?;
        let der = with_subject(made.der(), &request.subject, self.issuer().key())?;
        Ok(pem(&der))
    }
}

fn add_usage(params: &mut CertificateParams, usage: &str) -> Result<(), Error> {
    match usage {
        "signing" | "digital signature" => {
            params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        }
        "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
        "client auth" => {
            let purpose = ExtendedKeyUsagePurpose::ClientAuth;
            params.extended_key_usages.push(purpose);
        }
        "server auth" => {
            let purpose = ExtendedKeyUsagePurpose::ServerAuth;
            params.extended_key_usages.push(purpose);
        }
        other => return Err(failed(SIGN, format!("usage `{other}` is not granted"))),
    }
    Ok(())
}

/// The certificate `der` with another subject, signed again by `key`.
fn with_subject(der: &[u8], subject: &[u8], key: &impl SigningKey) -> Result<Vec<u8>, Error> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| failed(SIGN, error))?;
    let whole: &[u8] = parsed.tbs_certificate.as_ref();
    let old = parsed.subject().as_raw();
    // Both are parts of `der`, and the signed part has a header of its own.
    let offset =
        |part: &[u8], of: &[u8]| (part.as_ptr() as usize).checked_sub(of.as_ptr() as usize);
    let lost = || failed(SIGN, "the made certificate has another form than it should");
    let at = offset(old, whole).ok_or_else(lost)?;
    let head = header_len(whole).ok_or_else(lost)?;
    let before = whole.get(head..at).ok_or_else(lost)?;
    let after = whole.get(at + old.len()..).ok_or_else(lost)?;
    let signed = tlv(SEQUENCE, &[before, subject, after].concat());
    let signature = key.sign(&signed).map_err(|error| failed(SIGN, error))?;
    let rest = offset(whole, der).and_then(|at| der.get(at + whole.len()..));
    let rest = rest.ok_or_else(lost)?;
    let length = usize::from(*rest.get(1).ok_or_else(lost)?);
    let algorithm = rest.get(..2 + length).ok_or_else(lost)?;
    let bits = tlv(BIT_STRING, &[&[0][..], &signature].concat());
    Ok(tlv(SEQUENCE, &[&signed, algorithm, &bits].concat()))
}

/// Tag and length of a DER value.
fn header_len(der: &[u8]) -> Option<usize> {
    let first = *der.get(1)?;
    Some(
        2 + if first < 0x80 {
            0
        } else {
            usize::from(first & 0x7f)
        },
    )
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let used = bytes
                .iter()
                .position(|byte| *byte != 0)
                .unwrap_or(bytes.len());
            let used = &bytes[used..];
            // At most eight.
            out.push(0x80 | used.len() as u8);
            out.extend_from_slice(used);
        }
    }
    out.extend_from_slice(content);
    out
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::x509::{Facts, is_signed_by};
    use rcgen::{DnType, KeyPair};

    /// `O=b, O=a, CN=alice` with a host name and an address.
    fn request() -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let group = DnType::from_oid(&[2, 5, 4, 10]);
        params.distinguished_name.push(group, "b");
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![2, 5, 4, 10]), "a");
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
        ];
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn every_group_of_a_request_is_in_the_certificate() {
        let now: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        let year = Duration::from_secs(365 * 86_400);
        let (authority, _) = Authority::generate("ca", now, year).unwrap();
        let request = Request::from_pem(request().as_bytes()).unwrap();
        assert_eq!(request.organizations, ["b", "a"]);
        let grant = Grant {
            usages: vec!["digital signature".into(), "client auth".into()],
            lifetime: year * 2,
        };
        let pem = authority.grant(&request, &grant, now).unwrap();
        let facts = Facts::from_pem(&pem).unwrap();
        assert_eq!(facts.common_name, "alice");
        assert_eq!(facts.organizations, ["b", "a"]);
        assert_eq!(facts.dns_names, ["a.example"]);
        assert_eq!(facts.addresses, request.addresses);
        assert_eq!(facts.not_after, now + year);
        assert!(is_signed_by(&pem, authority.pem()).unwrap());
        let more = Grant {
            usages: vec!["cert sign".into()],
            ..grant
        };
        assert!(authority.grant(&request, &more, now).is_err());
    }
}
