//! Continue tokens: at which revision a list is read, and behind which key it goes on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::api::status::ApiError;
use crate::store::Revision;

const VERSION: &str = "meta.k8s.io/v1";

/// Where a list that was cut at its limit goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continue {
    pub(super) revision: Revision,
    /// Local key of the last object of the page before.
    pub(super) after: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: u64,
    start: String,
}

impl Continue {
    /// The text clients send back.
    pub(super) fn encode(&self) -> String {
        let wire = Wire {
            v: VERSION.to_owned(),
            rv: self.revision.0,
            start: format!("{}\u{0}", self.after),
        };
        // A struct of texts and numbers can always be written.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Reads what a client sent back.
    pub(super) fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        let bytes = bytes.map_err(|_| bad())?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if wire.v != VERSION || wire.rv == 0 {
            return Err(bad());
        }
        let after = wire.start.strip_suffix('\u{0}').ok_or_else(bad)?;
        Ok(Self {
            revision: Revision(wire.rv),
            after: after.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_rubbish_is_refused() {
        let token = Continue {
            revision: Revision(7),
            after: "default/web".to_owned(),
        };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        for rubbish in ["", "!!", "e30", "eyJ2IjoiIn0"] {
            assert_eq!(Continue::decode(rubbish).unwrap_err().code, 400);
        }
    }
}
