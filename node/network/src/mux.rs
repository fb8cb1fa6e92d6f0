//! Yamux with a bound on the bytes that a connection may hold unread. libp2p's own wrapper does not
//! let that be set: a peer that delays its answers to Yamux pings can make the window of a stream
//! grow to 1 GiB, and fill it when the reader pauses.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use tokio::time::Sleep;
use yamux::{ConnectionError, Mode};

use crate::limits;

/// A Yamux connection. Incoming streams that come while nobody asks for one are kept, because
/// asking for a stream is Yamux' only way to make progress.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: yamux::Connection<C>,
    waiting: VecDeque<yamux::Stream>,
    waker: Option<Waker>,
    /// Runs while the connection is being closed.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(socket: C, mode: Mode) -> Self {
        let mut settings = yamux::Config::default();
        settings.set_max_num_streams(limits::STREAMS as usize);
        settings.set_max_connection_receive_window(Some(limits::YAMUX_WINDOW));
        let connection = yamux::Connection::new(socket, settings, mode);
        Self {
            connection,
            waiting: VecDeque::new(),
            waker: None,
            closing: None,
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, ConnectionError>> {
        self.connection
            .poll_next_inbound(cx)
            .map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.next(cx);
        if next.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let closed = self.connection.poll_close(cx);
        if closed.is_ready() {
            return closed;
        }
        // A peer that takes no bytes would hold the connection, and its place, for ever.
        let limit = self
            .closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::CLOSE_WITHIN)));
        limit.as_mut().poll(cx).map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        match self.next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(stream)) => {
                // A stream beyond the bound is dropped, which resets it.
                if self.waiting.len() < limits::NEGOTIATING_STREAMS {
                    self.waiting.push_back(stream);
                    if let Some(waker) = self.waker.take() {
                        waker.wake();
                    }
                }
                // Comes back soon, after others had their turn.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// The upgrade that makes a [`Muxer`] of an encrypted socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upgrade;

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Upgrade {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(socket, Mode::Client)))
    }
}
