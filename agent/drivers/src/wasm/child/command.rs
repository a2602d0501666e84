//! Runs a command, and starts it again as its App document says.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use holdfast_core::release::Restart;
use wasmtime::{Trap, format_err};
use wasmtime_wasi::I32Exit;

use super::super::guest::{self, Linked};
use super::super::protocol::State;
use super::instance::Maker;
use super::state::Board;

/// The first pause before a command is started again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After that time a command has run well, and its next pause is the first again.
pub(in super::super) const RAN_WELL: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) ok: bool,
    pub(super) what: String,
}

/// Runs the command until it has ended for good.
pub(super) async fn supervise(maker: &Maker, code: &Linked, board: &Board) -> Ended {
    let mut restarts = 0;
    loop {
        let begun = Instant::now();
        board.set(State::Running);
        let ended = {
            let run = maker.cpu.run(run(maker, code));
            let well = forgive_later(board);
            tokio::select! {
                ended = run => ended,
                never = well => match never {},
            }
        };
        maker.log.note(&format!("the command ended: {}", ended.what));
        let again = match maker.workload.restart {
            Restart::Always => true,
            Restart::OnFailure => !ended.ok,
            Restart::Never => false,
        };
        if !again {
            board.ended(if ended.ok { State::Exited } else { State::Failed }, restarts, &ended.what);
            return ended;
        }
        restarts = if begun.elapsed() >= RAN_WELL { 1 } else { restarts.saturating_add(1) };
        board.ended(State::Backoff, restarts, &ended.what);
        tokio::time::sleep(pause(restarts)).await;
    }
}

/// The pause before the `restarts`th new start, counted from one.
fn pause(restarts: u32) -> Duration {
    let doublings = restarts.saturating_sub(1).min(20);
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

/// Once the command has run well, what was before is forgotten. Never ends.
async fn forgive_later(board: &Board) -> Infallible {
    tokio::time::sleep(RAN_WELL).await;
    board.forgive();
    std::future::pending().await
}

/// Runs the command once.
pub(super) async fn run(maker: &Maker, code: &Linked) -> Ended {
    maker.cpu.admit().await;
    match run_to_end(maker, code).await {
        Ok(()) => Ended { ok: true, what: "exited with code 0".into() },
        Err(e) => why(&e),
    }
}

async fn run_to_end(maker: &Maker, code: &Linked) -> wasmtime::Result<()> {
    match code {
        Linked::Module(ready) => {
            let mut store = maker.module_store()?;
            let instance = ready.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await
        }
        Linked::Command(ready) => {
            let mut store = maker.component_store()?;
            let command = ready.instantiate_async(&mut store).await?;
            let result = command.wasi_cli_run().call_run(&mut store).await?;
            result.map_err(|()| I32Exit(1).into())
        }
        Linked::Http(_) => Err(format_err!("a component that serves http was started as a command")),
    }
}

/// What an error of the engine says about the command's end.
fn why(error: &wasmtime::Error) -> Ended {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ended { ok: exit.0 == 0, what: format!("exited with code {}", exit.0) };
    }
    let what = match error.downcast_ref::<Trap>() {
        Some(trap) => format!("trapped: {trap}"),
        None => format!("could not run: {}", guest::causes(error)),
    };
    Ended { ok: false, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
