//! `/livez`, `/readyz`, `/healthz`: named checks, printed as
//! `k8s.io/apiserver/pkg/server/healthz` prints them.

use std::pin::Pin;
use std::sync::Arc;

use http::{Response, StatusCode};
use parking_lot::RwLock;

use crate::client::Body;
use crate::server::http::respond;

/// What a check found: nothing, or what is wrong. The text goes to the log, not to the client.
pub type Outcome = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Which endpoints a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// All of them.
    Everywhere,
    /// `/readyz` and `/healthz`, for what a restart would not help.
    Ready,
}

/// The checks of a server. Clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<RwLock<Vec<Check>>>);

#[derive(Clone)]
struct Check {
    name: String,
    counts: Counts,
    run: Arc<dyn Fn() -> Outcome + Send + Sync>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.read().iter().map(|c| c.name.clone()).collect();
        f.debug_tuple("Health").field(&names).finish()
    }
}

impl Health {
    /// With the one check that always holds.
    pub fn new() -> Self {
        let health = Self::default();
        health.add("ping", Counts::Everywhere, || Box::pin(async { Ok(()) }));
        health
    }

    /// Adds a check at the end of the list.
    pub fn add(
        &self,
        name: &str,
        counts: Counts,
        run: impl Fn() -> Outcome + Send + Sync + 'static,
    ) {
        self.0.write().push(Check {
            name: name.to_owned(),
            counts,
            run: Arc::new(run),
        });
    }

    /// Answers `path` (`/readyz`, `/readyz/ping`, …); `None` where it is no health path.
    pub(crate) async fn serve(&self, path: &str, query: &str) -> Option<Response<Body>> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let endpoint = parts.next().unwrap_or_default();
        if !matches!(endpoint, "livez" | "readyz" | "healthz") {
            return None;
        }
        let only = parts.next();
        let mut checks = self.0.read().clone();
        checks.retain(|check| endpoint != "livez" || check.counts == Counts::Everywhere);
        if let Some(name) = only {
            checks.retain(|check| check.name == name);
            if checks.is_empty() {
                return None;
            }
        }
        Some(run(endpoint, &checks, &Wish::read(query)).await)
    }
}

/// What the query asks for.
struct Wish {
    is_verbose: bool,
    excluded: Vec<String>,
}

impl Wish {
    fn read(query: &str) -> Self {
        let mut wish = Self {
            is_verbose: false,
            excluded: Vec::new(),
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "verbose" => wish.is_verbose = true,
                "exclude" => wish.excluded.push(value.into_owned()),
                _ => {}
            }
        }
        wish
    }
}

async fn run(endpoint: &str, checks: &[Check], wish: &Wish) -> Response<Body> {
    let mut lines = String::new();
    let mut failed = Vec::new();
    for check in checks {
        let name = &check.name;
        if wish.excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match (check.run)().await {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed.push(format!("{name}: {why}"));
            }
        }
    }
    let unknown: Vec<_> = wish
        .excluded
        .iter()
        .filter(|excluded| !checks.iter().any(|check| check.name == **excluded))
        .map(|excluded| format!("\"{excluded}\""))
        .collect();
    if !unknown.is_empty() {
        lines.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(", ")
        ));
    }
    if !failed.is_empty() {
        tracing::debug!(endpoint, failed = %failed.join("; "), "health check failed");
        lines.push_str(&format!("{endpoint} check failed\n"));
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, lines);
    }
    if !wish.is_verbose {
        return respond::text(StatusCode::OK, "ok");
    }
    lines.push_str(&format!("{endpoint} check passed\n"));
    respond::text(StatusCode::OK, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn health() -> Health {
        let health = Health::new();
        health.add("bad", Counts::Ready, || {
            Box::pin(async { Err("secret".into()) })
        });
        health
    }

    async fn get(path: &str, query: &str) -> (u16, String) {
        let response = health().serve(path, query).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn answers_read_as_upstream_prints_them() {
        assert_eq!(get("/livez", "").await, (200, "ok".into()));
        let verbose = "[+]ping ok\nlivez check passed\n";
        assert_eq!(get("/livez", "verbose").await, (200, verbose.into()));
        let failed = "[+]ping ok\n[-]bad failed: reason withheld\nreadyz check failed\n";
        assert_eq!(get("/readyz", "").await, (500, failed.into()));
        assert_eq!(get("/readyz", "exclude=bad").await, (200, "ok".into()));
        let excluded = "[+]ping ok\n[+]bad excluded: ok\n\
            warn: some health checks cannot be excluded: no matches for \"x\"\n\
            readyz check passed\n";
        let asked = get("/readyz", "verbose&exclude=bad&exclude=x").await;
        assert_eq!(asked, (200, excluded.into()));
    }

    #[tokio::test]
    async fn one_check_has_a_path_of_its_own() {
        assert_eq!(get("/readyz/ping", "").await.0, 200);
        assert_eq!(get("/readyz/bad", "").await.0, 500);
        assert!(health().serve("/livez/bad", "").await.is_none());
        assert!(health().serve("/apis", "").await.is_none());
    }
}
