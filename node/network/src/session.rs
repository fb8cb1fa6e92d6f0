//! One session: the greeting on a new stream, then frames both ways until one side ends it. Runs in
//! a task of its own; knows nothing of connections and dials.
//!
//! Wire format, all numbers big-endian. The side with the lower key opens the stream and sends 16
//! bytes: its instance number (u64, random per run) and the instance of the peer with which it
//! believes to have a session on another connection (0 for none). The other side answers 9 bytes:
//! 1 to open the session here (any older one is over) or 0 to keep the older one, and its own
//! instance number. Then frames: u32 length, that many bytes. A length of 0 is a sign of life.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use futures::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    io::{BufReader, ReadHalf, WriteHalf},
};
use libp2p::{Stream, core::upgrade::NegotiationError, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    Event, PeerKey, limits,
    shared::{Session, Shared, Stop, add},
};

/// Reports to the swarm task.
#[derive(Debug)]
pub(crate) enum Note {
    /// A greeting has been read.
    Greeted {
        peer: PeerKey,
        connection: ConnectionId,
        stream: Box<Stream>,
        greeting: Greeting,
    },
    /// A greeting did not come about.
    NotGreeted {
        peer: PeerKey,
        connection: ConnectionId,
        error: GreetingError,
    },
    /// `Connected` has been handed to the reader of events.
    Opened { peer: PeerKey },
    /// The session is over; `Disconnected` follows if `Connected` was told.
    Ended {
        peer: PeerKey,
        session: u64,
        connection: ConnectionId,
        reason: String,
    },
}

/// What the other side said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// To the accepting side: the opener's instance, and ours as it knows it.
    Hello { instance: u64, with: u64 },
    /// To the opening side.
    Reply { open: bool, instance: u64 },
}

/// Why a greeting failed.
#[derive(Debug)]
pub(crate) enum GreetingError {
    /// The peer does not know our protocol.
    Stranger,
    Failed(String),
}

impl From<io::Error> for GreetingError {
    fn from(error: io::Error) -> Self {
        let stranger = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<NegotiationError>())
            .is_some_and(|inner| matches!(inner, NegotiationError::Failed));
        if stranger {
            Self::Stranger
        } else {
            Self::Failed(format!("no greeting: {error}"))
        }
    }
}

/// Greets as the side that opened the stream.
pub(crate) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    instance: u64,
    with: u64,
) -> Result<Greeting, GreetingError> {
    let work = async {
        let mut hello = [0; 16];
        hello[..8].copy_from_slice(&instance.to_be_bytes());
        hello[8..].copy_from_slice(&with.to_be_bytes());
        stream.write_all(&hello).await?;
        stream.flush().await?;
        let mut open = [0; 1];
        stream.read_exact(&mut open).await?;
        let instance = read_u64(stream).await?;
        Ok(Greeting::Reply {
            open: open[0] == 1,
            instance,
        })
    };
    time::timeout(limits::GREETING_WITHIN, work)
        .await
        .unwrap_or_else(|_| Err(GreetingError::Failed("no greeting in time".to_owned())))
}

/// Reads the greeting of the side that opened the stream.
pub(crate) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Result<Greeting, GreetingError> {
    let work = async {
        let instance = read_u64(stream).await?;
        let with = read_u64(stream).await?;
        Ok(Greeting::Hello { instance, with })
    };
    time::timeout(limits::GREETING_WITHIN, work)
        .await
        .unwrap_or_else(|_| Err(GreetingError::Failed("no greeting in time".to_owned())))
}

/// Answers a greeting.
pub(crate) async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    open: bool,
    instance: u64,
) -> io::Result<()> {
    let mut reply = [0; 9];
    reply[0] = u8::from(open);
    reply[1..].copy_from_slice(&instance.to_be_bytes());
    let work = async {
        stream.write_all(&reply).await?;
        stream.flush().await
    };
    time::timeout(limits::GREETING_WITHIN, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_u64(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).await?;
    Ok(u64::from_be_bytes(bytes))
}

/// What a session task works with.
pub(crate) struct Work {
    pub(crate) stream: Stream,
    pub(crate) session: Arc<Session>,
    pub(crate) queue: mpsc::Receiver<Vec<u8>>,
    /// Whether the greeting must be answered first.
    pub(crate) accepting: bool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) notes: mpsc::Sender<Note>,
}

/// Runs a session to its end.
pub(crate) async fn run(work: Work) {
    let Work {
        mut stream,
        session,
        queue,
        accepting,
        shared,
        events,
        notes,
    } = work;
    let mut stop = session.stop.subscribe();
    let (peer, id) = (session.peer, session.id);
    let ended = |reason: String| Note::Ended {
        peer,
        session: id,
        connection: session.connection,
        reason,
    };

    let start = async {
        if accepting {
            answer(&mut stream, true, shared.instance)
                .await
                .map_err(|error| format!("the greeting could not be answered: {error}"))?;
        }
        // Waits until `Disconnected` of the session before has been told.
        let order = Arc::clone(&session.order).lock_owned().await;
        // The place is taken before anything is said: from `announced` on, `Connected` is certain
        // to be told.
        let place = events.clone().reserve_owned().await;
        Ok::<_, String>((
            order,
            place.map_err(|_| "nobody reads the events".to_owned())?,
        ))
    };
    let begun = tokio::select! {
        begun = start => begun,
        reason = stopped(&mut stop) => Err(reason),
    };
    let order = match begun {
        Ok((order, place)) => {
            session.announced.store(true, Ordering::SeqCst);
            place.send(Event::Connected {
                peer,
                address: session.address.clone(),
                session: id,
            });
            order
        }
        Err(reason) => {
            session.stop(false, &reason);
            shared.leave(&session);
            let _ = notes.send(ended(reason)).await;
            return;
        }
    };
    add(&shared.tally.sessions_opened, 1);
    // The swarm task always takes notes, so this does not wait for long; if it is gone, so are we.
    let _ = notes.send(Note::Opened { peer }).await;

    let (reader, writer) = stream.split();
    let reason = {
        let read = read(reader, &session, &shared, &events);
        let write = write(writer, queue, &session, &shared);
        exchange(read, write, &mut stop).await
    };
    session.stop(false, &reason);
    let _ = notes.send(ended(reason.clone())).await;
    let _ = events
        .send(Event::Disconnected {
            peer,
            session: id,
            reason,
        })
        .await;
    shared.leave(&session);
    drop(order);
}

/// Waits until the session is told to stop.
async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> String {
    match stop.wait_for(Option::is_some).await {
        Ok(stop) => stop
            .as_ref()
            .map(|stop| stop.reason.clone())
            .unwrap_or_default(),
        Err(_) => "the network has stopped".to_owned(),
    }
}

/// Drives both directions until the session is over, and tells why.
async fn exchange(
    read: impl Future<Output = String>,
    write: impl Future<Output = Result<(), String>>,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> String {
    tokio::pin!(read, write);
    let mut written = false;
    let mut leaving: Option<(String, Instant)> = None;
    loop {
        let until = leaving.as_ref().map(|(_, until)| *until);
        tokio::select! {
            reason = &mut read => {
                return leaving.map_or(reason, |(reason, _)| reason);
            }
            end = &mut write, if !written => match end {
                // The writer ends well only after a graceful stop: now the peer's end is awaited,
                // so that closing the connection does not overtake our last frames.
                Ok(()) => written = true,
                Err(reason) => return leaving.map_or(reason, |(reason, _)| reason),
            },
            changed = stop.changed() => {
                let order = stop.borrow_and_update().clone();
                match order {
                    Some(order) if order.graceful && changed.is_ok() => {
                        let until = Instant::now() + limits::GOODBYE_WITHIN;
                        leaving = Some((order.reason, until));
                    }
                    Some(order) => return order.reason,
                    None if changed.is_err() => return "the network has stopped".to_owned(),
                    None => {}
                }
            }
            () = sleep_until(until) => {
                return leaving.map_or_else(String::new, |(reason, _)| reason);
            }
        }
    }
}

/// Sleeps until then, or for ever.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Reads frames and hands them on, those together that arrived together. Waits when the reader of events
/// is slow: then the transport's windows fill and the peer waits. Returns why it ended.
async fn read(
    half: ReadHalf<Stream>,
    session: &Session,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
) -> String {
    let mut reader = BufReader::with_capacity(limits::READ_BUFFER, half);
    loop {
        let frame = match read_frame(&mut reader, shared.max_frame).await {
            Ok(Some(frame)) => frame,
            Ok(None) => continue,
            Err(reason) => return reason,
        };
        let mut frames = vec![frame];
        while let Some(frame) = whole_frame(reader.buffer(), shared.max_frame) {
            let (taken, frame) = (frame.len() + 4, frame.to_vec());
            reader.consume_unpin(taken);
            if !frame.is_empty() {
                frames.push(frame);
            }
        }
        let length = frames.iter().map(Vec::len).sum::<usize>() as u64;
        session.bytes_in.fetch_add(length, Ordering::Relaxed);
        session.active_ms.store(shared.now_ms(), Ordering::Relaxed);
        add(&shared.tally.bytes_in, length);
        add(&shared.tally.frames_in, frames.len() as u64);
        let event = Event::Frames {
            peer: session.peer,
            session: session.id,
            frames,
        };
        if events.send(event).await.is_err() {
            return "nobody reads the events".to_owned();
        }
    }
}

/// The first frame in bytes that were read already, if all of it is there.
fn whole_frame(bytes: &[u8], max_frame: usize) -> Option<&[u8]> {
    let (head, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*head)).ok()?;
    // One that is too long is refused where frames are read.
    rest.get(..length).filter(|_| length <= max_frame)
}

/// Reads one frame; `None` is a sign of life. The length is checked before anything is allocated.
async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    max_frame: usize,
) -> Result<Option<Vec<u8>>, String> {
    let mut head = [0; 4];
    let first = time::timeout(limits::SILENCE, reader.read(&mut head))
        .await
        .map_err(|_| format!("silent for {} s", limits::SILENCE.as_secs()))?
        .map_err(|error| format!("the connection broke: {error}"))?;
    if first == 0 {
        return Err("closed by the peer".to_owned());
    }
    let rest = async {
        if let Some(rest) = head.get_mut(first..) {
            reader.read_exact(rest).await?;
        }
        let length = u32::from_be_bytes(head);
        match usize::try_from(length) {
            Ok(0) => Ok(Ok(None)),
            Ok(length) if length <= max_frame => {
                let mut frame = vec![0; length];
                reader.read_exact(&mut frame).await?;
                Ok(Ok(Some(frame)))
            }
            _ => Ok(Err(format!(
                "the peer announced a frame of {length} bytes, {max_frame} are allowed"
            ))),
        }
    };
    time::timeout(limits::FRAME_WITHIN, rest)
        .await
        .map_err(|_| "a frame was not completed in time".to_owned())?
        .map_err(|error: io::Error| format!("the connection broke inside a frame: {error}"))?
}

/// Writes queued frames, many per write, and flushes when nothing more is ready. Ends well only
/// after a graceful stop, with everything written.
async fn write(
    mut half: WriteHalf<Stream>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    session: &Session,
    shared: &Shared,
) -> Result<(), String> {
    let mut stop = session.stop.subscribe();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        buffer.clear();
        let mut leaving = stop.borrow_and_update().is_some();
        if !leaving {
            tokio::select! {
                frame = queue.recv() => match frame {
                    Some(frame) => put(&mut buffer, &frame, session, shared),
                    None => leaving = true,
                },
                _ = stop.changed() => leaving = true,
                // A new buffer, so that an idle session does not hold the memory of a busy one.
                () = time::sleep(limits::SIGN_OF_LIFE) => buffer = vec![0; 4],
            }
        }
        while buffer.len() < limits::COALESCE_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            put(&mut buffer, &frame, session, shared);
        }
        let empty = queue.is_empty();
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            // Per piece, not per buffer: a slow line is not a dead one.
            let taken = timely(half.write(rest)).await?;
            rest = match rest.get(taken..) {
                Some(rest) if taken > 0 => rest,
                _ => return Err("the connection takes no more bytes".to_owned()),
            };
        }
        if empty {
            timely(half.flush()).await?;
            if leaving {
                return timely(half.close()).await;
            }
        }
    }
}

/// Appends a frame with its length.
fn put(buffer: &mut Vec<u8>, frame: &[u8], session: &Session, shared: &Shared) {
    let length = frame.len();
    // Frames above `max_frame`, which is at most 16 MiB, are not queued.
    buffer.extend_from_slice(&u32::try_from(length).unwrap_or_default().to_be_bytes());
    buffer.extend_from_slice(frame);
    session.queued.fetch_sub(length, Ordering::SeqCst);
    session
        .bytes_out
        .fetch_add(length as u64, Ordering::Relaxed);
    session.active_ms.store(shared.now_ms(), Ordering::Relaxed);
    add(&shared.tally.bytes_out, length as u64);
    add(&shared.tally.frames_out, 1);
}

async fn timely<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    time::timeout(limits::WRITE_WITHIN, work)
        .await
        .map_err(|_| {
            format!(
                "the peer took nothing for {} s",
                limits::WRITE_WITHIN.as_secs()
            )
        })?
        .map_err(|error| format!("the connection broke: {error}"))
}
