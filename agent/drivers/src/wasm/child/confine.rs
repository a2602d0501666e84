//! The rights that a process gives up before it runs other people's code.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use nix::libc;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What the process itself may use of memory, beside its guests.
const OWN_MEMORY: u64 = 256 << 20;
/// Files and connections.
const OPEN_FILES: u64 = 4096;
/// When memory runs out, workloads go before the agent, and the compiler before workloads.
const OOM_WORKLOAD: i32 = 500;
const OOM_COMPILER: i32 = 900;

/// Limits of a workload's process: a second fence behind the engine's own. `guest` is in bytes.
pub(in super::super) fn limit_workload(guest: u64) {
    limit(Resource::RLIMIT_CORE, 0);
    // Data segments and private mappings, not address space: reservations of address space cost nothing.
    limit(Resource::RLIMIT_DATA, guest.saturating_add(OWN_MEMORY).saturating_add(data_now()));
    limit(Resource::RLIMIT_NOFILE, OPEN_FILES);
    prefer_as_victim(OOM_WORKLOAD);
}

/// Limits of a compilation: bytes of memory and seconds of the processor.
pub(in super::super) fn limit_compiler(memory: u64, cpu: u64) {
    limit(Resource::RLIMIT_CORE, 0);
    limit(Resource::RLIMIT_DATA, memory.saturating_add(data_now()));
    limit(Resource::RLIMIT_CPU, cpu);
    limit(Resource::RLIMIT_NOFILE, 64);
    prefer_as_victim(OOM_COMPILER);
}

/// What the kernel counts as this process's data already: an allocator may have reserved a gibibyte at its
/// start, of which it uses little.
fn data_now() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// Lowers a limit. One that cannot be set (it was lower before) is no reason not to run.
fn limit(resource: Resource, value: u64) {
    let _ = setrlimit(resource, value, value);
}

/// Anybody may make himself a better victim; a kernel without /proc has no victims to choose.
fn prefer_as_victim(score: i32) {
    let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
}

/// Goes on as another user, for good.
pub(in super::super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// System calls that nothing in a workload's process needs once it runs, and that an escaped guest would
/// begin with.
const FORBIDDEN: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
    // The libc crate doesn't know its number on this target.
    #[cfg(not(all(target_arch = "aarch64", target_env = "musl")))]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_syslog,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Forbids [`FORBIDDEN`], and making processes, to this thread and those that it starts. Forbidden calls
/// fail with EPERM. Afterwards no new privileges are to be had by any means.
pub(in super::super) fn forbid_system_calls() -> Result<(), String> {
    prctl::set_no_new_privs().map_err(|e| format!("cannot set no_new_privs: {e}"))?;
    let arch = std::env::consts::ARCH
        .try_into()
        .map_err(|_| format!("there is no seccomp filter for the architecture {}", std::env::consts::ARCH))?;
    let refuse = |rules, errno: i32| {
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.unsigned_abs()), arch)
            .and_then(BpfProgram::try_from)
            .map_err(|e| format!("cannot build the seccomp filter: {e}"))
    };
    let install = |program: BpfProgram| {
        seccompiler::apply_filter(&program)
            .map_err(|e| format!("the kernel does not accept the seccomp filter: {e}"))
    };
    // clone3 keeps its flags in memory, where a filter cannot look. C libraries fall back to clone.
    install(refuse(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![clone_of_a_process()?]);
    install(refuse(rules, libc::EPERM)?)
}

/// A `clone` without CLONE_THREAD: it makes a process, not a thread.
fn clone_of_a_process() -> Result<SeccompRule, String> {
    let thread = libc::CLONE_THREAD as u64;
    SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|e| format!("cannot build the seccomp filter: {e}"))
}
