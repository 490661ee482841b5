//! The C library behind `gzip`, which works on whole bodies: without the window and the state that one needs which takes them piece by piece.
#![expect(unsafe_code, reason = "the library is called through C; every pointer here comes from a slice that outlives the call")]

use std::cell::RefCell;
use std::ptr::NonNull;

use libdeflate_sys as sys;

/// What became of a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inflated {
    /// So many bytes of input were one member, which is so many bytes unpacked.
    Member {
        /// Input bytes.
        packed: usize,
        /// Output bytes.
        unpacked: usize,
    },
    /// It is more than there is room for.
    Full,
    /// It is no gzip, damaged or cut off.
    Invalid,
}

/// Unpacks the gzip member at the start of `packed`; its checksum and its length are checked.
pub(super) fn inflate(packed: &[u8], out: &mut [u8]) -> Inflated {
    thread_local! {
        // It is 11 KiB whose tables are built anew each time; making one a body would cost more than unpacking a small body.
        static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.gzip_member(packed, out))
}

/// Packs a body as one gzip member, as fast as it goes.
pub(super) fn deflate(body: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::fastest();
    let mut out = vec![0; compressor.bound(body.len())];
    let len = compressor.gzip(body, &mut out);
    out.truncate(len);
    out
}

/// The CRC-32 of gzip.
pub(super) fn crc32(body: &[u8]) -> u32 {
    // SAFETY: the pointer and the length are one slice's.
    unsafe { sys::libdeflate_crc32(0, body.as_ptr().cast(), body.len()) }
}

struct Decompressor(NonNull<sys::libdeflate_decompressor>);

impl Decompressor {
    fn new() -> Self {
        // SAFETY: it has no conditions; null says that there is no memory, which is the end here as everywhere in Rust.
        Self(NonNull::new(unsafe { sys::libdeflate_alloc_decompressor() }).expect("memory for a decompressor"))
    }

    fn gzip_member(&mut self, packed: &[u8], out: &mut [u8]) -> Inflated {
        let (mut read, mut written) = (0, 0);
        // SAFETY: the decompressor is alive and borrowed by this call alone; each pointer is valid for its length, and the
        // two results are places of their own.
        let result = unsafe {
            sys::libdeflate_gzip_decompress_ex(
                self.0.as_ptr(),
                packed.as_ptr().cast(),
                packed.len(),
                out.as_mut_ptr().cast(),
                out.len(),
                &raw mut read,
                &raw mut written,
            )
        };
        match result {
            sys::libdeflate_result_LIBDEFLATE_SUCCESS => Inflated::Member { packed: read, unpacked: written },
            sys::libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => Inflated::Full,
            _ => Inflated::Invalid,
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: it was made by the library and is not used again.
        unsafe { sys::libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

struct Compressor(NonNull<sys::libdeflate_compressor>);

impl Compressor {
    fn fastest() -> Self {
        // SAFETY: level 1 exists; null says that there is no memory.
        Self(NonNull::new(unsafe { sys::libdeflate_alloc_compressor(1) }).expect("memory for a compressor"))
    }

    /// The most bytes that a body of this length packs to.
    fn bound(&mut self, len: usize) -> usize {
        // SAFETY: the compressor is alive and borrowed by this call alone.
        unsafe { sys::libdeflate_gzip_compress_bound(self.0.as_ptr(), len) }
    }

    fn gzip(&mut self, body: &[u8], out: &mut [u8]) -> usize {
        // SAFETY: the compressor is alive and borrowed by this call alone; each pointer is valid for its length.
        let len =
            unsafe { sys::libdeflate_gzip_compress(self.0.as_ptr(), body.as_ptr().cast(), body.len(), out.as_mut_ptr().cast(), out.len()) };
        assert!(len > 0, "the bound of the output holds");
        len
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        // SAFETY: it was made by the library and is not used again.
        unsafe { sys::libdeflate_free_compressor(self.0.as_ptr()) }
    }
}
