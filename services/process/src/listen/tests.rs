//! What the limits do to real sockets.
