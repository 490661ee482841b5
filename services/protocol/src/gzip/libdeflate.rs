//! Bindings to the C library libdeflate, which works on complete bodies and so needs no window and no state between pieces.
#![expect(unsafe_code, reason = "the library is called through C; every pointer here comes from a slice that outlives the call")]

use std::cell::RefCell;
use std::ptr::NonNull;

use libdeflate_sys as sys;

/// The result of unpacking a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inflated {
    /// One member was unpacked.
    Member {
        /// Its length in the input, in bytes.
        packed: usize,
        /// Its unpacked length, in bytes.
        unpacked: usize,
    },
    /// It does not fit in the output.
    Full,
    /// It is not gzip, or it is damaged or truncated.
    Invalid,
}

/// Unpacks the gzip member at the start of `packed`, and checks its checksum and length.
pub(super) fn inflate(packed: &[u8], out: &mut [u8]) -> Inflated {
    thread_local! {
        // One decompressor for each thread: it is 11 KiB and initializes its tables, which would cost more than unpacking a
        // small body.
        static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.gzip_member(packed, out))
}

/// Packs a body as one gzip member at the fastest level.
pub(super) fn deflate(body: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::fastest();
    let mut out = vec![0; compressor.bound(body.len())];
    let len = compressor.gzip(body, &mut out);
    out.truncate(len);
    out
}

/// The CRC-32 of gzip.
pub(super) fn crc32(body: &[u8]) -> u32 {
    // SAFETY: the pointer and the length are of one slice.
    unsafe { sys::libdeflate_crc32(0, body.as_ptr().cast(), body.len()) }
}

struct Decompressor(NonNull<sys::libdeflate_decompressor>);

impl Decompressor {
    fn new() -> Self {
        // SAFETY: it has no preconditions; null means out of memory, which ends the process as usual in Rust.
        Self(NonNull::new(unsafe { sys::libdeflate_alloc_decompressor() }).expect("memory for a decompressor"))
    }

    fn gzip_member(&mut self, packed: &[u8], out: &mut [u8]) -> Inflated {
        let (mut read, mut written) = (0, 0);
        // SAFETY: the decompressor is alive and borrowed by this call alone; each pointer is valid for its length, and the two
        // results are separate variables.
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
        // SAFETY: level 1 exists; null means out of memory.
        Self(NonNull::new(unsafe { sys::libdeflate_alloc_compressor(1) }).expect("memory for a compressor"))
    }

    /// The largest packed size of a body of this length.
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
