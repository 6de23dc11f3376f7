//! What the audit log is told of answers.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;

use crate::client::{Body, body_from};
use crate::server::audit::Trail;

/// Notes the answer to a request, and its body where the policy wants it and it is at hand.
pub(super) async fn answered(
    trail: &Arc<Trail>,
    response: Response<Body>,
    is_long: bool,
) -> Response<Body> {
    let code = response.status().as_u16();
    if is_long {
        trail.started(code).await;
        let at_end = trail.at_end();
        // Lives as long as the body.
        return response.map(|body| {
            body.map_frame(move |frame| {
                let _ = &at_end;
                frame
            })
            .boxed_unsync()
        });
    }
    let (_, wants_body) = trail.wants();
    let is_whole = response.body().size_hint().exact().is_some();
    let response = match wants_body && is_whole {
        true => noted(trail, response).await,
        false => response,
    };
    trail.completed(code).await;
    response
}

async fn noted(trail: &Trail, response: Response<Body>) -> Response<Body> {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(whole) => {
            let bytes = whole.to_bytes();
            trail.response(&bytes);
            Response::from_parts(head, body_from(bytes))
        }
        // A body that is at hand as a whole does not break off; if it did, so would the answer.
        Err(error) => {
            let broken =
                http_body_util::StreamBody::new(futures_util::stream::iter([
                    Err::<Frame<Bytes>, _>(error),
                ]));
            Response::from_parts(head, broken.boxed_unsync())
        }
    }
}
