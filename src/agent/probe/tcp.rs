//! A connection that only has to come about.

use std::time::Duration;

use tokio::net::TcpStream;

use super::Outcome;
use crate::util::errors;

/// Connects.
///
/// Errors: the text Go's dialer gives.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let at = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        format!("dial tcp {at}: {}", errors::dial(&error))
    })
}

/// Whether a connection comes about within `timeout`.
pub(crate) async fn probe(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(Ok(_)) => Outcome::Success(String::new()),
        Ok(Err(why)) => Outcome::Failure(why),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_open_port_succeeds_and_a_closed_one_says_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_secs(5);
        let open = probe("127.0.0.1", port, limit).await;
        assert_eq!(open, Outcome::Success(String::new()));
        drop(listener);
        let text = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        let closed = probe("127.0.0.1", port, limit).await;
        assert_eq!(closed, Outcome::Failure(text));
    }
}
