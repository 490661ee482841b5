//! A stream with time limits for a peer that does not send or does not read, and with a limit for the memory of what it sends.
//!
//! hyper has one timer for both waiting for a request and reading its head, and none for writing. Here each has its own, so
//! that a client may keep its connection for the next report, but may neither send a head byte by byte nor leave an answer
//! unread. hyper's buffer for reading grows to the size of the largest head, in each connection; here long heads share a memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::time::{Sleep, sleep};

use super::connection::MIN_BUFFER_BYTES;
use super::heads::HeadShare;
use super::timer::Deadline;
use super::{ConnectionLimits, ConnectionMetrics, Cut};

/// The most that one read takes. hyper doubles its buffer after a read that fills it, up to the largest head, and keeps it while the connection is idle.
const READ_BYTES: usize = MIN_BUFFER_BYTES - 1;

/// The phase of a connection. The service sets it when a request begins and when an answer ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Phase(Arc<AtomicU8>);

/// Waiting for the rest of a request's head, or for the first request of a connection.
const HEAD: u8 = 0;
/// A request is being answered; its body and its handler have limits of their own.
const BUSY: u8 = 1;
/// The last answer is complete and no byte of another request has arrived.
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
    /// Limited to the bytes of one read.
    stream: Take<S>,
    phase: Phase,
    limits: ConnectionLimits,
    /// What hyper's buffer may take beyond its first size.
    share: HeadShare,
    /// What has been read of a request's head. The last read before it counts, since it may have had the beginning of the head.
    head_bytes: usize,
    last_read_bytes: usize,
    metrics: ConnectionMetrics,
    /// The phase that the read deadline was set for.
    reading: Option<u8>,
    deadline: Deadline,
    /// The deadline for the peer to take another byte; set while a write waits.
    writing: Option<Pin<Box<Sleep>>>,
    /// The deadline for the peer to take the whole answer or, with `slow_write_bytes`, that much of it; set at the first write that waits.
    slow: Option<Pin<Box<Sleep>>>,
    /// What the peer has taken since that deadline was set.
    taken_bytes: usize,
}

impl<S: AsyncRead> Guard<S> {
    pub(super) fn new(stream: S, phase: Phase, limits: ConnectionLimits, share: HeadShare, metrics: ConnectionMetrics) -> Self {
        Self {
            stream: stream.take(0),
            phase,
            limits,
            share,
            head_bytes: 0,
            last_read_bytes: 0,
            metrics,
            reading: None,
            deadline: Deadline::default(),
            writing: None,
            slow: None,
            taken_bytes: 0,
        }
    }
}

impl<S> Guard<S> {
    /// Whether there is memory for hyper's buffer, which has room for so many more bytes.
    fn has_memory(&mut self, room: usize) -> bool {
        let is_long = self.phase.get() == HEAD && self.head_bytes > MIN_BUFFER_BYTES;
        !is_long || self.share.cover(self.head_bytes + room)
    }

    /// No bytes are available: ready with an error once the phase's limit is exceeded.
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

    /// So many bytes were read.
    fn came(&mut self, bytes: usize) {
        match self.phase.get() {
            IDLE => {
                self.phase.head();
                self.slow = None;
                self.head_bytes = self.last_read_bytes + bytes;
            }
            HEAD => self.head_bytes += bytes,
            _ => {}
        }
        self.last_read_bytes = bytes;
    }

    /// Passes on the outcome of a write; an error when the peer took no byte for too long, or the whole answer takes too long.
    fn wait_to_write(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = &outcome {
            self.writing = None;
            self.took(*result.as_ref().unwrap_or(&0));
            // hyper may report an answer as complete while its last bytes are still being written: the idle time begins with
            // the last write.
            if self.reading == Some(IDLE) {
                self.deadline.set(self.limits.idle);
            }
            return outcome;
        }
        let ConnectionLimits { write_stall, slow_write, .. } = self.limits;
        let stalled = self.writing.get_or_insert_with(|| Box::pin(sleep(write_stall))).as_mut().poll(cx);
        let slow = self.slow.get_or_insert_with(|| {
            self.taken_bytes = 0;
            Box::pin(sleep(slow_write))
        });
        let slow = slow.as_mut().poll(cx);
        if stalled.is_pending() {
            ready!(slow);
        }
        Poll::Ready(Err(self.cut(Cut::Write)))
    }

    /// The peer took this many more bytes.
    fn took(&mut self, bytes: usize) {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
        if self.limits.slow_write_bytes.is_some_and(|enough| self.taken_bytes >= enough) {
            self.slow = None;
        }
    }

    fn cut(&mut self, cut: Cut) -> io::Error {
        self.metrics.cut(cut);
        io::Error::other(cut.as_str())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.has_memory(buffer.remaining()) {
            return Poll::Ready(Err(self.cut(Cut::Memory)));
        }
        let before = buffer.filled().len();
        self.stream.set_limit(READ_BYTES as u64);
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                let bytes = buffer.filled().len() - before;
                if bytes > 0 {
                    self.came(bytes);
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.wait_to_read(cx).map(Err),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(self.stream.get_mut()).poll_write(cx, buffer);
        self.wait_to_write(cx, outcome)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(self.stream.get_mut()).poll_write_vectored(cx, buffers);
        self.wait_to_write(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    // A TCP stream has no buffer to flush, so neither of these two waits for the peer.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}
