//! Continue tokens: at which revision a list is read, and behind which key it goes on.
//!
//! A token without a revision (-1 on the wire, as upstream) goes on at whatever revision is there:
//! it is offered where the one asked for is no longer kept.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::api::status::ApiError;
use crate::store::Revision;

const VERSION: &str = "meta.k8s.io/v1";
/// As a revision: the newest.
const NEWEST: i64 = -1;

/// Where a list that was cut at its limit goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continue {
    /// `None`: the newest there is.
    pub(super) revision: Option<Revision>,
    /// Local key of the last object of the page before.
    pub(super) after: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    /// The text clients send back.
    pub(super) fn encode(&self) -> String {
        let wire = Wire {
            v: VERSION.to_owned(),
            rv: match self.revision {
                Some(revision) => i64::try_from(revision.0).unwrap_or(i64::MAX),
                None => NEWEST,
            },
            start: format!("{}\u{0}", self.after),
        };
        // A struct of texts and numbers can always be written.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Reads what a client sent back.
    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("invalid continue token: continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        let bytes = bytes.map_err(|_| bad())?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if wire.v != VERSION || wire.rv == 0 {
            return Err(bad());
        }
        let revision = match wire.rv {
            NEWEST => None,
            rv => Some(Revision(u64::try_from(rv).map_err(|_| bad())?)),
        };
        let after = wire.start.strip_suffix('\u{0}').ok_or_else(bad)?;
        Ok(Self {
            revision,
            after: after.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_rubbish_is_refused() {
        for revision in [Some(Revision(7)), None] {
            let after = "default/web".to_owned();
            let token = Continue { revision, after };
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
        for rubbish in ["", "!!", "e30", "eyJ2IjoiIn0"] {
            assert_eq!(Continue::decode(rubbish).unwrap_err().code, 400);
        }
    }
}
