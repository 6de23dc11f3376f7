//! `get`: one object, most often the bytes of the cache as they are.

use http::{Response, StatusCode};

use crate::api::options::GetOptions;
use crate::api::status::ApiError;
use crate::client::Body;

use super::call::Call;
use super::part::Part;
use super::{Core, errors, read, update};

pub(super) async fn get(core: &Core, call: &Call, part: Part) -> Result<Response<Body>, ApiError> {
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
    update::respond(core, call, part, (StatusCode::OK, item.bytes())).await
}
