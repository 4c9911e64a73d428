//! What this crate asks of the operating system beyond the standard library. The one `unsafe` call
//! is here.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use powderhorn_protocol::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that goes on while the machine sleeps and that nobody sets.
pub fn boot_clock() -> Time {
    let now = clock_gettime(ClockId::Boottime);
    Time::from_us(
        now.tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(now.tv_nsec / 1_000),
    )
}

/// Now, in milliseconds since 1970, as the machine's wall clock has it.
pub fn wall_clock_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The host's name.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Datagrams that the kernel has dropped because the socket's buffer was full; `None` if the kernel
/// does not say.
pub fn socket_drops(socket: &impl AsFd) -> Option<u64> {
    /// `SK_MEMINFO_DROPS` of `linux/sock_diag.h`: the last of nine counters.
    const DROPS: usize = 8;
    let mut info = [0u32; DROPS + 1];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; `info` and `len` live on
    // this frame, and `len` says how many bytes the kernel may write to `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &mut len,
        )
    };
    let whole = result == 0 && len as usize == size_of_val(&info);
    whole.then(|| u64::from(info[DROPS]))
}
