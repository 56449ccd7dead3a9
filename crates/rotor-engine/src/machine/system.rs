//! Processors, huge pages and limits, as Linux tells them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// As it calls itself.
    pub name: Option<String>,
    /// The extensions kernels ask about, and whether it has them.
    pub features: Vec<(&'static str, bool)>,
    /// Physical cores.
    pub cores: Option<usize>,
    /// Threads that can run at once, by this process's affinity and quota; as many as a pool has unless told otherwise.
    pub usable_threads: usize,
}

impl Cpu {
    /// Asks the processor and the system.
    pub fn read() -> Cpu {
        Cpu {
            name: rotor_kernels::cpu_name(),
            features: rotor_kernels::cpu_features(),
            cores: cores(Path::new("/sys/devices/system/cpu")),
            usable_threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Processors that share a core list the same siblings.
fn cores(folder: &Path) -> Option<usize> {
    let siblings = fs::read_dir(folder).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let number = entry.file_name().into_string().ok()?.strip_prefix("cpu")?.to_owned();
        number.parse::<usize>().ok()?;
        fs::read_to_string(entry.path().join("topology/thread_siblings_list")).ok()
    });
    let cores: BTreeSet<String> = siblings.collect();
    (!cores.is_empty()).then_some(cores.len())
}

/// Transparent huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// `always`, `madvise` (where a program asks, as this one does) or `never`.
    pub mode: Option<String>,
    /// Bytes of this process that are on them now.
    pub in_use: Option<u64>,
}

impl HugePages {
    /// Asks the system.
    pub fn read() -> HugePages {
        let modes = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
        let usage = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
        HugePages {
            mode: modes.as_deref().and_then(chosen).map(str::to_owned),
            in_use: super::kibibytes(&usage, "AnonHugePages"),
        }
    }
}

/// The word in brackets: `always [madvise] never`.
fn chosen(modes: &str) -> Option<&str> {
    modes.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// A limit that the system puts on this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As /proc/self/limits names it.
    pub name: String,
    /// In its unit.
    pub value: u64,
    /// Bytes, processes, files.
    pub unit: String,
}

/// The limits a model can run into: those of memory, threads and files that are set.
pub fn limits() -> Vec<Limit> {
    parse_limits(&fs::read_to_string("/proc/self/limits").unwrap_or_default())
}

fn parse_limits(text: &str) -> Vec<Limit> {
    const NAMES: [&str; 6] = [
        "Max address space",
        "Max data size",
        "Max resident set",
        "Max locked memory",
        "Max processes",
        "Max open files",
    ];
    let limit = |name: &&str| {
        let mut fields = text.lines().find_map(|line| line.strip_prefix(*name))?.split_whitespace();
        let value = fields.next()?.parse().ok()?;
        Some(Limit { name: (*name).to_owned(), value, unit: fields.nth(1).unwrap_or_default().to_owned() })
    };
    NAMES.iter().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [("cpu0", "0-1"), ("cpu1", "0-1"), ("cpu2", "2-3"), ("cpu3", "2-3"), ("cpufreq", "x")] {
            let topology = folder.path().join(cpu).join("topology");
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        assert_eq!(cores(folder.path()), Some(2));
        assert_eq!(cores(&folder.path().join("none")), None);
    }

    #[test]
    fn the_mode_of_huge_pages_is_in_brackets() {
        assert_eq!(
            (chosen("always [madvise] never\n"), chosen("[never]"), chosen("")),
            (Some("madvise"), Some("never"), None)
        );
    }

    #[test]
    fn only_limits_that_are_set_are_told() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units     
Max data size             unlimited            unlimited            bytes     
Max processes             96365                96365                processes 
Max address space         1073741824           unlimited            bytes     
";
        let limit = |name: &str, value, unit: &str| Limit { name: name.into(), value, unit: unit.into() };
        let expected = [limit("Max address space", 1 << 30, "bytes"), limit("Max processes", 96365, "processes")];
        assert_eq!(parse_limits(text), expected);
        assert_eq!(parse_limits(""), []);
    }
}
