//! Bootstrap tokens: `<id>.<secret>`, kept in Secrets `bootstrap-token-<id>` of `kube-system`
//! (`k8s.io/cluster-bootstrap/token`). For joining, and for nothing else by themselves.

use jiff::Timestamp;

use crate::api::object::Object;
use crate::server::cacher::Cacher;
use crate::server::request::User;

use super::{read, secret_text, secrets_equal};

/// Namespace of the Secrets.
pub const NAMESPACE: &str = "kube-system";
/// `type` of the Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";
const UNKNOWN: &str = "it is neither a service account token of this cluster nor a known \
                       bootstrap token";

/// Id and secret of a token in the form `abcdef.0123456789abcdef`.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, len: usize| {
        text.len() == len
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// Name of the Secret of the token `id`.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Who shows `token`; otherwise why it is not good.
pub fn user(token: &str, cacher: &Cacher, now: Timestamp) -> Result<User, &'static str> {
    let (id, secret) = parse(token).ok_or(UNKNOWN)?;
    let kept = read(cacher, "secrets", NAMESPACE, &secret_name(id)).ok_or(UNKNOWN)?;
    check(&kept, id, secret, now)
}

/// Judges a token by its Secret.
pub fn check(kept: &Object, id: &str, secret: &str, now: Timestamp) -> Result<User, &'static str> {
    let field = |name: &str| secret_text(kept, name).unwrap_or_default();
    let is_token = kept.text_at(&["type"]) == SECRET_TYPE && !kept.is_terminating();
    if !is_token || field("token-id") != id || !secrets_equal(&field("token-secret"), secret) {
        return Err(UNKNOWN);
    }
    match field("expiration").as_str() {
        "" => {}
        expiration => match expiration.parse::<Timestamp>() {
            Ok(end) if now < end => {}
            Ok(_) => {
                return Err(
                    "the bootstrap token has expired; make another with `orch token create`",
                );
            }
            Err(_) => return Err("the bootstrap token's `expiration` is not a time"),
        },
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication");
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    let extra = field("auth-extra-groups");
    let extra = extra.split(',').map(str::trim);
    groups.extend(
        extra
            .filter(|group| group.starts_with("system:bootstrappers:"))
            .map(str::to_owned),
    );
    Ok(User {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..User::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use serde_json::{Value, json};

    fn secret(expiration: &str, usage: &str) -> Object {
        let encode = |text: &str| -> Value {
            base64::engine::general_purpose::STANDARD
                .encode(text)
                .into()
        };
        Object::from_value(json!({"type": SECRET_TYPE, "data": {
            "token-id": encode("abcdef"), "token-secret": encode("0123456789abcdef"),
            "expiration": encode(expiration), "usage-bootstrap-authentication": encode(usage),
            "auth-extra-groups": encode("system:bootstrappers:orch, system:masters"),
        }}))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn only_the_upstream_form_is_a_token() {
        assert_eq!(
            parse("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for bad in [
            "abcdef",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "a.b.c",
        ] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_good_token_gives_bootstrap_groups_only() {
        let kept = secret("2026-12-01T00:00:00Z", "true");
        let user = check(&kept, "abcdef", "0123456789abcdef", now()).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            ["system:bootstrappers", "system:bootstrappers:orch"]
        );
    }

    #[test]
    fn an_expired_wrong_or_unmeant_token_is_refused() {
        let judge = |kept: &Object, secret: &str| check(kept, "abcdef", secret, now());
        let good = secret("", "true");
        assert!(judge(&good, "0123456789abcdef").is_ok());
        assert!(judge(&good, "0123456789abcdee").is_err());
        assert!(judge(&secret("2026-11-22T00:00:00Z", "true"), "0123456789abcdef").is_err());
        assert!(judge(&secret("soon", "true"), "0123456789abcdef").is_err());
        assert!(judge(&secret("", "false"), "0123456789abcdef").is_err());
    }
}
