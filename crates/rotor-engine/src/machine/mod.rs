//! The machine a model runs on: its processor, its memory, what the system allows, and what it can do at most.
//!
//! What the system does not tell is `None`, never a guess. The files read are Linux's; elsewhere the processor's own
//! answers remain.

mod system;

pub use rotor_kernels::{Isa, Kernels, SelfTest};
pub use system::{Cpu, HugePages, Limit, limits};

use crate::runtime::Runtime;
use rotor_kernels::Pool;
use rotor_kernels::measure::{self, ReadBandwidth};
use std::fs;
use std::path::Path;

/// Memory that is read where the caches' size is unknown.
const UNKNOWN_CACHES: u64 = 640 << 20;
/// The least and the most memory that is read to measure bandwidth.
const READ_MEMORY: std::ops::RangeInclusive<u64> = (64 << 20)..=(4 << 30);

/// What the system says about memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub total: Option<u64>,
    /// That can be taken without swapping.
    pub available: Option<u64>,
    /// The container's limit, where it is lower than the machine's memory.
    pub limit: Option<u64>,
    /// Of the largest cache.
    pub last_level_cache: Option<u64>,
}

impl Memory {
    /// Asks the system.
    pub fn read() -> Memory {
        let information = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = kibibytes(&information, "MemTotal");
        Memory {
            total,
            available: kibibytes(&information, "MemAvailable"),
            limit: container_limit().filter(|limit| total.is_none_or(|total| *limit < total)),
            last_level_cache: last_level_cache(Path::new("/sys/devices/system/cpu/cpu0/cache")),
        }
    }

    /// Bytes that can be taken, by the machine and by the container.
    pub fn free(&self) -> Option<u64> {
        self.available.or(self.total).into_iter().chain(self.limit).min()
    }

    /// Bytes to read so that the caches hold little of them: two and a half times the largest cache; but `sets` of so many,
    /// held together, take no more than a quarter of what is free.
    pub fn beyond_caches(&self, sets: usize) -> usize {
        let wanted = self.last_level_cache.map_or(UNKNOWN_CACHES, |cache| cache * 5 / 2).max(UNKNOWN_CACHES / 4);
        let bytes = self.free().map_or(wanted, |free| wanted.min(free / (4 * sets.max(1) as u64)));
        usize::try_from(bytes.clamp(*READ_MEMORY.start(), *READ_MEMORY.end())).unwrap_or(1 << 30)
    }
}

/// What the machine can do at most on some number of threads, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// Threads that did it together.
    pub threads: usize,
    /// Bytes read from memory per second.
    pub read_bandwidth: f64,
    /// Multiply-adds per second of the plain multiply kernel; see [`rotor_kernels::measure`].
    pub yardstick: f64,
    /// Multiply-adds per second of the widest int8 multiplication of the ISA, with its operands at hand.
    pub multiply_peak: f64,
}

/// Measures [`Roofs`]; holds the memory that is read.
#[derive(Debug)]
pub struct RoofMeter(ReadBandwidth);

impl RoofMeter {
    /// Takes memory well beyond the caches.
    ///
    /// # Errors
    /// Where the system refuses it.
    pub fn new(pool: &Pool) -> std::io::Result<RoofMeter> {
        Ok(RoofMeter(ReadBandwidth::new(Memory::read().beyond_caches(1), pool)?))
    }

    /// Measures the roofs on the runtime's threads; takes about half a second.
    pub fn measure(&self, runtime: &Runtime) -> Roofs {
        let Runtime { kernels, pool, .. } = runtime;
        Roofs {
            threads: pool.threads(),
            read_bandwidth: self.0.measure(kernels, pool),
            yardstick: measure::yardstick(kernels, pool),
            multiply_peak: measure::multiply_peak(kernels, pool),
        }
    }
}

/// A figure of a file in /proc that has them in KiB.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest memory limit of the control groups this process is in.
fn container_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let files = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next(), fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        match controllers {
            "" => limit_files("/sys/fs/cgroup", group, "memory.max"),
            "memory" => limit_files("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"),
            _ => Vec::new(),
        }
    });
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The file of a group and of all groups it is in. Inside a container the group's own path may not exist, the root does.
fn limit_files(root: &str, group: &str, file: &str) -> Vec<std::path::PathBuf> {
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|group| Path::new(root).join(group).join(file)).collect()
}

/// The size of the largest cache that Linux lists for a processor.
fn last_level_cache(folder: &Path) -> Option<u64> {
    let sizes = fs::read_dir(folder).ok()?.filter_map(|entry| {
        let text = fs::read_to_string(entry.ok()?.path().join("size")).ok()?;
        cache_size(text.trim())
    });
    sizes.max()
}

/// A size as Linux writes it: `512K`, `32M`.
fn cache_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit: u64 = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_figures_are_read_with_their_units() {
        let text = "MemTotal:       24512345 kB\nMemFree:        123 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(24_512_345 * 1024));
        assert_eq!(kibibytes(text, "MemAvailable"), Some(22_000_000 * 1024));
        assert_eq!(kibibytes(text, "SwapTotal"), None);
        assert_eq!((cache_size("32K"), cache_size("266240K")), (Some(32 << 10), Some(260 << 20)));
        assert_eq!((cache_size("8M"), cache_size("x"), cache_size("9T")), (Some(8 << 20), None, None));
    }

    #[test]
    fn limits_are_looked_for_in_every_group_above() {
        let files = limit_files("/sys/fs/cgroup", "/a/b", "memory.max");
        let expected = ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"];
        assert_eq!(files, expected.map(std::path::PathBuf::from));
    }

    #[test]
    fn memory_to_read_is_beyond_the_caches_and_leaves_room() {
        let memory = |available, cache| Memory { available, last_level_cache: cache, ..Memory::default() };
        assert_eq!(memory(Some(64 << 30), Some(260 << 20)).beyond_caches(1), 650 << 20);
        assert_eq!(memory(Some(64 << 30), Some(8 << 20)).beyond_caches(1), 160 << 20);
        assert_eq!(memory(Some(1 << 30), Some(260 << 20)).beyond_caches(1), 256 << 20);
        assert_eq!(memory(Some(3 << 30), Some(260 << 20)).beyond_caches(3), 256 << 20);
        assert_eq!(memory(None, None).beyond_caches(1), 640 << 20);
        assert_eq!(memory(Some(100), None).beyond_caches(1), 64 << 20);
        let limited = Memory { limit: Some(400 << 20), ..memory(Some(64 << 30), Some(260 << 20)) };
        assert_eq!(limited.beyond_caches(1), 100 << 20);
    }
}
