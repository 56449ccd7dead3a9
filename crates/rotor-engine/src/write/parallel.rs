//! Fills a tensor's strips on several threads and writes them in order.

use super::TensorFile;
use crate::error::FormatError;
use std::num::NonZeroUsize;
use std::thread;

/// Bytes of strips in memory at a time.
const IN_FLIGHT: usize = 4 << 20;

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
    pub fn write(&mut self, file: &mut TensorFile, bytes: &[u8]) -> Result<(), FormatError> {
        file.write(bytes)?;
        self.done += bytes.len() as u64;
        (self.tell)(self.done, self.total);
        Ok(())
    }
}

/// Makes strip `.0`; called on several threads at once.
pub type FillStrip<'a> = dyn Fn(usize, &mut [u8]) -> Result<(), FormatError> + Sync + 'a;

/// Writes `strips` strips of `strip_bytes` bytes each.
///
/// # Errors
///
/// The first of `fill`'s by thread, and those of [`TensorFile::write`].
pub fn write_strips(
    file: &mut TensorFile,
    progress: &mut Progress<'_>,
    strips: usize,
    strip_bytes: usize,
    fill: &FillStrip<'_>,
) -> Result<(), FormatError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let per_round = (IN_FLIGHT / strip_bytes.max(1)).clamp(1, strips.max(1));
    let per_thread = per_round.div_ceil(threads);
    let mut buffer = vec![0; per_round * strip_bytes];
    for first in (0..strips).step_by(per_round) {
        let round = &mut buffer[..per_round.min(strips - first) * strip_bytes];
        thread::scope(|scope| {
            let workers: Vec<_> = round
                .chunks_mut(per_thread * strip_bytes)
                .enumerate()
                .map(|(thread, part)| {
                    scope.spawn(move || {
                        let mut strips = part.chunks_exact_mut(strip_bytes).enumerate();
                        strips.try_for_each(|(strip, out)| fill(first + thread * per_thread + strip, out))
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        progress.write(file, round)?;
    }
    Ok(())
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
