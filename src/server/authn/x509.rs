//! Users by client certificate: `CN` is the name, every `O` a group.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use crate::server::request::User;
use crate::util::x509::Facts;
use crate::util::{tls, x509};

use super::Peer;

/// Checks client certificates against the cluster's authority.
#[derive(Debug)]
pub(super) struct Verifier(Arc<dyn ClientCertVerifier>);

impl Verifier {
    pub(super) fn new(ca_pem: &str) -> Result<Self, tls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in x509::certificates(ca_pem)? {
            roots.add(certificate)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), tls::provider());
        let verifier = builder
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        Ok(Self(verifier))
    }

    /// Who `peer` is, or why its certificate is not good now. The signature is checked once a
    /// connection, the dates at every request.
    pub(super) fn user(&self, peer: &Peer, now: Timestamp) -> Result<User, String> {
        let verdict = peer.verdict(|| self.verify(peer, now));
        let (user, facts) = verdict.as_ref().map_err(Clone::clone)?;
        if now > facts.not_after {
            return Err("it has expired".to_owned());
        }
        Ok(user.clone())
    }

    fn verify(&self, peer: &Peer, now: Timestamp) -> Result<(User, Facts), String> {
        let (end_entity, intermediates) = peer
            .certificates()
            .split_first()
            .ok_or("there is none".to_owned())?;
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.0
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| match error {
                rustls::Error::InvalidCertificate(why) => explain(&why),
                other => other.to_string(),
            })?;
        let facts = Facts::from_der(end_entity).map_err(|e| e.why)?;
        if facts.common_name.is_empty() {
            return Err("its subject has no common name".to_owned());
        }
        let user = User {
            name: facts.common_name.clone(),
            groups: facts.organizations.clone(),
            ..User::default()
        };
        Ok((user, facts))
    }
}

fn explain(error: &rustls::CertificateError) -> String {
    use rustls::CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } => "it has expired".to_owned(),
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "it is not valid yet; compare the clocks of both machines".to_owned()
        }
        E::UnknownIssuer | E::BadSignature => {
            "it was not issued by this cluster's authority".to_owned()
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "it is not for client authentication".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::x509::{Authority, Key, Profile, Usage};

    fn now() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    fn authority() -> Authority {
        Authority::generate("ca", now(), Duration::from_secs(86_400))
            .unwrap()
            .0
    }

    fn peer(authority: &Authority, usage: Usage) -> Peer {
        let profile = Profile {
            common_name: "alice".into(),
            organization: Some("devs".into()),
            usage,
            dns_names: vec![],
            addresses: vec![],
            lifetime: Duration::from_secs(600),
        };
        let pem = authority
            .sign(&profile, &Key::generate().unwrap(), now())
            .unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        Peer::new(address, x509::certificates(&pem).unwrap())
    }

    #[test]
    fn a_certificate_of_the_cluster_names_its_user_until_it_expires() {
        let authority = authority();
        let verifier = Verifier::new(authority.pem()).unwrap();
        let peer = peer(&authority, Usage::Client);
        let user = verifier.user(&peer, now()).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups[0].as_str()),
            ("alice", "devs")
        );
        let later = now() + Duration::from_secs(601);
        assert_eq!(verifier.user(&peer, later).unwrap_err(), "it has expired");
    }

    #[test]
    fn foreign_and_server_certificates_are_refused() {
        let ours = authority();
        let verifier = Verifier::new(ours.pem()).unwrap();
        let foreign = verifier.user(&peer(&authority(), Usage::Client), now());
        assert!(foreign.unwrap_err().contains("not issued by this cluster"));
        let serving = verifier.user(&peer(&ours, Usage::Server), now());
        assert!(serving.unwrap_err().contains("client authentication"));
    }
}
