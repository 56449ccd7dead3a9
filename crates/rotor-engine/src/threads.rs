//! Work beside the thread pool's that is done at once where there are threads, and in turn where there are none.
//!
//! Whatever must also work without threads (the feature `threads` is off, or the system has none, as in WebAssembly) goes through
//! here instead of through `std::thread`, whose functions panic there.

use crate::error::FormatError;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Runs `other` on a thread of its own while `here` runs on this one; one after the other where there is no thread to be had.
pub(crate) fn both<A, B: Send>(here: impl FnOnce() -> A, other: impl FnOnce() -> B + Send) -> (A, B) {
    if cfg!(not(feature = "threads")) {
        return (here(), other());
    }
    // A thread that is refused drops what it was to run, so the closure stays where both can take it.
    let other = Mutex::new(Some(other));
    let run = || {
        let other = other.lock().unwrap_or_else(PoisonError::into_inner).take();
        other.map(|other| other())
    };
    let (first, second) = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, run);
        let first = here();
        let second = thread.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        (first, second)
    });
    let second = second.unwrap_or_else(|_| run());
    (first, second.expect("`run` is called once: by the thread, or here where there is none"))
}

/// Shares rows out among the cores; the results are in the order of the rows.
pub(crate) fn over_rows<T: Send>(
    rows: Range<usize>,
    work: impl Fn(Range<usize>) -> Result<T, FormatError> + Sync,
) -> Result<Vec<T>, FormatError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if cfg!(not(feature = "threads")) || threads == 1 {
        return work(rows).map(|all| vec![all]);
    }
    let share = rows.len().div_ceil(threads).max(1);
    let end = rows.end;
    std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> =
            rows.clone().step_by(share).map(|first| scope.spawn(move || work(first..end.min(first + share)))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_their_order() {
        for rows in [0..0, 3..4, 5..1005] {
            let parts = over_rows(rows.clone(), |part| Ok(part.collect::<Vec<_>>())).unwrap();
            assert_eq!(parts.concat(), rows.collect::<Vec<_>>());
        }
        let failed =
            over_rows(0..10, |part| if part.contains(&7) { Err(FormatError::missing("row 7")) } else { Ok(()) });
        assert_eq!(failed.unwrap_err().to_string(), "row 7 is missing");
    }

    #[test]
    fn both_results_come_back() {
        let mut here = 0;
        assert_eq!(both(|| here += 1, || "there"), ((), "there"));
        assert_eq!(here, 1);
    }

    #[test]
    #[should_panic = "over there"]
    fn a_panic_on_the_other_thread_is_carried_over() {
        both(|| (), || panic!("over there"));
    }
}
