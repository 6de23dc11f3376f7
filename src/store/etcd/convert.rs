//! Between etcd's words and ours; pure.

use bytes::Bytes;
use etcd_client::ResponseHeader;

use crate::store::{Error, KeyRange, KeyValue, Revision};

/// A key nobody uses, to ask for a revision with.
pub(crate) const NO_KEY: &[u8] = b"\0";
/// gRPC's code for a revision that cannot be read.
const OUT_OF_RANGE: i32 = 11;
/// gRPC's code for a request that can never succeed.
const INVALID_ARGUMENT: i32 = 3;

/// A revision as etcd has it.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A revision as etcd has it.
pub(crate) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// The store's revision when it answered.
pub(crate) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(Revision(0), |header| revision(header.revision()))
}

/// A key with its value.
pub(crate) fn item(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(kv.key()),
        value: Bytes::copy_from_slice(kv.value()),
        created: revision(kv.create_revision()),
        modified: revision(kv.mod_revision()),
    }
}

/// Start and end; etcd writes "from the first" and "to the last" as a zero byte.
pub(crate) fn etcd_range(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let start = match range.start.is_empty() {
        true => vec![0],
        false => range.start.to_vec(),
    };
    let end = range
        .end
        .as_ref()
        .map_or_else(|| vec![0], |end| end.to_vec());
    (start, end)
}

/// What a failed call means.
pub(crate) fn fail(doing: &'static str, error: &etcd_client::Error) -> Error {
    if let etcd_client::Error::GRpcStatus(status) = error {
        let message = status.message();
        match i32::from(status.code()) {
            OUT_OF_RANGE if message.contains("compacted") => {
                return Error::Compacted {
                    wanted: Revision(0),
                    oldest: Revision(0),
                };
            }
            OUT_OF_RANGE if message.contains("future") => {
                return Error::Future {
                    wanted: Revision(0),
                    current: Revision(0),
                };
            }
            INVALID_ARGUMENT => return Error::InvalidTxn(message.to_owned()),
            _ => {
                return Error::Unavailable {
                    doing,
                    why: message.to_owned(),
                };
            }
        }
    }
    Error::Unavailable {
        doing,
        why: error.to_string(),
    }
}

/// Whether a write failed only because its lease has ended.
pub(crate) fn is_lease_gone(why: &str) -> bool {
    why.contains("requested lease not found")
}

/// Whether an etcd of that version may tell progress before events that precede it: all before
/// 3.4.25, and of 3.5 all before 3.5.8.
pub(crate) fn has_early_progress(version: &str) -> bool {
    let mut parts = version
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().ok());
    let mut next = || parts.next().flatten().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch < 25,
        (3, 5, patch) => patch < 8,
        (major, minor, _) => (major, minor) < (3, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_early_progress_are_known() {
        for (version, early) in [
            ("3.3.9", true),
            ("3.4.23", true),
            ("3.4.25", false),
            ("3.5.7", true),
            ("3.5.8", false),
            ("3.6.0-rc.1", false),
            ("4.0.0", false),
        ] {
            assert_eq!(has_early_progress(version), early, "{version}");
        }
    }

    #[test]
    fn open_ranges_are_zero_bytes() {
        assert_eq!(etcd_range(&KeyRange::prefix("")), (vec![0], vec![0]));
        let range = KeyRange::prefix("a/");
        assert_eq!(etcd_range(&range), (b"a/".to_vec(), b"a0".to_vec()));
    }
}
