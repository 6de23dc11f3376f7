//! Questions about the rest of the world, passed to the host's own name servers as they came.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take; glibc gives up on us after five seconds.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The most a UDP answer can be.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The host's name servers.
#[derive(Clone, Debug)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
}

impl Upstream {
    /// Asked in this order.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// The answer to `query`, a whole message, from the first server that gives one.
    ///
    /// Errors: there is no server, or none answers in time.
    pub async fn ask_udp(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut last = no_server();
        for server in &self.servers {
            match tokio::time::timeout(TIMEOUT, exchange_udp(*server, query)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// As [`Upstream::ask_udp`], over TCP.
    pub async fn ask_tcp(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        let mut last = no_server();
        for server in &self.servers {
            match tokio::time::timeout(TIMEOUT, exchange_tcp(*server, query)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

fn no_server() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "the host's resolv.conf names no server",
    )
}

async fn exchange_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that only the server's own datagrams are taken.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length > 2 && answer[..2] == query[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn exchange_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(query).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
