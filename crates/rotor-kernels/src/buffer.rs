//! Large zeroed memory: packed weights, the KV cache.
//!
//! Both are streamed once per token, so they want huge pages (one TLB entry per 2 MiB); and the KV cache is reserved for the
//! whole context and must cost nothing until it is used. Anonymous mappings give both. Without the feature `mmap`, and on
//! systems other than Unix, memory comes from the allocator: on Windows its large pieces cost nothing until they are used either,
//! and WebAssembly has nothing else.

#[cfg(not(all(feature = "mmap", unix)))]
use crate::lines::Lines as Memory;
use crate::plain::Plain;
use crate::pool::Pool;
#[cfg(all(feature = "mmap", unix))]
use memmap2::MmapMut as Memory;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Zeroed memory for `len` numbers that begins at a page or, without a mapping, at a cache line.
pub struct Buffer<T> {
    memory: Memory,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub fn zeroed(len: usize) -> std::io::Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Buffer { memory: zeroed_bytes(bytes.max(1))?, len, element: PhantomData })
    }
}

impl Buffer<u8> {
    /// `len` zeros whose pages were written, for trials: others are not read from memory.
    ///
    /// # Errors
    /// Where the system refuses the memory.
    pub(crate) fn written(len: usize, pool: &Pool) -> std::io::Result<Buffer<u8>> {
        let mut bytes = Buffer::zeroed(len)?;
        pool.for_each_chunk(&mut bytes, 1 << 20, |_, bytes| bytes.fill(0));
        Ok(bytes)
    }
}

#[cfg(all(feature = "mmap", unix))]
fn zeroed_bytes(bytes: usize) -> std::io::Result<Memory> {
    let map = Memory::map_anon(bytes)?;
    // Advice: a system without huge pages is slower, not wrong.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

#[cfg(not(all(feature = "mmap", unix)))]
fn zeroed_bytes(bytes: usize) -> std::io::Result<Memory> {
    Memory::zeroed(bytes)
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the memory begins at a page or a cache line and holds at least `len` elements, of which any bits are a value
        // (`Plain`).
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow of `self` is unique.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} x {})", self.len, std::any::type_name::<T>())
    }
}
