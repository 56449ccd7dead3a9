//! Fills a tensor's strips on several threads and writes them in order.

use super::TensorFile;
use crate::error::FormatError;
use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Bytes of strips that a thread makes at a time: few enough to stay in its cache until they are written.
const PIECE: usize = 1 << 19;

/// How far a file is, told as it grows: bytes of tensor data done, and in all.
pub struct Progress<'a> {
    done: u64,
    total: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl<'a> Progress<'a> {
    /// Nothing of `total` bytes done yet.
    pub fn new(total: u64, tell: &'a mut dyn FnMut(u64, u64)) -> Self {
        tell(0, total);
        Self { done: 0, total, tell }
    }

    /// Writes to the file and tells.
    ///
    /// # Errors
    ///
    /// Those of [`TensorFile::write`].
    pub fn write(&mut self, file: &mut TensorFile, bytes: impl Into<Vec<u8>>) -> Result<(), FormatError> {
        let bytes = bytes.into();
        self.done += bytes.len() as u64;
        file.write(bytes)?;
        (self.tell)(self.done, self.total);
        Ok(())
    }
}

/// Makes strip `.0`; called on several threads at once.
pub type FillStrip<'a> = dyn Fn(usize, &mut [u8]) -> Result<(), FormatError> + Sync + 'a;

/// Writes `strips` strips of `strip_bytes` bytes each. Some are made while others are written.
///
/// # Errors
///
/// The first of `fill`'s in the order of the strips, and those of [`TensorFile::write`].
pub fn write_strips(
    file: &mut TensorFile,
    progress: &mut Progress<'_>,
    strips: usize,
    strip_bytes: usize,
    fill: &FillStrip<'_>,
) -> Result<(), FormatError> {
    let per_piece = (PIECE / strip_bytes.max(1)).clamp(1, strips.max(1));
    let pieces = strips.div_ceil(per_piece);
    let make = |piece: usize| {
        let first = piece * per_piece;
        let mut bytes = vec![0; per_piece.min(strips - first) * strip_bytes];
        let mut strips = bytes.chunks_exact_mut(strip_bytes).enumerate();
        strips.try_for_each(|(strip, out)| fill(first + strip, out)).map(|()| bytes)
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(pieces);
    if threads == 1 {
        return (0..pieces).try_for_each(|piece| progress.write(file, make(piece)?));
    }
    thread::scope(|scope| {
        // Each thread makes every `threads`-th piece, so that one from each in turn is all of them in order.
        let make = &make;
        let mut makers: Vec<_> = (0..threads)
            .map(|thread| {
                let (sender, receiver) = sync_channel(1);
                let maker = scope.spawn(move || {
                    // Nobody receives any more after an error, of this thread or another.
                    (thread..pieces).step_by(threads).try_for_each(|piece| sender.send(make(piece)))
                });
                (receiver, maker)
            })
            .collect();
        for piece in 0..pieces {
            let thread = piece % threads;
            match makers[thread].0.recv() {
                Ok(made) => progress.write(file, made?)?,
                Err(_) => match makers.swap_remove(thread).1.join() {
                    Ok(_) => unreachable!("a thread ended before its last piece"),
                    Err(panic) => std::panic::resume_unwind(panic),
                },
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::gguf::GgufHeader;

    #[test]
    fn strips_come_out_in_order_whatever_thread_filled_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let (strips, strip_bytes) = (9, 3 << 20); // Several rounds, and threads with unequal shares.
        let mut header = GgufHeader::new();
        header.tensor("a", &[strips * strip_bytes], 24, (strips * strip_bytes) as u64);
        let mut file = header.create(&path).unwrap();
        let mut told = Vec::new();
        let mut tell = |done, total| told.push((done, total));
        let mut progress = Progress::new(file.total(), &mut tell);
        write_strips(&mut file, &mut progress, strips, strip_bytes, &|strip, out| {
            out.fill(strip as u8);
            Ok(())
        })
        .unwrap();
        file.finish().unwrap();
        let written = std::fs::read(&path).unwrap();
        let data = &written[written.len() - strips * strip_bytes..];
        assert!(data.chunks_exact(strip_bytes).enumerate().all(|(strip, part)| part.iter().all(|&b| b == strip as u8)));
        let total = (strips * strip_bytes) as u64;
        assert_eq!((told[0], told[told.len() - 1]), ((0, total), (total, total)));
    }

    #[test]
    fn an_error_in_one_strip_stops_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut header = GgufHeader::new();
        header.tensor("a", &[100], 24, 100);
        let mut file = header.create(&path).unwrap();
        let mut tell = |_, _| {};
        let mut progress = Progress::new(100, &mut tell);
        let result = write_strips(&mut file, &mut progress, 100, 1, &|strip, _| {
            if strip == 77 { Err(FormatError::missing("row 77")) } else { Ok(()) }
        });
        assert_eq!(result.unwrap_err().to_string(), "row 77 is missing");
    }
}
