//! What `/metrics` says about requests, under upstream's names.

use std::time::Duration;

use http::StatusCode;

use crate::server::request::RequestInfo;
use crate::util::metrics::{Counters, Gauge, Gauges, Histograms, Metrics};

const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Counts requests.
#[derive(Debug)]
pub(super) struct Observed {
    total: Counters,
    duration: Histograms,
    long_running: Gauges,
}

/// The labels of one request. Only what the table serves becomes a label, so that there are not
/// more series than resources.
struct Labels<'a> {
    verb: String,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

impl Observed {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            total: metrics.counters(
                "apiserver_request_total",
                "Counter of apiserver requests broken out for each verb, dry run value, group, \
                 version, resource, scope, component, and HTTP response code.",
                &[
                    "code",
                    "component",
                    "dry_run",
                    "group",
                    "resource",
                    "scope",
                    "subresource",
                    "verb",
                    "version",
                ],
            ),
            duration: metrics.histograms(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, dry run value, group, \
                 version, resource, subresource, scope and component.",
                &[
                    "component",
                    "group",
                    "resource",
                    "scope",
                    "subresource",
                    "verb",
                    "version",
                ],
                BUCKETS,
            ),
            long_running: metrics.gauges(
                "apiserver_longrunning_requests",
                "Gauge of all active long-running apiserver requests broken out by verb, group, \
                 version, resource, scope and component.",
                &[
                    "component",
                    "group",
                    "resource",
                    "scope",
                    "subresource",
                    "verb",
                    "version",
                ],
            ),
        }
    }

    /// One request that was answered after `took`.
    pub(super) fn count(
        &self,
        info: &RequestInfo,
        is_served: bool,
        code: StatusCode,
        took: Duration,
    ) {
        let labels = Labels::of(info, is_served);
        let verb = labels.verb.as_str();
        self.total.increment(&[
            code.as_str(),
            "apiserver",
            "",
            labels.group,
            labels.resource,
            labels.scope,
            labels.subresource,
            verb,
            labels.version,
        ]);
        if verb != "WATCH" && verb != "CONNECT" {
            self.duration
                .observe(&labels.without_code(), took.as_secs_f64());
        }
    }

    /// The gauge of requests like this one that are open.
    pub(super) fn open(&self, info: &RequestInfo) -> Gauge {
        self.long_running
            .with(&Labels::of(info, true).without_code())
    }
}

impl<'a> Labels<'a> {
    fn of(info: &'a RequestInfo, is_served: bool) -> Self {
        let scope = match (
            info.is_resource,
            info.name.is_empty(),
            info.namespace.is_empty(),
        ) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let keep = |text: &'a str| if is_served { text } else { "" };
        Self {
            verb: verb(info),
            group: keep(&info.group),
            version: keep(&info.version),
            resource: keep(&info.resource),
            subresource: keep(&info.subresource),
            scope,
        }
    }

    fn without_code(&self) -> [&str; 7] {
        [
            "apiserver",
            self.group,
            self.resource,
            self.scope,
            self.subresource,
            &self.verb,
            self.version,
        ]
    }
}

/// Upstream's names: `POST` for create, `APPLY` is not told from `PATCH`.
fn verb(info: &RequestInfo) -> String {
    match info.verb.as_str() {
        "create" => "POST".to_owned(),
        "update" => "PUT".to_owned(),
        known @ ("get" | "list" | "watch" | "patch" | "delete" | "deletecollection" | "post"
        | "put") => known.to_ascii_uppercase(),
        _ => "other".to_owned(),
    }
}
