//! `get`: one object, most often the bytes of the cache as they are.

use http::{Response, StatusCode};

use crate::api::options::GetOptions;
use crate::api::status::ApiError;
use crate::client::Body;

use super::call::Call;
use super::{Core, errors, read};

pub(super) async fn get(core: &Core, call: &Call) -> Result<Response<Body>, ApiError> {
    let options = GetOptions::from_query(&call.query);
    let (def, key) = (&call.def, call.local_key());
    let at_least = read::revision("resourceVersion", &options.resource_version)?;
    let item = match at_least {
        None => core.fresh(def, &key).await?,
        Some(revision) => {
            core.wait_for(revision).await?;
            core.cacher.get(&def.storage, &key)
        }
    };
    let item = item.ok_or_else(|| errors::not_found(def, &call.info.name))?;
    let renderer = call.renderer(core);
    let body = renderer.object(item.bytes())?;
    Ok(renderer.respond(StatusCode::OK, body))
}
