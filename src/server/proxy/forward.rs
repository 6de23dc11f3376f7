//! `pods/portforward`: each connection of the client is one exchange with the node.

use http::{Request, Response};
use http_body_util::BodyExt;

use super::{NodeProxy, Query, part};
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::request::RequestInfo;
use crate::server::streams::{self, Forwarded, Session, Wish};
use crate::util::byte_body;

impl NodeProxy {
    pub(super) fn port_forward(
        &self,
        info: &RequestInfo,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let query = Query(request.uri().query().unwrap_or_default());
        let ports = ports(&query)?;
        let found = self.pod(info)?;
        let node = found.node_required()?.to_owned();
        let path = format!(
            "/portForward/{}/{}",
            part(&found.namespace),
            part(&found.name)
        );
        let wish = Wish::Forward { ports };
        let (response, session) = streams::accept(&mut request, wish, &self.tasks)?;
        let proxy = self.clone();
        self.tasks.job("port-forward", async move {
            let mut session = match session.await {
                Ok(Session::Forward(session)) => session,
                Ok(Session::Exec(_)) => return,
                Err(error) => {
                    tracing::debug!(error = %error, "no streams to the client");
                    return;
                }
            };
            while let Some(forwarded) = session.next().await {
                let (carrying, node, path) = (proxy.clone(), node.clone(), path.clone());
                proxy.tasks.job("forwarded connection", async move {
                    carrying.carry(&node, &path, forwarded).await;
                });
            }
        });
        Ok(response)
    }

    async fn carry(&self, node: &str, path: &str, forwarded: Forwarded) {
        let Forwarded {
            port,
            mut data,
            error,
        } = forwarded;
        let (to_node, body) = byte_body::writer();
        let body: Body = body.map_err(Into::into).boxed_unsync();
        let request = Request::post(format!("{path}?port={port}")).body(body);
        let answer = match request {
            Ok(request) => self.ask(node, request).await,
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        };
        match answer {
            Ok(answer) => {
                let mut far = byte_body::stream(answer.into_body(), to_node);
                // Either side may break off: that is the end of the connection.
                let _ = tokio::io::copy_bidirectional(&mut data, &mut far).await;
            }
            Err(refused) => error.fail(&refused.message).await,
        }
    }
}

/// The ports of the query; newer clients name them with each connection instead.
fn ports(query: &Query<'_>) -> Result<Vec<u16>, ApiError> {
    let mut ports = Vec::new();
    for text in query.all("ports") {
        for port in text.split(',') {
            let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                ApiError::bad_request(format!("port `{port}` must be a number from 1 to 65535"))
            })?;
            ports.push(port);
        }
    }
    Ok(ports)
}
