//! `orch token`: the server's own token, and join tokens that end by themselves. Join tokens are
//! Secrets of type `bootstrap.kubernetes.io/token`, as kubeadm makes them.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::Digest;

use super::args::{TargetArgs, TokenArgs, TokenVerb};
use super::{Failure, output, target, usage};
use crate::api::duration;
use crate::client::{Client, DeleteParams, ListParams};
use crate::util::clock::Clock;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Runs the command.
pub(crate) fn run(args: TokenArgs) -> Result<(), Failure> {
    let TokenArgs {
        verb,
        data_dir,
        target,
    } = args;
    match verb {
        None => {
            let path = data_dir.join("server/token");
            let token = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "read the server's token `{}` (run on a server, as root)",
                    path.display()
                )
            })?;
            output::line(token.trim());
            Ok(())
        }
        Some(TokenVerb::Create { ttl, description }) => create(&target, &ttl, description),
        Some(TokenVerb::List) => list(&target),
        Some(TokenVerb::Delete { token }) => delete(&target, &token),
    }
}

fn create(args: &TargetArgs, ttl: &str, description: String) -> Result<(), Failure> {
    let lifetime = duration::parse(ttl).filter(|lifetime| !lifetime.is_negative());
    let lifetime = lifetime.ok_or_else(|| {
        usage(anyhow!(
            "invalid value `{ttl}` for `--ttl`: a duration such as `30m` or `24h` is expected"
        ))
    })?;
    let (id, secret) = (random(6), random(16));
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), id.clone()),
        ("token-secret".to_owned(), secret.clone()),
        (
            "usage-bootstrap-authentication".to_owned(),
            "true".to_owned(),
        ),
        ("usage-bootstrap-signing".to_owned(), "true".to_owned()),
        ("description".to_owned(), description),
    ]);
    if !lifetime.is_zero() {
        let end = Clock::system()
            .now()
            .checked_add(lifetime)
            .context("the end of `--ttl`")?;
        let end = Timestamp::from_second(end.as_second()).context("the end of `--ttl`")?;
        data.insert("expiration".to_owned(), end.to_string());
    }
    let object = Secret {
        metadata: ObjectMeta {
            name: Some(format!("bootstrap-token-{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        string_data: Some(data),
        ..Secret::default()
    };
    let hash = target::with_client(args, |client| async move {
        client
            .namespaced::<Secret>(NAMESPACE)
            .create(&object)
            .await?;
        ca_hash(&client).await
    })?;
    output::line(format_args!("K10{hash}::{id}.{secret}"));
    Ok(())
}

/// Hash of the authority's certificate, as long tokens carry it.
async fn ca_hash(client: &Client) -> Result<String, Failure> {
    let call = crate::client::Call::new(http::Method::GET, "/cacerts");
    let pem = client.call(call).await?;
    Ok(hex::encode(sha2::Sha256::digest(&pem)))
}

fn list(args: &TargetArgs) -> Result<(), Failure> {
    let secrets = target::with_client(args, |client| async move {
        let params = ListParams::fields(&format!("type={TYPE}"));
        Ok(client
            .namespaced::<Secret>(NAMESPACE)
            .list(&params)
            .await?
            .items)
    })?;
    let header = ["TOKEN", "EXPIRES", "DESCRIPTION"]
        .map(str::to_owned)
        .to_vec();
    let rows = secrets.iter().map(|secret| {
        let text = |field: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(field));
            value.map(|ByteString(bytes)| String::from_utf8_lossy(bytes).into_owned())
        };
        let token = format!(
            "{}.{}",
            text("token-id").unwrap_or_default(),
            text("token-secret").unwrap_or_default()
        );
        vec![
            token,
            text("expiration").unwrap_or("never".to_owned()),
            text("description").unwrap_or_default(),
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    output::line(output::table(&rows).trim_end());
    Ok(())
}

fn delete(args: &TargetArgs, token: &str) -> Result<(), Failure> {
    let short = token.rsplit("::").next().unwrap_or(token);
    let id = short.split('.').next().unwrap_or_default();
    if id.len() != 6 || !id.bytes().all(|byte| ALPHABET.contains(&byte)) {
        return Err(usage(anyhow!(
            "invalid token `{token}`: a token, or its id of six lower-case letters and digits, is expected"
        )));
    }
    target::with_client(args, |client| async move {
        let secrets = client.namespaced::<Secret>(NAMESPACE);
        Ok(secrets
            .delete(&format!("bootstrap-token-{id}"), &DeleteParams::default())
            .await?)
    })?;
    output::line(format_args!("token {id} deleted"));
    Ok(())
}

/// Characters from the operating system's own source: tokens are secrets.
fn random(length: usize) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        // The first six bytes of a random UUID are all random; only those that fall evenly on the
        // alphabet are used.
        let bytes = uuid::Uuid::new_v4().into_bytes();
        let even = bytes[..6].iter().filter(|byte| usize::from(**byte) < 252);
        let characters = even.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(characters.take(length - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_parts_have_their_length_and_alphabet() {
        let text = random(16);
        assert_eq!(text.len(), 16);
        assert!(text.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_ne!(random(16), text);
    }
}
