//! Facts about this machine and its processes, from /proc. Figures are `None` where a system has none.

use std::fs::read_to_string;

use serde::Serialize;

/// Clock ticks per second in /proc; Linux has fixed it for programs at 100 on all usual machines.
const TICKS: f64 = 100.0;

/// What figures were measured on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) system: String,
    /// Whether this is a build to measure with.
    pub(crate) release: bool,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| kib(&text))
                .map(|k| k / 1024),
            system: format!("{} {}", std::env::consts::OS, kernel.trim())
                .trim()
                .to_owned(),
            release: !cfg!(debug_assertions),
        }
    }
}

/// The value of the first line `name : value`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(process: u32) -> Option<u64> {
    kib(&field(&format!("/proc/{process}/status"), "VmRSS")?)
}

/// Processor time of a process so far, in seconds.
pub(crate) fn processor_seconds(process: u32) -> Option<f64> {
    // Fields 14 and 15; the second field, the name, may itself hold spaces and brackets.
    let stat = read_to_string(format!("/proc/{process}/stat")).ok()?;
    let rest = &stat[stat.rfind(')')? + 2..];
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS)
}

/// Bytes that went over the loopback device so far, of all programs, with IP and UDP or TCP headers.
pub(crate) fn loopback_bytes() -> Option<u64> {
    let text = read_to_string("/proc/net/dev").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_takes_time() {
        let me = std::process::id();
        assert!(resident_kib(me).unwrap() > 100);
        let before = processor_seconds(me).unwrap();
        let mut sum = 0_u64;
        while processor_seconds(me).unwrap() < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(loopback_bytes().is_some());
        assert!(Machine::here().memory_mib.unwrap() > 0);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_figures() {
        assert_eq!(resident_kib(u32::MAX), None);
        assert_eq!(processor_seconds(u32::MAX), None);
    }
}
