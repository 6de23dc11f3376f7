//! Reads custom objects: the metadata is decoded as that of every kind, the rest is pruned by the
//! schema; what that takes out are the unknown fields of `fieldValidation`.

use super::Custom;
use crate::api::codec::{self, Expect, MediaType, Mode, Patched};
use crate::api::object::Object;
use crate::api::status::{ApiError, FieldError};

/// An object and warnings about it.
type Read = Result<(Object, Vec<String>), ApiError>;

impl Custom {
    /// Decodes the body of a create or update.
    pub fn decode(&self, body: &[u8], media: MediaType, mode: Mode, bytes_max: usize) -> Read {
        if media == MediaType::Protobuf {
            return Err(ApiError::unsupported_media_type(&[
                "application/json",
                "application/yaml",
            ]));
        }
        let expect = Expect {
            ty: self
                .envelope()
                .ok_or_else(|| ApiError::internal("no envelope"))?,
            mode: lenient(mode),
            bytes_max,
        };
        let (object, warnings) = codec::decode(body, media, &expect)?;
        let kind = &self.kind;
        self.pruned(object, warnings, mode, &|all| {
            let (name, version) = (&kind.kind, &kind.version);
            ApiError::bad_request(format!(
                "{name} in version \"{version}\" cannot be handled as a {name}: strict decoding \
                 error: {all}"
            ))
        })
    }

    /// Checks what a patch made.
    pub fn check_patched(&self, patched: Patched, mode: Mode) -> Read {
        let ty = self.envelope();
        let ty = ty.ok_or_else(|| ApiError::internal("no envelope"))?;
        let shown = match mode {
            Mode::Strict => patched.shown.clone(),
            _ => String::new(),
        };
        let (object, warnings) = codec::check_patched(patched, ty, lenient(mode))?;
        self.pruned(object, warnings, mode, &|all| {
            let why = format!("strict decoding error: {all}");
            let field = FieldError::invalid("patch", &shown.as_str().into(), &why);
            ApiError::invalid("", "", "", &[field])
        })
    }

    fn pruned(
        &self,
        mut object: Object,
        mut warnings: Vec<String>,
        mode: Mode,
        refuse: &dyn Fn(&str) -> ApiError,
    ) -> Read {
        let unknown = self.prune(&mut object).into_iter();
        let unknown = unknown.map(|path| format!("unknown field \"{path}\""));
        match mode {
            Mode::Ignore => return Ok((object, Vec::new())),
            Mode::Warn | Mode::Strict => warnings.extend(unknown),
        }
        if mode == Mode::Strict && !warnings.is_empty() {
            return Err(refuse(&warnings.join(", ")));
        }
        Ok((object, warnings))
    }
}

/// What is strict about it is said together with the unknown fields.
fn lenient(mode: Mode) -> Mode {
    match mode {
        Mode::Strict => Mode::Warn,
        mode => mode,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cron_tab;
    use super::*;

    #[test]
    fn unknown_and_duplicate_fields_are_named_or_refused() {
        let custom = cron_tab();
        let body =
            br#"{"kind":"CronTab","apiVersion":"stable.example.com/v1","metadata":{"name":"a"},
            "spec":{"image":"i","image":"j","odd":1}}"#;
        let read = |mode| custom.decode(body, MediaType::Json, mode, 1 << 20);
        let (object, warnings) = read(Mode::Warn).unwrap();
        assert_eq!(object.field("spec"), &serde_json::json!({"image": "j"}));
        assert_eq!(
            warnings,
            [
                "duplicate field \"spec.image\"",
                "unknown field \"spec.odd\""
            ]
        );
        assert!(read(Mode::Ignore).unwrap().1.is_empty());
        assert_eq!(
            read(Mode::Strict).unwrap_err().message,
            "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: \
             duplicate field \"spec.image\", unknown field \"spec.odd\""
        );
    }
}
