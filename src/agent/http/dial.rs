//! Connections into pods: port-forward to a port on the pod's loopback, and the API server's
//! proxies to a pod's address.
//!
//! One exchange is one TCP connection: the request's body goes in, the answer's body comes out.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::Response;
use tokio::net::TcpStream;

use super::{Answer, Call, NodeApi, boxed};
use crate::agent::sys::netns;
use crate::api::status::ApiError;
use crate::client::Body;
use crate::util::{byte_body, errors};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl NodeApi {
    pub(super) async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        call: &Call<'_>,
        body: Body,
    ) -> Answer {
        let port: u16 = call
            .get("port")
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| ApiError::bad_request("port must be a number from 1 to 65535"))?;
        let view = self.pod(namespace, pod)?;
        let connected = match &view.network {
            Some(network) => connect_inside(network, port).await,
            None => connect_local(port).await,
        };
        let stream = connected.map_err(|error| {
            let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
            let message = format!(
                "error forwarding port {port} to pod {pod}, uid {uid}: failed to connect to \
                 localhost:{port} inside its network namespace: {error}"
            );
            ApiError::plain(500, "InternalError", message)
        })?;
        Ok(self.carry_bytes(stream, body))
    }

    /// To an address of this node's pods or of the node itself.
    pub(super) async fn dial(&self, address: &str, body: Body) -> Answer {
        let address: SocketAddr = address
            .parse()
            .map_err(|_| ApiError::bad_request(format!("`{address}` is not ADDRESS:PORT")))?;
        let connected = limited(TcpStream::connect(address)).await;
        let stream = connected.map_err(|error| {
            ApiError::unavailable(format!(
                "error trying to reach service: dial tcp {address}: {}",
                errors::dial(&error)
            ))
        })?;
        Ok(self.carry_bytes(stream, body))
    }

    fn carry_bytes(&self, mut stream: TcpStream, body: Body) -> Response<Body> {
        // Small requests and answers go both ways; no harm where it cannot be set.
        let _ = stream.set_nodelay(true);
        let (writer, answer) = byte_body::writer();
        let mut far = byte_body::stream(body, writer);
        self.0.tasks.job("forwarded connection", async move {
            // Either side may break off: that is the end of the connection.
            let _ = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
        });
        Response::new(boxed(answer))
    }
}

async fn limited(connecting: impl Future<Output = io::Result<TcpStream>>) -> io::Result<TcpStream> {
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")),
    }
}

/// IPv4 first, then IPv6, as the container runtimes do it.
async fn connect_local(port: u16) -> io::Result<TcpStream> {
    match limited(TcpStream::connect(("127.0.0.1", port))).await {
        Ok(stream) => Ok(stream),
        Err(error) => match limited(TcpStream::connect(("::1", port))).await {
            Ok(stream) => Ok(stream),
            Err(_) => Err(error),
        },
    }
}

/// A socket belongs to the namespace it was made in, wherever it is used.
async fn connect_inside(network: &Path, port: u16) -> io::Result<TcpStream> {
    let stream = netns::within(network, move || async move {
        connect_local(port).await?.into_std()
    })
    .await?;
    TcpStream::from_std(stream)
}
