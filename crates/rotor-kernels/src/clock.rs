//! Time, where there is any.
//!
//! WebAssembly without a system interface (`wasm32-unknown-unknown`) has no clock: asking the standard library's for the time
//! panics there. This one stands still instead, so durations are zero and rates are unknown.

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use std::time::Instant;

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use stopped::Instant;

/// Seconds since 1970, or 0 where there is no clock.
pub fn unix_seconds() -> u64 {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    return 0;
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod stopped {
    use std::time::Duration;

    /// A point in time of a clock that stands still; has the methods of the standard library's that are used here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(());

    impl Instant {
        /// The only time there is.
        pub fn now() -> Instant {
            Instant(())
        }

        /// Zero.
        pub fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        /// Zero.
        pub fn duration_since(&self, _: Instant) -> Duration {
            Duration::ZERO
        }
    }
}
