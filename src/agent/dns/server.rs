//! The sockets: messages in, messages out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::forward::Upstream;
use super::records::{Answer, Records};
use crate::util::tasks::Tasks;

/// What a client without EDNS takes over UDP (RFC 1035).
const PLAIN_BYTES_MAX: u16 = 512;
/// The most we say we take (the value of DNS flag day 2020).
const EDNS_BYTES_MAX: u16 = 1232;
/// Questions to other servers at once; a further one is answered with a failure.
const FORWARDS_MAX: usize = 1024;
/// TCP connections at once; a further one waits.
const CONNECTIONS_MAX: usize = 256;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Answers questions.
pub struct Server {
    records: Records,
    upstream: Upstream,
    tasks: Tasks,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What to do with a message that came in.
enum Reply {
    /// This is the answer.
    Here(Message),
    /// Pass it on as it is.
    Elsewhere,
    /// The answer so far ends in a name that is to be asked elsewhere.
    Alias(Box<Message>, Query),
    /// Not a question: say nothing.
    Silence,
}

impl Server {
    /// Answers from `records`, and from `upstream` for what is not of the cluster.
    pub fn new(records: Records, upstream: Upstream, tasks: Tasks) -> Self {
        Self {
            records,
            upstream,
            tasks,
            forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    /// Answers datagrams for ever.
    pub async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let (bytes, query) = (&buffer[..length], Message::from_vec(&buffer[..length]));
            let Ok(query) = query else { continue };
            let limit = query
                .edns
                .as_ref()
                .map_or(PLAIN_BYTES_MAX, |e| e.max_payload());
            let limit = usize::from(limit.clamp(PLAIN_BYTES_MAX, EDNS_BYTES_MAX));
            match self.reply(&query) {
                Reply::Silence => {}
                Reply::Here(answer) => {
                    // A client that is gone asks again, or nobody does.
                    let _ = socket.send_to(&encode(answer, limit), from).await;
                }
                other => {
                    let (server, socket, bytes) = (self.clone(), socket.clone(), bytes.to_vec());
                    self.tasks.job("dns-forward", async move {
                        let answer = server
                            .ask_elsewhere(other, &query, &bytes, Some(limit))
                            .await;
                        let _ = socket.send_to(&answer, from).await;
                    });
                }
            }
        }
    }

    /// Answers connections for ever.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let server = self.clone();
            self.tasks.job("dns-connection", async move {
                // The client ends it, or its silence does.
                let _ = server.converse(stream).await;
                drop(permit);
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
            let mut bytes = vec![0; usize::from(length)];
            tokio::time::timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let query = Message::from_vec(&bytes).map_err(io::Error::other)?;
            let answer = match self.reply(&query) {
                Reply::Silence => return Ok(()),
                Reply::Here(answer) => encode(answer, usize::from(u16::MAX)),
                other => self.ask_elsewhere(other, &query, &bytes, None).await,
            };
            stream
                .write_u16(u16::try_from(answer.len()).map_err(io::Error::other)?)
                .await?;
            stream.write_all(&answer).await?;
        }
    }

    fn reply(&self, query: &Message) -> Reply {
        if query.metadata.message_type != MessageType::Query {
            return Reply::Silence;
        }
        let mut answer = response_to(query);
        if query.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return Reply::Here(answer);
        }
        let [question] = &query.queries[..] else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return Reply::Here(answer);
        };
        match self.records.answer(&question.name, question.query_type) {
            Answer::Elsewhere => return Reply::Elsewhere,
            Answer::NoSuchName => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.authorities.push(self.records.authority());
            }
            Answer::Found(records) if records.is_empty() => {
                answer.authorities.push(self.records.authority());
            }
            Answer::Found(records) => answer.answers = records,
            Answer::Alias(record, target) => return self.follow(answer, record, target, question),
        }
        Reply::Here(answer)
    }

    fn follow(
        &self,
        mut answer: Message,
        alias: Box<Record<RData>>,
        target: hickory_proto::rr::Name,
        question: &Query,
    ) -> Reply {
        answer.answers.push(*alias);
        if question.query_type == RecordType::CNAME {
            return Reply::Here(answer);
        }
        match self.records.answer(&target, question.query_type) {
            Answer::Found(records) => {
                answer.answers.extend(records);
                Reply::Here(answer)
            }
            Answer::Elsewhere => {
                Reply::Alias(Box::new(answer), Query::query(target, question.query_type))
            }
            // An alias of an alias or of nothing: the client sees how far it goes.
            Answer::NoSuchName | Answer::Alias(..) => Reply::Here(answer),
        }
    }

    /// The encoded answer to what [`Server::reply`] could not answer itself. A `limit` of bytes
    /// says that it goes out as a datagram.
    async fn ask_elsewhere(
        &self,
        reply: Reply,
        query: &Message,
        bytes: &[u8],
        limit: Option<usize>,
    ) -> Vec<u8> {
        let most = limit.unwrap_or(usize::from(u16::MAX));
        let failure = || {
            let mut answer = response_to(query);
            answer.metadata.authoritative = false;
            answer.metadata.response_code = ResponseCode::ServFail;
            encode(answer, most)
        };
        let Ok(_permit) = self.forwards.try_acquire() else {
            return failure();
        };
        let asked = match reply {
            Reply::Alias(mut answer, question) => {
                let mut further = Message::query();
                further.metadata.recursion_desired = true;
                further.add_query(question);
                let encoded = further.to_vec().unwrap_or_default();
                let told = self.ask(&encoded, limit.is_some()).await;
                if let Ok(Ok(told)) = told.map(|bytes| Message::from_vec(&bytes)) {
                    answer.answers.extend(told.answers);
                }
                return encode(*answer, most);
            }
            _ => self.ask(bytes, limit.is_some()).await,
        };
        asked.unwrap_or_else(|error| {
            tracing::debug!(%error, "no answer from the host's name servers");
            failure()
        })
    }

    async fn ask(&self, bytes: &[u8], datagram: bool) -> io::Result<Vec<u8>> {
        match datagram {
            true => self.upstream.ask_udp(bytes).await,
            false => self.upstream.ask_tcp(bytes).await,
        }
    }
}

fn response_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = true;
    answer.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES_MAX);
        answer.edns = Some(edns);
    }
    answer
}

/// The message as bytes, cut to the question with the truncation bit where it is too long.
fn encode(answer: Message, limit: usize) -> Vec<u8> {
    match answer.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        Ok(_) => answer.truncate().to_vec().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}
