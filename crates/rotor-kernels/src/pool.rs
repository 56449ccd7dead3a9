//! The thread pool kernels run on.
//!
//! Decoding one token is some two hundred short kernels, each of them 20 to 500 microseconds: a hand-off that costs ten
//! would be felt. So the workers persist, spin for a moment between kernels, and only then park. The caller always works
//! too, and a worker that arrives late joins nothing: the caller waits only for workers that have begun, so a machine with
//! fewer free cores than threads (or a forked child, which has no workers) runs slower and never stalls.
//!
//! Tasks are claimed one by one from a shared counter. Which worker runs a task never affects its result, because each
//! task owns its outputs; that is why results are equal for every thread count.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Iterations of the wait loop before a worker parks: around 50 microseconds, longer than the gap between two kernels.
const SPINS: u32 = 2_000;

/// A job is the closure `f(worker, task)` with its lifetime erased; see [`Pool::run`] for why that holds.
type Job = *const (dyn Fn(usize, usize) + Sync);

/// Keeps a value on cache lines of its own, so that the task counter does not bounce with the state word.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared {
    /// Bits 63..32: number of jobs published. Bit 31: the current job accepts workers. Bits 30..0: workers inside it.
    state: Padded<AtomicU64>,
    next: Padded<AtomicUsize>,
    job: UnsafeCell<Option<(Job, usize)>>,
    parked: Vec<AtomicBool>,
    /// Whether `panic` holds something: a job that went well takes no lock.
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spins: u32,
}

// SAFETY: `job` is written only by the caller that holds `Pool::caller` while the state's open bit is clear and no worker
// is inside; workers read it only after entering through the open bit (an acquire that pairs with the publishing release).
unsafe impl Sync for Shared {}
// SAFETY: the raw job pointer is only dereferenced under the protocol above; everything else is Send.
unsafe impl Send for Shared {}

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const GENERATION: u64 = 1 << 32;

impl Shared {
    /// Claims and runs tasks until none are left. Panics are kept for the caller.
    fn work(&self, worker: usize, job: Job, tasks: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.0.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                // SAFETY: the closure outlives the job: `Pool::run` does not return before every worker has left.
                unsafe { (*job)(worker, task) };
            }
        }));
        if let Err(payload) = outcome {
            self.next.0.store(tasks, Ordering::Relaxed);
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            self.panicked.store(true, Ordering::Release);
        }
    }

    /// Enters the current job if it is open and not the one numbered `seen`.
    fn try_enter(&self, seen: u64) -> Option<u64> {
        let state = self.state.0.load(Ordering::Relaxed);
        if state & OPEN == 0 || state / GENERATION == seen {
            return None;
        }
        self.state.0.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(state / GENERATION)
    }

    fn worker_loop(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_and_enter(worker, seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: inside the job (see `Sync for Shared`), so the caller does not write the cell.
            if let Some((job, tasks)) = unsafe { *self.job.get() } {
                self.work(worker, job, tasks);
            }
            self.state.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job other than `seen`, enters it and returns its number; on shutdown returns at once.
    fn wait_and_enter(&self, worker: usize, seen: u64) -> u64 {
        loop {
            for _ in 0..self.spins {
                if let Some(generation) = self.try_enter(seen) {
                    return generation;
                }
                std::hint::spin_loop();
            }
            self.parked[worker - 1].store(true, Ordering::SeqCst);
            // The caller publishes before it looks at `parked`; looking again after announcing closes the race.
            std::sync::atomic::fence(Ordering::SeqCst);
            if self.stop.load(Ordering::Relaxed) {
                return seen;
            }
            if let Some(generation) = self.try_enter(seen) {
                self.parked[worker - 1].store(false, Ordering::Relaxed);
                return generation;
            }
            std::thread::park();
            self.parked[worker - 1].store(false, Ordering::Relaxed);
            if self.stop.load(Ordering::Relaxed) {
                return seen;
            }
        }
    }
}

/// A fixed set of threads that run the tasks of one job at a time.
pub struct Pool {
    shared: Arc<Shared>,
    caller: Mutex<()>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 means one per core.
    ///
    /// Where the system refuses a thread, the pool makes do with those it got. Without the feature `threads` it has one.
    pub fn new(threads: usize) -> Pool {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = match threads {
            _ if cfg!(not(feature = "threads")) => 1,
            0 => cores,
            _ => threads,
        };
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spins: if threads > cores { 1 } else { SPINS },
        });
        let workers = (1..threads)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let name = format!("rotor-{worker}");
                std::thread::Builder::new().name(name).spawn(move || shared.worker_loop(worker)).ok()
            })
            .map(|handle| (handle.thread().clone(), Some(handle)))
            .collect();
        Pool { shared, caller: Mutex::new(()), workers }
    }

    /// Threads that work, the caller included. Worker numbers are below it.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(worker, task)` for every task below `tasks` and returns when all are done.
    ///
    /// Calls from several threads queue. `f` must not call into the same pool. A panic in `f` is carried to the caller.
    pub fn run(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| f(0, task));
            return;
        }
        let guard = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let job: *const (dyn Fn(usize, usize) + Sync + '_) = &f;
        #[expect(clippy::disallowed_methods, reason = "no other cast extends the lifetime of a trait object")]
        // SAFETY: only the lifetime changes. The pointer is dropped from `shared.job`'s readers' reach before `f` dies:
        // below, the job is closed and every worker that entered has left before this function returns or unwinds
        // (`work` catches panics, and nothing between here and there can panic).
        let job: Job = unsafe { std::mem::transmute(job) };
        self.publish(job, tasks);
        self.shared.work(0, job, tasks);
        self.close();
        // Workers have left, so what they stored is seen.
        let panicked = self.shared.panicked.swap(false, Ordering::Acquire);
        let panic = panicked.then(|| self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten();
        drop(guard);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Runs `f(worker, items)` for ranges that together are all of `0..items`, and returns when all are done.
    ///
    /// The first ranges are long, so that a thread reads one stretch of memory from end to end; later ones are ever shorter,
    /// so that all threads finish together.
    pub fn run_ranges(&self, items: usize, f: impl Fn(usize, Range<usize>) + Sync) {
        let shares = self.shares(items);
        self.run(shares.count(), |worker, task| f(worker, shares.get(task)));
    }

    /// The ranges that [`Pool::run_ranges`] hands out.
    pub(crate) fn shares(&self, items: usize) -> Shares {
        Shares { items, threads: self.threads() }
    }

    fn publish(&self, job: Job, tasks: usize) {
        // SAFETY: the previous job is closed and empty, and `caller` is held (see `Sync for Shared`).
        unsafe { *self.shared.job.get() = Some((job, tasks)) };
        self.shared.next.0.store(0, Ordering::Relaxed);
        let generation = self.shared.state.0.load(Ordering::Relaxed) / GENERATION;
        self.shared.state.0.store(((generation + 1) % (1 << 32) * GENERATION) | OPEN, Ordering::Release);
        std::sync::atomic::fence(Ordering::SeqCst);
        for (parked, (thread, _)) in self.shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::Relaxed) {
                thread.unpark();
            }
        }
    }

    fn close(&self) {
        self.shared.state.0.fetch_and(!OPEN, Ordering::Relaxed);
        let mut spins = 0u32;
        while self.shared.state.0.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            // A worker that lost its core in the middle of a task must get it back.
            if spins > self.shared.spins.max(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// Runs `f(index, chunk)` for each piece of `data` of `chunk` elements (the last may be shorter).
    pub fn for_each_chunk<T: Send>(&self, data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        self.for_each_chunk_with(&mut vec![(); self.threads()], data, chunk, |(), index, piece| f(index, piece));
    }

    /// As [`Pool::for_each_chunk`], lending each worker its own element of `scratch`.
    ///
    /// # Panics
    /// If `scratch` has fewer elements than the pool has threads, or `chunk` is 0.
    pub fn for_each_chunk_with<S: Send, T: Send>(
        &self,
        scratch: &mut [S],
        data: &mut [T],
        chunk: usize,
        f: impl Fn(&mut S, usize, &mut [T]) + Sync,
    ) {
        assert!(scratch.len() >= self.threads(), "one scratch per thread: {} < {}", scratch.len(), self.threads());
        let len = data.len();
        let (scratch, data) = (SharedMut::new(scratch), SharedMut::new(data));
        self.run(len.div_ceil(chunk), |worker, task| {
            let start = task * chunk;
            // SAFETY: tasks are distinct, so their pieces are disjoint; a worker runs one task at a time, so its scratch
            // element is not aliased; both slices outlive `run`.
            let (own, piece) = unsafe { (&mut scratch.slice(worker, 1)[0], data.slice(start, chunk.min(len - start))) };
            f(own, task, piece);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker cannot panic: `work` catches. A join error would mean the thread is gone, which is the aim.
                let _ = handle.join();
            }
        }
    }
}

/// Ranges of decreasing length, together `0..items`, in batches of one for each thread that share out half of what is left
/// (factoring; Hummel, Schonberg and Flynn, 1992).
#[derive(Clone, Copy)]
pub(crate) struct Shares {
    items: usize,
    threads: usize,
}

impl Shares {
    /// The batches: first item, items in a range, ranges.
    fn batches(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let left = self.items - first;
            // One thread has nobody to finish together with.
            let len = if self.threads == 1 { left } else { left.div_ceil(2 * self.threads) };
            let batch = (first, len, self.threads.min(left));
            first += batch.1 * batch.2;
            (len > 0).then_some(batch)
        })
    }

    pub(crate) fn count(self) -> usize {
        self.batches().map(|(_, _, ranges)| ranges).sum()
    }

    /// The range with this number, below `count`.
    pub(crate) fn get(self, mut number: usize) -> Range<usize> {
        for (first, len, ranges) in self.batches() {
            if number < ranges {
                return first + number * len..first + (number + 1) * len;
            }
            number -= ranges;
        }
        self.items..self.items
    }
}

/// A mutable slice that several workers write disjoint parts of.
pub(crate) struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: handing out disjoint `&mut [T]` to threads is sound for `T: Send`; disjointness is `slice`'s contract.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        SharedMut { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// The elements `start .. start + len`.
    ///
    /// # Safety
    /// - No two slices that are alive together may overlap.
    #[expect(clippy::mut_from_ref, reason = "the whole point; the contract forbids overlap")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "slice {start}+{len} of {}", self.len);
        // SAFETY: in bounds by the assertion; unaliased by the caller's promise; the borrow keeps the data alive.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_every_thread_count() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, |worker, task| {
                        assert!(worker < threads);
                        counts[task].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn ranges_are_all_items_once_and_never_grow() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 7, 80, 4008] {
                let shares = Shares { items, threads };
                let ranges: Vec<_> = (0..shares.count()).map(|number| shares.get(number)).collect();
                assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..items).collect::<Vec<_>>());
                assert!(ranges.is_sorted_by(|a, b| a.len() >= b.len()), "{ranges:?}");
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.run_ranges(items, |_, range| {
                    counts[range].iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
                });
                assert!(
                    counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                    "{threads} threads, {items} items"
                );
            }
        }
    }

    #[test]
    fn workers_wake_after_parking() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let sum = AtomicUsize::new(0);
            pool.run(64, |_, task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 64 * 63 / 2);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(10, |_, task| assert!(task != 5, "task five"))));
        let payload = caught.expect_err("the panic is carried");
        assert!(payload.downcast_ref::<&str>().is_some_and(|text| text.contains("task five")));
        let mut data = vec![0usize; 1000];
        pool.for_each_chunk(&mut data, 7, |index, chunk| chunk.fill(index));
        assert!(data.iter().enumerate().all(|(i, &v)| v == i / 7));
    }

    #[test]
    fn calls_from_several_threads_queue() {
        let pool = Pool::new(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut data = [0u8; 64];
                        pool.for_each_chunk(&mut data, 3, |_, chunk| chunk.fill(1));
                        assert_eq!(data, [1; 64]);
                    }
                });
            }
        });
    }
}
