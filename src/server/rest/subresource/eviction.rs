//! `pods/eviction`: a delete that may be refused.
//!
//! DEVIATION: PodDisruptionBudgets are not served yet, so nothing refuses it.

use http::Response;

use crate::api::options::{DeleteOptions, WriteOptions};
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::rest::call::{Call, named_type, read_body};
use crate::server::rest::{Core, delete};

pub(in crate::server::rest) async fn evict(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_create(&call.query)?;
    let ty = named_type("policy.v1.Eviction")?;
    let eviction = call.decode_as(&read_body(body).await?, ty, &options)?;
    let name = &call.info.name;
    if !eviction.name().is_empty() && eviction.name() != name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let attributes = Attributes {
        subresource: "eviction",
        dry_run: options.dry_run,
        ..call.attributes(Operation::Create, name)
    };
    core.admission
        .validate(&attributes, Some(&eviction))
        .await?;
    let wanted = eviction.0.get("deleteOptions");
    let mut wanted = DeleteOptions::new("", wanted)?;
    wanted.dry_run |= options.dry_run;
    delete::remove(core, call, name, &wanted).await?;
    super::done(core, call)
}
