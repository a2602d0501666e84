//! A question by gRPC's health protocol: core says what is asked and what the answer means, and here is the connection.

use std::time::Duration;

use holdfast_core::grpc::{Answer, question};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{connect, within, words};

/// What is read at once, in bytes. An honest answer is a tenth of it.
const PIECE: usize = 2 << 10;

/// Asks the server at `address` (`host:port`) by gRPC's health protocol, without TLS, and wants `SERVING` of `service`; of
/// the server as a whole if it is empty.
///
/// # Errors
/// What was seen instead, for people.
pub async fn grpc(address: &str, service: &str, limit: Duration) -> Result<(), String> {
    let asked = within(limit, ask(address, service, limit)).await;
    asked.map_err(|why| format!("gRPC health check at {address}: {why}"))
}

async fn ask(address: &str, service: &str, limit: Duration) -> Result<(), String> {
    let mut stream = connect(address).await?;
    // Several small writes are sent as they come: an answer to a ping is waited for.
    let _ = stream.set_nodelay(true);
    stream.write_all(&question(address, service, limit)).await.map_err(|error| words(&error))?;
    let mut answer = Answer::new(service);
    let mut piece = vec![0; PIECE];
    loop {
        let read = match stream.read(&mut piece).await {
            Ok(0) => return Err(answer.cut_off()),
            Ok(read) => read,
            // The system's way of saying the same, where it had not read the question yet.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Err(answer.cut_off()),
            Err(error) => return Err(words(&error)),
        };
        let mut reply = Vec::new();
        if let Some(verdict) = answer.take(piece.get(..read).unwrap_or_default(), &mut reply) {
            return verdict;
        }
        // Who has ended the connection has said why: it is still to be read.
        let _ = stream.write_all(&reply).await;
    }
}
