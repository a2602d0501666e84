//! `holdfast wasm-probe`: a probe component's own process. It loads the code, gives up every right to more, runs it
//! once, says how it ended, and is gone.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::alarm;

use super::super::guest::Mode;
use super::super::protocol::{Because, ProbeOrder, ProbeReport, line};
use super::cpu::Cpu;
use super::instance::{Maker, Network};
use super::log::Ring;
use super::memory::Account;
use super::{Refusal, command, confine, read_line, steps};

/// When the process is ended by the kernel, after the probe's own time: nobody may be left to do it.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// What is kept of the last line, in characters.
const LONGEST_WORDS: usize = 300;

/// Runs `wasm-probe <app>`. The app is only there for people who look at the process list: what it needs to know comes over its standard input; its standard
/// output is the report.
pub fn probe_main(_args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let report = match ask() {
        Ok(report) => report,
        Err(Refusal { because, what }) => ProbeReport::NotRun { because, what },
    };
    let mut out = io::stdout().lock();
    // Nobody is left to be told when this fails.
    let _ = out.write_all(line(&report).as_bytes()).and_then(|()| out.flush());
    // Threads that wait for something must not keep the process.
    std::process::exit(0)
}

fn ask() -> Result<ProbeReport, Refusal> {
    let order: ProbeOrder = read_line()
        .and_then(|text| serde_json::from_str(&text).map_err(io::Error::other))
        .map_err(|e| Refusal { because: Because::Box, what: format!("cannot read the order: {e}") })?;
    let seconds = (order.limit + LAST_LIMIT).as_secs();
    alarm::set(u32::try_from(seconds).unwrap_or(u32::MAX));
    let log = Ring::new();
    steps::detach(&log);
    confine::limit_workload(order.workload.limits.memory);
    let loaded = steps::load(&order.code, Mode::Command)?;
    steps::become_workload(order.user)?;
    // A kernel without seccomp still asks: the process holds nothing but what it was given.
    let _ = confine::forbid_system_calls();
    let runtime = steps::runtime(1)?;
    let cpu = Cpu::start(&loaded.engine, None).map_err(|e| Refusal {
        because: Because::Box,
        what: format!("cannot start the thread that interrupts the guest: {e}"),
    })?;
    let memory = Account::new(order.workload.limits.memory, Arc::clone(&log));
    let maker = Maker {
        engine: loaded.engine,
        workload: order.workload,
        network: Some(Network { target: order.target }),
        memory,
        cpu,
        log,
    };
    let run = async {
        let guest = maker.cpu.run(command::run(&maker, &loaded.code));
        tokio::time::timeout(order.limit, guest).await
    };
    let what = match runtime.block_on(run) {
        Ok(ended) if ended.ok => return Ok(ProbeReport::Well),
        Ok(ended) => ended.what,
        Err(_) => format!("did not end within {:?}, and was killed", order.limit),
    };
    Ok(ProbeReport::Ill { what: what + &in_its_words(&maker) })
}

/// What the probe itself said last, and whether it wanted more memory than it may have.
fn in_its_words(maker: &Maker) -> String {
    let mut text = String::new();
    if maker.memory.has_refused() {
        let limit = maker.workload.limits.memory;
        text.push_str(&format!("; it tried to exceed its memory limit of {limit} bytes"));
    }
    let lines = maker.log.last(usize::MAX);
    let own =
        lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty() && !Ring::is_note(line));
    if let Some(own) = own {
        text.push_str(": ");
        text.extend(own.chars().take(LONGEST_WORDS));
    }
    text
}
