//! System calls without a safe wrapper in the dependencies.

use std::mem::MaybeUninit;

/// Raises the limit of open files to the hard limit, and returns it.
#[expect(unsafe_code, reason = "getrlimit and setrlimit read and write one plain struct that outlives the call")]
pub(crate) fn raise_open_files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return usize::MAX;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the pointer is to a live rlimit.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// The number of /proc's clock ticks in a second.
#[expect(unsafe_code, reason = "sysconf takes a number and returns a number")]
pub(crate) fn clock_ticks_per_second() -> u32 {
    // SAFETY: no pointers are involved.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u32::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Whether SIGHUP is ignored, as it is in a process that nohup has started. False where that can't be found out.
#[expect(unsafe_code, reason = "sigaction without a new action only writes the present one into a struct that outlives the call")]
pub(crate) fn ignores_hangup() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and the other pointer is to memory of the right size.
    if unsafe { libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call has succeeded and so has filled it in.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_limit_is_raised_and_stays() {
        let first = super::raise_open_files();
        assert!(first > 0);
        assert_eq!(super::raise_open_files(), first);
    }
}
