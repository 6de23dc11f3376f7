//! `pods/log`

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use serde_json::json;

use super::{NodeProxy, Query, boxed, part};
use crate::api::status::{ApiError, FieldError};
use crate::client::{Body, empty_body};
use crate::server::request::RequestInfo;

/// Passed on as they are.
const BOOLEANS: [&str; 3] = ["follow", "previous", "timestamps"];

/// Whole numbers, with what is the least each may be.
const NUMBERS: [(&str, i64); 3] = [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)];

impl NodeProxy {
    pub(super) async fn log(
        &self,
        info: &RequestInfo,
        query: &str,
    ) -> Result<Response<Body>, ApiError> {
        let query = Query(query);
        let options = options(&query)?;
        let found = self.pod(info)?;
        let container = found.container(query.get("container"))?;
        let node = found.node();
        if node.is_empty() {
            // Nothing was written yet.
            return Ok(text(empty_body()));
        }
        let path = format!(
            "/containerLogs/{}/{}/{}?{options}",
            part(&found.namespace),
            part(&found.name),
            part(&container)
        );
        let request = Request::get(path)
            .body(empty_body())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let response = self.ask(node, request).await?;
        Ok(text(boxed(response.into_body())))
    }
}

fn text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Checks the options as `ValidatePodLogOptions` does and writes them for the node.
fn options(query: &Query<'_>) -> Result<String, ApiError> {
    let mut errors = Vec::new();
    let mut out = form_urlencoded::Serializer::new(String::new());
    for name in BOOLEANS {
        if query.is_set(name) {
            out.append_pair(name, "true");
        }
    }
    for (name, least) in NUMBERS {
        let Some(text) = query.get(name) else {
            continue;
        };
        let Ok(number) = text.parse::<i64>() else {
            return Err(ApiError::bad_request(format!(
                "strconv.ParseInt: parsing \"{text}\": invalid syntax"
            )));
        };
        if number < least {
            let detail = match least {
                0 => "must be greater than or equal to 0",
                _ => "must be greater than 0",
            };
            errors.push(FieldError::invalid(name, &json!(number), detail));
        }
        out.append_pair(name, &text);
    }
    if let Some(time) = query.get("sinceTime") {
        if query.get("sinceSeconds").is_some() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("", detail));
        }
        out.append_pair("sinceTime", &time);
    }
    match query.get("stream").as_deref() {
        None | Some("All") => {}
        Some(stream @ ("Stdout" | "Stderr")) => {
            if query.get("tailLines").is_some() {
                let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
                errors.push(FieldError::forbidden("", detail));
            }
            out.append_pair("stream", stream);
        }
        Some(other) => {
            let supported = ["All", "Stdout", "Stderr"];
            errors.push(FieldError::not_supported(
                "stream",
                &json!(other),
                &supported,
            ));
        }
    }
    if errors.is_empty() {
        return Ok(out.finish());
    }
    Err(ApiError::invalid("", "PodLogOptions", "", &errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_and_passed_on() {
        let given = Query("follow=1&previous=false&tailLines=5&container=x&junk=1");
        assert_eq!(options(&given).unwrap(), "follow=true&tailLines=5");
        let error = options(&Query("tailLines=-1&sinceSeconds=0")).unwrap_err();
        assert_eq!(error.code, 422);
        assert!(
            error.message.contains("tailLines: Invalid value: -1"),
            "{}",
            error.message
        );
        let both = Query("sinceSeconds=1&sinceTime=2026-01-01T00%3A00%3A00Z");
        assert!(
            options(&both)
                .unwrap_err()
                .message
                .contains("at most one of")
        );
        assert_eq!(options(&Query("limitBytes=x")).unwrap_err().code, 400);
    }
}
