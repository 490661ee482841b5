//! Why stored bytes can't be decoded.

/// Why stored bytes can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the data ends too early")]
    Truncated,
    /// The checksum differs: the bytes were changed, or a column is read with the times of another block.
    #[error("the checksum is wrong")]
    Checksum,
    /// Written by another version of golectra.
    #[error("format version {0} is not known")]
    Version(u8),
    /// A gauge is read as a counter or the other way round.
    #[error("the column has values of another kind")]
    Kind,
    /// The bytes contradict themselves.
    #[error("the data is malformed: {0}")]
    Malformed(&'static str),
}
