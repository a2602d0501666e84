//! The command line from outside: what it prints where, and how it ends.

#![allow(clippy::unwrap_used, reason = "a failing helper is a failing test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A configuration that keeps everything in this folder.
    fn config(&self) -> PathBuf {
        self.write(
            "agent.toml",
            "[device]\nname = \"emea/till-1\"\n[source]\nurl = \"file:///nowhere/edge.git\"\n\
             [trust]\nmode = \"none\"\n[state]\ndir = \"state\"\n[api]\nsocket = \"api.sock\"\n",
        )
    }
}

fn holdfast(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(arguments)
        .env_remove("HOLDFAST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn with_config(config: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--config", config.to_str().unwrap()];
    all.extend(arguments);
    holdfast(&all)
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"], &["version"]] {
        let output = holdfast(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(out(&output).contains("oldfast"), "{arguments:?}: {}", out(&output));
        assert_eq!(err(&output), "");
    }
}

#[test]
fn wrong_usage_is_64_and_is_explained_on_stderr() {
    for arguments in [
        &[][..],
        &["fly"],
        &["status", "--loud"],
        &["run", "--timeout", "1m"],
        &["run", "--once", "--timeout", "soon"],
        &["render", "."],
        &["render", ".", "--device", "NOT A NAME"],
        &["validate"],
        &["--config"],
    ] {
        let output = holdfast(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert_eq!(out(&output), "", "{arguments:?}");
        assert_ne!(err(&output), "", "{arguments:?}");
    }
}

#[test]
fn the_commands_of_the_contract_are_there() {
    let help = out(&holdfast(&["--help"]));
    for command in [
        "run", "status", "plan", "events", "validate", "render", "demo", "schema", "config", "doctor",
        "version",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}");
    }
}

#[test]
fn config_prints_every_value_that_is_in_force() {
    let folder = Folder::new();
    let output = with_config(&folder.config(), &["config"]);
    assert_eq!(code(&output), 0);
    for line in [
        "interval = \"5m\"",
        "timeout = \"1m\"",
        "branch = \"main\"",
        "disk_budget = \"2GiB\"",
        "level = \"info\"",
    ] {
        assert!(out(&output).contains(line), "{line} is missing in\n{}", out(&output));
    }
    assert!(out(&output).contains(&format!("socket = \"{}\"", folder.path("api.sock").display())));
    // What is printed is a configuration too.
    let again = folder.write("again.toml", &out(&output));
    assert_eq!(out(&with_config(&again, &["config"])), out(&output));
    let json: serde_json::Value =
        serde_json::from_slice(&with_config(&again, &["config", "--json"]).stdout).unwrap();
    assert_eq!(json["source"]["interval"], "5m");
}

#[test]
fn config_never_prints_a_secret() {
    let folder = Folder::new();
    folder.write("password", "hunter2");
    let text = fs::read_to_string(folder.config()).unwrap().replace(
        "url = \"file:///nowhere/edge.git\"",
        "url = \"https://git.example/x\"\nusername = \"edge\"\npassword_file = \"password\"",
    );
    let path = folder.write("agent.toml", &text);
    for arguments in [&["config"][..], &["config", "--json"], &["doctor"]] {
        let output = with_config(&path, arguments);
        assert!(!(out(&output) + &err(&output)).contains("hunter2"), "{arguments:?}");
    }
}

#[test]
fn a_configuration_that_cannot_be_meant_is_told_with_file_and_line_by_every_command() {
    let folder = Folder::new();
    let text = fs::read_to_string(folder.config()).unwrap().replace("[state]\ndir", "[state]\ndri");
    let path = folder.write("agent.toml", &text);
    for arguments in [&["config"][..], &["status"], &["plan"], &["events"], &["run", "--once"]] {
        let output = with_config(&path, arguments);
        assert_eq!(code(&output), 1, "{arguments:?}");
        assert!(
            err(&output).contains("agent.toml:8:1: unknown key \"dri\": did you mean \"dir\"?"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn a_configuration_that_is_not_there_is_an_error_that_says_what_to_do() {
    let output = holdfast(&["status", "--config", "/nowhere/agent.toml"]);
    assert_eq!(code(&output), 1);
    assert!(
        err(&output).contains("/nowhere/agent.toml") && err(&output).contains("--config"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_wrong_log_level_is_an_error() {
    let folder = Folder::new();
    let output = with_config(&folder.config(), &["run", "--once", "--log", "loud=very"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("write error, warn, info"), "{}", err(&output));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = Folder::new();
    let config = folder.config();
    let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .args(["--config", config.to_str().unwrap(), "config"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[test]
fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let folder = Folder::new();
    let output = with_config(&folder.config(), &["doctor", "--json"]);
    // The source isn't there.
    assert_eq!(code(&output), 1);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let find = |check: &str| findings.iter().find(|finding| finding["check"] == check).unwrap();
    assert_eq!(find("configuration")["state"], "ok");
    assert_eq!(find("trust")["state"], "warn");
    assert_eq!(find("source")["state"], "fail");
    assert!(find("source")["advice"].as_str().unwrap().contains("[source] url"));
    assert_eq!(find("agent")["state"], "warn");
    for finding in &findings {
        assert_eq!(finding["state"] == "ok", finding.get("advice").is_none(), "{finding}");
    }
}

#[test]
fn the_doctor_looks_on_when_the_configuration_is_wrong() {
    let folder = Folder::new();
    let output = with_config(&folder.write("agent.toml", "x"), &["doctor"]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).starts_with("FAIL  configuration"), "{}", out(&output));
    assert!(out(&output).contains("clock"), "{}", out(&output));
}

#[test]
fn there_is_a_schema_for_each_kind_and_for_no_other() {
    for kind in ["Fleet", "site", "Device", "App", "Stop", "purge"] {
        let output = holdfast(&["schema", kind]);
        let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema.is_object(), "{kind}");
    }
    let all: serde_json::Value = serde_json::from_slice(&holdfast(&["schema"]).stdout).unwrap();
    assert_eq!(all.as_object().unwrap().len(), 6);
    let output = holdfast(&["schema", "Pod"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("Fleet, Site, Device, App, Stop, Purge"), "{}", err(&output));
}

/// A repository with one box and one app.
fn repository(folder: &Folder) -> PathBuf {
    let header = |kind: &str, name: &str| {
        format!("apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name} }}\n")
    };
    folder.write("repo/holdfast.yaml", &(header("Fleet", "retail") + "spec: {}\n"));
    folder.write("repo/devices/till-1.yaml", &(header("Device", "till-1") + "spec: {}\n"));
    folder.write(
        "repo/apps/hello/app.yaml",
        &(header("App", "hello")
            + "spec:\n  placement: {}\n  values: { greeting: hi }\n  wasm:\n    component: files/hello.wat\n    env: { GREETING: \"{{ values.greeting }}\" }\n"),
    );
    folder.write("repo/apps/hello/files/hello.wat", "(module)");
    folder.path("repo")
}

#[test]
fn a_repository_without_errors_is_valid_and_renders_the_same_each_time() {
    let folder = Folder::new();
    let dir = repository(&folder);
    let dir = dir.to_str().unwrap();
    let output = holdfast(&["validate", dir, "--device", "till-1"]);
    assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
    let output = holdfast(&["render", dir, "--device", "till-1"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).contains("\"hi\""), "{}", out(&output));
    assert_eq!(out(&holdfast(&["render", dir, "--device", "till-1"])), out(&output));
    let json = holdfast(&["render", dir, "--device", "till-1", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["apps"]["hello"]["kind"], "wasm");
}

#[test]
fn every_error_of_a_repository_is_told_at_once_with_its_place() {
    let folder = Folder::new();
    let dir = repository(&folder);
    let app = fs::read_to_string(dir.join("apps/hello/app.yaml")).unwrap();
    folder.write("repo/apps/hello/app.yaml", &app.replace("placement", "placemnt"));
    folder.write("repo/sites/a.yaml", "kind: [");
    let output = holdfast(&["validate", dir.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(out(&output).contains("apps/hello/app.yaml:5:3: "), "{}", out(&output));
    assert!(out(&output).contains("sites/a.yaml:"), "{}", out(&output));
    let json = holdfast(&["validate", dir.to_str().unwrap(), "--json"]);
    let json: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json.len() >= 2 && json[0]["line"].is_number());
}

#[test]
fn a_box_that_the_repository_does_not_know_gets_an_error() {
    let folder = Folder::new();
    let dir = repository(&folder);
    let output = holdfast(&["render", dir.to_str().unwrap(), "--device", "till-9"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("devices/till-9.yaml"), "{}", err(&output));
}
