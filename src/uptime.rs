//! How long this process, the cache child, has run: how old its oldest object can be.

use std::time::Duration;

use powderhorn_node::boot_clock;

/// When it cannot be found out: older than any purge that the fleet still holds.
const UNKNOWN: Duration = Duration::from_secs(365 * 24 * 3600);

/// Time since the process was forked, on the clock that also counts suspended time.
///
/// Not the time since the VMOD was loaded: that may come long after the first object.
pub fn of_process() -> Duration {
    from_proc().unwrap_or(UNKNOWN)
}

fn from_proc() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let start_ticks = start_ticks(&stat)?;
    // SAFETY: sysconf has no preconditions.
    let ticks_per_s = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    let started = Duration::from_secs_f64(start_ticks as f64 / ticks_per_s as f64);
    let now = Duration::from_micros(u64::try_from(boot_clock().as_us()).ok()?);
    Some(now.saturating_sub(started))
}

/// Field 22 of proc_pid_stat(5). The name in field 2 may hold spaces and brackets.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}
