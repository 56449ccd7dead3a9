//! Growing memory that begins at a cache line, for what kernels load a line at a time.

use crate::plain::Plain;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A vector of numbers that begins at a cache line.
#[derive(Default)]
pub(crate) struct Lines<T = u8> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Lines<T> {
    /// `len` zeros; an error where there is no memory for them.
    #[cfg(any(test, not(all(feature = "mmap", unix))))]
    pub(crate) fn zeroed(len: usize) -> std::io::Result<Lines<T>> {
        let failed = std::io::ErrorKind::OutOfMemory;
        let bytes = len.checked_mul(size_of::<T>()).ok_or(failed)?;
        let count = bytes.div_ceil(size_of::<Line>()).max(1);
        let layout = std::alloc::Layout::array::<Line>(count).map_err(|_| failed)?;
        // SAFETY: the layout is not empty.
        let lines = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Line>();
        if lines.is_null() {
            return Err(failed.into());
        }
        // SAFETY: the global allocator gave memory for `count` lines by their layout, and zeros are lines.
        let lines = unsafe { Vec::from_raw_parts(lines, count, count) };
        Ok(Lines { lines, len, element: PhantomData })
    }

    /// Makes it `len` numbers. Those that were not there before are zeros, or what a longer vector left in their place.
    pub(crate) fn resize(&mut self, len: usize) {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        self.lines.resize(lines.max(self.lines.len()), Line([0; size_of::<Line>()]));
        self.len = len;
    }
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the lines are initialised, aligned to 64 bytes, and hold `len` elements, of which any bits are a value
        // (`Plain`).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({} numbers)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zeros_and_too_many_are_an_error() {
        let zeros = Lines::<f32>::zeroed(1000).unwrap();
        assert_eq!((zeros.len(), zeros.as_ptr() as usize % 64), (1000, 0));
        assert!(zeros.iter().all(|&zero| zero == 0.0));
        for too_many in [usize::MAX, usize::MAX / 8] {
            assert_eq!(Lines::<f32>::zeroed(too_many).unwrap_err().kind(), std::io::ErrorKind::OutOfMemory);
        }
    }

    #[test]
    fn numbers_begin_at_a_line_and_stay() {
        let mut numbers = Lines::<i8>::default();
        assert!(numbers.is_empty());
        for len in [1, 65, 64, 129, 5000] {
            numbers.resize(len);
            assert!(numbers.len() == len && numbers.as_ptr().addr().is_multiple_of(64));
            numbers[len - 1] = -5;
        }
        assert!([0, 63, 64, 128, 4999].into_iter().all(|at| numbers[at] == -5));
        assert_eq!(numbers.iter().filter(|number| **number == 0).count(), 4995);
        let mut wide = Lines::<f32>::default();
        wide.resize(17);
        wide[16] = 1.5;
        assert_eq!(wide.iter().sum::<f32>(), 1.5);
    }
}
