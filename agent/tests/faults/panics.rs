//! A job of the agent panics, which none should: the loop goes on without its result.

use nix::sys::signal::Signal;

use crate::support::agent_box::{AgentBox, Kind};

#[test]
fn a_job_that_panics_is_told_of_and_the_next_poll_makes_up_for_it() {
    for mark in ["render", "mirror.collect"] {
        let mut it = AgentBox::new();
        it.write_app("pos", &[], 1, Kind::Good);
        it.commit();
        it.start(&[("HOLDFAST_FAULT_PANIC", mark)]);
        it.wait_until("up", |_, _| true);
        if mark == "render" {
            it.wait_until("the revision held", |_, status| {
                status.held.iter().any(|held| held.cause.contains("a bug in the agent"))
            });
        }
        it.write_app("pos", &[], 2, Kind::Good);
        let second = it.commit();
        it.signal(Signal::SIGHUP);
        it.wait_converged(&second);
        assert!(
            it.log().contains(&format!("HOLDFAST_FAULT_PANIC={mark}")),
            "nothing has panicked: {}",
            it.log()
        );
        it.stop();
    }
}
