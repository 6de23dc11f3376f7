//! `Impersonate-*` headers: acting as somebody else, for those who may
//! (`k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`).
//!
//! Pure: what has to be allowed first is returned as requests to authorize.

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::server::request::{RequestInfo, User};

use super::{AUTHENTICATED, service_account};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Who somebody wants to act as, and what they must be allowed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who the request is made as.
    pub user: User,
    /// Each of these must be allowed to the caller.
    pub needs: Vec<RequestInfo>,
}

/// What the headers ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Impersonation {
    /// Nothing.
    None,
    /// To act as somebody.
    As(Box<Wanted>),
    /// Groups or extras without a user.
    Incomplete,
}

impl Impersonation {
    /// Takes the headers out of a request.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let names: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("impersonate-"))
            .cloned()
            .collect();
        if names.is_empty() {
            return Self::None;
        }
        let mut wanted = Wanted {
            user: User::default(),
            needs: Vec::new(),
        };
        for name in names {
            let values: Vec<String> = headers
                .get_all(&name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            headers.remove(&name);
            wanted.add(name.as_str(), values);
        }
        if wanted.user.name.is_empty() {
            return Self::Incomplete;
        }
        wanted.complete();
        Self::As(Box::new(wanted))
    }
}

impl Wanted {
    fn add(&mut self, header: &str, values: Vec<String>) {
        match header {
            "impersonate-user" => {
                self.user.name = values.into_iter().next().unwrap_or_default();
                let need = match account(&self.user.name) {
                    Some((namespace, name)) => RequestInfo {
                        namespace: namespace.to_owned(),
                        ..need("", "serviceaccounts", "", name)
                    },
                    None => need("", "users", "", &self.user.name),
                };
                self.needs.push(need);
            }
            "impersonate-group" => {
                let needs = values.iter().map(|group| need("", "groups", "", group));
                self.needs.extend(needs);
                self.user.groups = values;
            }
            "impersonate-uid" => {
                self.user.uid = values.into_iter().next().unwrap_or_default();
                let need = need("authentication.k8s.io", "uids", "", &self.user.uid);
                self.needs.push(need);
            }
            _ => {
                let Some(key) = header.strip_prefix(EXTRA_PREFIX) else {
                    return;
                };
                let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                let group = "authentication.k8s.io";
                let needs = values.iter().map(|v| need(group, "userextras", &key, v));
                self.needs.extend(needs);
                self.user.extra.insert(key, values);
            }
        }
    }

    /// Groups everybody of a kind is in.
    fn complete(&mut self) {
        if self.user.groups.is_empty()
            && let Some((namespace, _)) = account(&self.user.name)
        {
            self.user.groups = service_account::account_groups(namespace);
        }
        let everybody = if self.user.name == "system:anonymous" {
            "system:unauthenticated"
        } else {
            AUTHENTICATED
        };
        if !self.user.is_in(AUTHENTICATED) && !self.user.is_in("system:unauthenticated") {
            self.user.groups.push(everybody.to_owned());
        }
    }
}

fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

fn need(group: &str, resource: &str, subresource: &str, name: &str) -> RequestInfo {
    RequestInfo {
        verb: "impersonate".to_owned(),
        is_resource: true,
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pairs: &[(&'static str, &str)]) -> Impersonation {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        let taken = Impersonation::take(&mut headers);
        assert!(headers.keys().all(|name| name == "accept"));
        taken
    }

    fn wanted(pairs: &[(&'static str, &str)]) -> Wanted {
        match taken(pairs) {
            Impersonation::As(wanted) => *wanted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_header_has_to_be_allowed() {
        let wanted = wanted(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-extra-scopes%2fx", "view"),
            ("accept", "*/*"),
        ]);
        assert_eq!(wanted.user.groups, ["a", "b", AUTHENTICATED]);
        assert_eq!(wanted.user.extra["scopes/x"], ["view"]);
        let mut needs: Vec<_> = wanted
            .needs
            .iter()
            .map(|n| format!("{}/{}/{}", n.resource, n.subresource, n.name))
            .collect();
        needs.sort();
        assert_eq!(
            needs,
            [
                "groups//a",
                "groups//b",
                "userextras/scopes/x/view",
                "users//bob"
            ]
        );
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let wanted = wanted(&[("impersonate-user", "system:serviceaccount:n:a")]);
        assert_eq!(wanted.needs[0].resource, "serviceaccounts");
        assert_eq!(wanted.needs[0].namespace, "n");
        assert!(wanted.user.is_in("system:serviceaccounts:n"));
    }

    #[test]
    fn groups_without_a_user_are_refused() {
        assert_eq!(
            taken(&[("impersonate-group", "a")]),
            Impersonation::Incomplete
        );
        assert_eq!(taken(&[("accept", "*/*")]), Impersonation::None);
    }
}
