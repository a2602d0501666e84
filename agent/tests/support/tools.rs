//! Running the tools that tests need.

use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// The sentence for a tool that is missing. A test never skips.
pub fn missing(tool: &str) -> String {
    format!("{tool} is missing: run scripts/setup-tests.sh, which installs what the tests need")
}

/// Runs a command to its end and wants it to succeed.
pub fn run(command: &mut Command) -> Output {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => panic!("{}", missing(&tool)),
        Err(error) => panic!("{command:?}: {error}"),
    };
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Runs a command and gives back what it printed, without the last line break.
pub fn printed(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap().trim_end().to_owned()
}

/// A process that ends with its owner, or with the thread that started it.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts `tool`, so that it is killed when this test's thread ends however it ends.
    pub fn start(tool: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", tool]);
        prepare(&mut command);
        match command.spawn() {
            Ok(child) => Daemon(child),
            Err(error) => panic!("{} ({error})", missing("setpriv (util-linux)")),
        }
    }

    /// Waits until `ready`, and fails when the process ends before, or after a minute.
    pub fn wait_until(&mut self, what: &str, ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !ready() {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("{what} ended at once ({status}); {}", missing(&format!("maybe {what}")));
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{what} did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
