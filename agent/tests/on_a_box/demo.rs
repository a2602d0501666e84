//! `holdfast demo`, as somebody tries it who has nothing else.

use std::process::{Command, Stdio};

#[test]
fn the_demo_shows_a_bad_release_being_taken_back_while_the_app_keeps_answering() {
    let mut holdfast = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let demo = holdfast.arg("demo").stdin(Stdio::null()).output().unwrap();
    let (text, said) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{text}\n{said}");
    for part in ["rolled back", "times \"Hello, this is version 4\"", "all its files have been removed"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // While the bad release came and went, and while the agent was dead.
    assert_eq!(text.matches("answers lost: 0").count(), 2, "{text}");
}
