//! A stream that gives up on a peer that keeps it waiting.
//!
//! hyper has one timer for both waiting for a request and reading its head, and none for writing. Here each has its own,
//! so that a client may keep a connection for its next report but not trickle a head or leave an answer untaken.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::timer::Deadline;
use super::{ConnectionLimits, ConnectionStats, Cut};

/// What the connection is doing; told by the service, which sees requests begin and answers end.
#[derive(Clone, Debug, Default)]
pub(super) struct Phase(Arc<AtomicU8>);

/// A head is awaited: some of it has come, or the connection is fresh.
const HEAD: u8 = 0;
/// A request is being answered; its body and its handler have limits of their own.
const BUSY: u8 = 1;
/// The last answer is given and no byte of another request has come.
const IDLE: u8 = 2;

impl Phase {
    pub(super) fn busy(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    pub(super) fn idle(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    fn head(&self) {
        self.0.store(HEAD, Ordering::Relaxed);
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) struct Guard<S> {
    stream: S,
    phase: Phase,
    limits: ConnectionLimits,
    stats: ConnectionStats,
    /// The phase whose deadline for reading is set.
    reading: Option<u8>,
    deadline: Deadline,
    /// The deadline for the peer to take a byte, while it takes none.
    writing: Option<Pin<Box<Sleep>>>,
    /// The deadline for the peer to take all of the answer, once it has kept it waiting.
    slow: Option<Pin<Box<Sleep>>>,
}

impl<S> Guard<S> {
    pub(super) fn new(stream: S, phase: Phase, limits: ConnectionLimits, stats: ConnectionStats) -> Self {
        Self { stream, phase, limits, stats, reading: None, deadline: Deadline::default(), writing: None, slow: None }
    }

    /// Nothing came: ready with an error when it is too late.
    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.phase.get();
        let (limit, cut) = match phase {
            HEAD => (self.limits.headers, Cut::Headers),
            IDLE => (self.limits.idle, Cut::Idle),
            _ => {
                self.reading = None;
                return Poll::Pending;
            }
        };
        if self.reading != Some(phase) {
            self.reading = Some(phase);
            self.deadline.set(limit);
        }
        ready!(self.deadline.poll(cx));
        Poll::Ready(self.cut(cut))
    }

    fn came(&mut self) {
        if self.phase.get() == IDLE {
            self.phase.head();
            self.slow = None;
        }
    }

    /// The outcome of a write, or an error when the peer has taken nothing for too long, or too little.
    fn wait_to_write<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing = None;
            // hyper may count an answer as given while its last bytes still leave: the wait for the next request has not begun.
            if self.reading == Some(IDLE) {
                self.deadline.set(self.limits.idle);
            }
            return outcome;
        }
        let ConnectionLimits { write_stall, slow_write, .. } = self.limits;
        let stalled = self.writing.get_or_insert_with(|| Box::pin(sleep(write_stall))).as_mut().poll(cx);
        let slow = self.slow.get_or_insert_with(|| Box::pin(sleep(slow_write))).as_mut().poll(cx);
        if stalled.is_pending() {
            ready!(slow);
        }
        Poll::Ready(Err(self.cut(Cut::Write)))
    }

    fn cut(&mut self, cut: Cut) -> io::Error {
        self.stats.cut(cut);
        io::Error::new(io::ErrorKind::TimedOut, cut.as_str())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.came();
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.wait_to_read(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.wait_to_write(cx, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.wait_to_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TCP stream buffers nothing, so these two do not wait for the peer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
