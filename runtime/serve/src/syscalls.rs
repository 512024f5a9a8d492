//! Restricts the process to the system calls that it needs. Landlock says which files and ports they reach; this leaves
//! none with which to start a program, fork, trace another process, open a socket or make memory executable.
//!
//! In: nothing. Out: a filter that threads which start later inherit, and that cannot be undone. Any other call fails with
//! `ENOSYS`, as in a kernel without it: C libraries then fall back to an older call, where `EPERM` or an end of the
//! process would break the server with their next version. Refused: processors other than x86-64's and AArch64's.

/// Restricts the calling thread, and those that it starts.
///
/// # Errors
/// Why there is no filter: the processor's numbers of calls are not known here, or the kernel has no filters.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn restrict() -> Result<(), String> {
    use std::env::consts::ARCH;

    use libc::{CLONE_THREAD, PR_SET_NAME, PROT_EXEC};
    use seccompiler::{
        BpfProgram, Error, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq, SeccompCondition,
        SeccompFilter, SeccompRule, apply_filter,
    };

    /// Calls of which an argument is restricted: the argument, a mask, and its value under the mask.
    const SOME: &[(i64, u8, u64, u64)] = &[
        // Threads, and no processes. clone3 has its flags in memory, where no filter sees them.
        (libc::SYS_clone, 0, CLONE_THREAD as u64, CLONE_THREAD as u64),
        (libc::SYS_mmap, 2, PROT_EXEC as u64, 0),
        (libc::SYS_mprotect, 2, PROT_EXEC as u64, 0),
        (libc::SYS_prctl, 0, u32::MAX as u64, PR_SET_NAME as u64),
        // To ask for registers that not every process may use, those of AMX: ARCH_REQ_XCOMP_PERM.
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_arch_prctl, 0, u32::MAX as u64, 0x1023),
    ];
    let compile = || -> Result<BpfProgram, Error> {
        let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
            ALL.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
        for (call, argument, mask, value) in SOME {
            let condition = SeccompCondition::new(*argument, Dword, MaskedEq(*mask), *value)?;
            rules.insert(*call, vec![SeccompRule::new(vec![condition])?]);
        }
        let denied = SeccompAction::Errno(libc::ENOSYS as u32);
        let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, ARCH.try_into()?)?;
        Ok(filter.try_into()?)
    };
    compile().and_then(|program| apply_filter(&program)).map_err(|error| error.to_string())
}

/// There is no filter.
///
/// # Errors
/// Always.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) fn restrict() -> Result<(), String> {
    Err(format!("there is no filter for {} on {}", std::env::consts::ARCH, std::env::consts::OS))
}

/// Calls that are allowed with every argument. strace showed which of them glibc and musl make after this while the tests
/// of the server run; they turn to the others when memory is short, when a thread panics, or on another kernel.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[rustfmt::skip]
const ALL: &[i64] = &[
    // Files. Which, is for Landlock to say.
    libc::SYS_openat, libc::SYS_close, libc::SYS_read, libc::SYS_pread64, libc::SYS_write, libc::SYS_writev, libc::SYS_lseek,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_getdents64, libc::SYS_readlinkat, libc::SYS_getcwd,
    libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fchmod, libc::SYS_fsync, libc::SYS_mkdirat, libc::SYS_unlinkat,
    libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // Connections that were accepted, and pairs of sockets for signals. No others can be opened.
    libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_socketpair,
    // Waiting.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2, libc::SYS_futex,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_restart_syscall,
    // Memory, threads, signals, time.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_set_robust_list, libc::SYS_rseq,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_getpid,
    libc::SYS_gettid, libc::SYS_geteuid, libc::SYS_tgkill, libc::SYS_tkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_getrandom, libc::SYS_clock_gettime,
];

/// Calls that AArch64 has only in a newer form.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[rustfmt::skip]
const OLD: &[i64] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_unlink, libc::SYS_rename,
    libc::SYS_epoll_wait,
];

/// There are none.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
const OLD: &[i64] = &[];

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::{
        fs, io,
        net::{TcpListener, UdpSocket},
        os::unix::net::{UnixDatagram, UnixStream},
        process::Command,
        thread,
    };

    use super::*;

    #[test]
    fn nothing_is_left_to_start_programs_or_open_sockets_and_threads_go_on() {
        // Only this thread and those it starts are restricted, and they end with the test.
        let restricted = thread::spawn(|| {
            if let Err(reason) = restrict() {
                return Some(reason);
            }
            let denied = |result: io::Result<()>| result.is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS));
            let file = tempfile::NamedTempFile::new().unwrap();
            assert!(denied(Command::new("/bin/true").spawn().map(drop)));
            assert!(denied(UdpSocket::bind("127.0.0.1:0").map(drop)));
            assert!(denied(TcpListener::bind("127.0.0.1:0").map(drop)));
            assert!(denied(UnixDatagram::unbound().map(drop)));
            assert!(denied(std::os::unix::fs::chown(file.path(), None, None)));
            assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
            assert_eq!(
                thread::spawn(|| panic!("as it should")).join().unwrap_err().downcast_ref(),
                Some(&"as it should")
            );
            fs::write(file.path(), "text").unwrap();
            UnixStream::pair().unwrap();
            None
        });
        if let Some(reason) = restricted.join().unwrap() {
            // Not print, which is kept back where a test succeeds.
            let _ =
                io::Write::write_fmt(&mut io::stderr(), format_args!("skipped: tests of the filter, for {reason}\n"));
        }
    }
}
