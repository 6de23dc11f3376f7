//! `deletecollection`: a delete of each object that a list with the same selectors shows.

use http::Response;

use crate::api::options::ListOptions;
use crate::api::status::ApiError;
use crate::client::Body;

use super::call::{Call, read_body};
use super::{Core, delete, list};

pub(super) async fn delete_collection(
    core: &Core,
    call: &Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let wanted = ListOptions::from_query(&call.query)?;
    let options = delete::options(call, &read_body(body).await?)?;
    let page = list::page(core, call, &wanted).await?;
    for item in &page.items {
        match delete::remove(core, call, item.name(), &options).await {
            // Somebody else deleted it, or made another of the name: both are gone.
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    list::respond(core, &call.renderer(core), page).await
}
