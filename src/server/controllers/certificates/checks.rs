//! What the signers `kubernetes.io/…` sign (`pkg/apis/certificates/helpers.go`,
//! `pkg/controller/certificates/signer`). The texts are upstream's.

use std::collections::BTreeSet;

use crate::util::csr::Request;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

const SIGNATURE: &str = "digital signature";
const ENCIPHERMENT: &str = "key encipherment";
const CLIENT_AUTH: &str = "client auth";
const SERVER_AUTH: &str = "server auth";

/// `None`: not a signer of this cluster; otherwise whether it signs, or why not.
pub(super) fn check(
    signer: &str,
    request: &Request,
    usages: &[String],
) -> Option<Result<(), String>> {
    match signer {
        CLIENT => Some(client_usages(usages)),
        KUBELET_CLIENT => Some(kubelet_client(request, usages)),
        KUBELET_SERVING => Some(kubelet_serving(request, usages)),
        _ => None,
    }
}

/// `ValidateKubeletClientCSR`
pub(super) fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    of_nodes(request)?;
    for (is_named, what) in [
        (!request.dns_names.is_empty(), "DNS"),
        (!request.emails.is_empty(), "Email"),
        (!request.addresses.is_empty(), "IP"),
        (!request.uris.is_empty(), "URI"),
    ] {
        if is_named {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    of_node(request)?;
    usages_are(usages, CLIENT_AUTH)
}

/// `ValidateKubeletServingCSR`
fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    of_nodes(request)?;
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    if !request.emails.is_empty() {
        return Err("Email subjectAltNames are not allowed".to_owned());
    }
    if !request.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed".to_owned());
    }
    usages_are(usages, SERVER_AUTH)?;
    of_node(request)
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let allowed = [SIGNATURE, ENCIPHERMENT, CLIENT_AUTH];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(&&***usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|usage| usage == CLIENT_AUTH) {
        return Err(format!(
            "missing required usage for client certificate: {CLIENT_AUTH}"
        ));
    }
    Ok(())
}

fn of_nodes(request: &Request) -> Result<(), String> {
    match request.organizations.as_slice() {
        [only] if only == "system:nodes" => Ok(()),
        _ => Err("subject organization is not system:nodes".to_owned()),
    }
}

fn of_node(request: &Request) -> Result<(), String> {
    match request.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node: ".to_owned()),
    }
}

/// Key encipherment is for RSA keys only and may be missing.
fn usages_are(usages: &[String], purpose: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let without = BTreeSet::from([purpose, SIGNATURE]);
    let with = BTreeSet::from([purpose, SIGNATURE, ENCIPHERMENT]);
    if given == without || given == with {
        return Ok(());
    }
    let wanted: Vec<&str> = with.into_iter().collect();
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn node() -> Request {
        Request {
            common_name: "system:node:a".into(),
            organizations: strings(&["system:nodes"]),
            ..Request::default()
        }
    }

    #[test]
    fn each_signer_has_its_own_rules() {
        let named = Request {
            dns_names: strings(&["a"]),
            ..node()
        };
        let other = Request {
            common_name: "a".into(),
            ..node()
        };
        let in_two = Request {
            organizations: strings(&["system:nodes", "devs"]),
            ..node()
        };
        let of_client = [SIGNATURE, CLIENT_AUTH];
        let of_server = [SIGNATURE, ENCIPHERMENT, SERVER_AUTH];
        let no_organization = "subject organization is not system:nodes";
        let no_node = "subject common name does not begin with system:node: ";
        for (signer, request, usages, wanted) in [
            (KUBELET_CLIENT, &node(), &of_client[..], ""),
            (
                KUBELET_CLIENT,
                &named,
                &of_client,
                "DNS subjectAltNames are not allowed",
            ),
            (KUBELET_CLIENT, &in_two, &of_client, no_organization),
            (KUBELET_CLIENT, &other, &of_client, no_node),
            (
                KUBELET_CLIENT,
                &node(),
                &of_server,
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (KUBELET_SERVING, &named, &of_server, ""),
            (
                KUBELET_SERVING,
                &node(),
                &of_server,
                "DNS or IP subjectAltName is required",
            ),
            (CLIENT, &in_two, &of_client, ""),
            (
                CLIENT,
                &in_two,
                &of_server,
                "invalid usage for client certificate: server auth",
            ),
            (
                CLIENT,
                &in_two,
                &[SIGNATURE],
                "missing required usage for client certificate: client auth",
            ),
        ] {
            let answer = check(signer, request, &strings(usages)).unwrap();
            assert_eq!(answer.err().unwrap_or_default(), wanted, "{signer}");
        }
        assert_eq!(check("example.com/a", &node(), &[]), None);
    }
}
