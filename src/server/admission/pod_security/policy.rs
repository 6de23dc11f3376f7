//! What the labels of a namespace ask for (`k8s.io/pod-security-admission/api`).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::api::status::FieldError;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Of which Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    /// `v1.N`
    Minor(u32),
}

/// One mode's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// The rules of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let is_plain = minor.bytes().all(|byte| byte.is_ascii_digit())
            && (minor.len() == 1 || !minor.starts_with('0'));
        if !is_plain {
            return None;
        }
        minor.parse().ok().map(Version::Minor)
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

impl LevelVersion {
    const PRIVILEGED: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };
}

impl Policy {
    /// What holds where no label says anything.
    const DEFAULT: Self = Self {
        enforce: LevelVersion::PRIVILEGED,
        audit: LevelVersion::PRIVILEGED,
        warn: LevelVersion::PRIVILEGED,
    };

    /// The rules, and what is wrong with the labels. There always are rules: an unknown level to
    /// enforce is the strictest, one to warn or audit by the loosest, an unknown version the
    /// latest.
    pub(super) fn of(labels: &BTreeMap<String, String>) -> (Self, Vec<FieldError>) {
        let mut policy = Self::DEFAULT;
        let mut wrong = Vec::new();
        let get = |label: &str| labels.get(&format!("{PREFIX}{label}"));
        if labels.is_empty() {
            return (policy, wrong);
        }
        let mut is_enforced = false;
        let modes = [
            ("enforce", &mut policy.enforce),
            ("audit", &mut policy.audit),
            ("warn", &mut policy.warn),
        ];
        for (mode, rules) in modes {
            if let Some(text) = get(mode) {
                let level = Level::parse(text);
                is_enforced |= mode == "enforce" && level.is_some();
                rules.level = level.unwrap_or_else(|| {
                    let why = "must be one of privileged, baseline, restricted";
                    wrong.push(invalid(mode, text, why));
                    match mode {
                        "enforce" => Level::Restricted,
                        _ => Level::Privileged,
                    }
                });
            }
            let label = format!("{mode}-version");
            if let Some(text) = get(&label) {
                rules.version = Version::parse(text).unwrap_or_else(|| {
                    wrong.push(invalid(&label, text, "must be \"latest\" or \"v1.x\""));
                    Version::Latest
                });
            }
        }
        let is_stricter = policy.enforce.level.cmp(&policy.warn.level) == Ordering::Greater;
        if get("warn").is_none() && is_enforced && is_stricter {
            policy.warn.level = policy.enforce.level;
            if get("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, wrong)
    }

    /// Whether nothing is forbidden, noted or warned of.
    pub(super) fn is_privileged(&self) -> bool {
        let modes = [self.enforce, self.audit, self.warn];
        modes.iter().all(|mode| mode.level == Level::Privileged)
    }
}

fn invalid(label: &str, value: &str, why: &str) -> FieldError {
    let field = format!("metadata.labels[{PREFIX}{label}]");
    FieldError::invalid(field, &value.into(), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)]) -> (String, Vec<String>) {
        let labels = labels
            .iter()
            .map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned()));
        let (policy, wrong) = Policy::of(&labels.collect());
        let text = format!("{} {} {}", policy.enforce, policy.audit, policy.warn);
        (text, wrong.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn warnings_follow_what_is_enforced_and_bad_labels_fail_closed() {
        let (privileged, none) = of(&[]);
        assert_eq!(
            privileged,
            "privileged:latest privileged:latest privileged:latest"
        );
        assert!(none.is_empty());
        let (text, _) = of(&[("enforce", "baseline"), ("enforce-version", "v1.25")]);
        assert_eq!(text, "baseline:v1.25 privileged:latest baseline:v1.25");
        let (text, _) = of(&[("enforce", "baseline"), ("warn", "privileged")]);
        assert_eq!(text, "baseline:latest privileged:latest privileged:latest");
        let (text, wrong) = of(&[
            ("enforce", "strict"),
            ("audit", "x"),
            ("warn-version", "v1.01"),
        ]);
        assert_eq!(
            text,
            "restricted:latest privileged:latest privileged:latest"
        );
        assert_eq!(
            wrong,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
                 must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"x\": must be \
                 one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \
                 \"v1.01\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }
}
