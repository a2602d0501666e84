//! Manifests mean what kubectl takes them to mean: each text of `tests/yaml-table/table.jsonl` is read here too, and
//! compared with what kubectl's own code made of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, clippy::print_stderr, reason = "Go is run")]

use std::process::{Command, Stdio};

use holdfast_core::yaml::{Dialect, MANIFEST_LIMIT, Node, parse};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../../../tests/yaml-table/table.jsonl");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/yaml-table");

/// What is done otherwise on purpose: refused although kubectl takes it.
const REFUSED_ON_PURPOSE: [&str; 2] = [
    // Of the two values kubectl keeps one and says nothing.
    "is duplicated",
    // kubectl leaves it out and says nothing.
    "a second document begins here",
];

fn ours(text: &str) -> Result<Vec<Value>, String> {
    parse("f.yaml", text.as_bytes(), Dialect::Kubernetes, MANIFEST_LIMIT)
        .map(|nodes| nodes.iter().map(Node::to_json).collect())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// What differs, in words.
fn difference(line: &Value) -> Option<String> {
    let text = line["yaml"].as_str().unwrap();
    // What means this today and that tomorrow isn't taken at all.
    if line["varies"] == true {
        let taken = ours(text).ok()?;
        return Some(format!(
            "{text:?}\n    read as {}, and kubectl reads it now so, now otherwise",
            json!(taken)
        ));
    }
    let theirs = match line.get("refused") {
        Some(why) => Err(why),
        None => Ok(line.get("documents").cloned().unwrap_or_else(|| json!([]))),
    };
    let differs = match (ours(text), theirs) {
        (Ok(ours), Ok(theirs)) if json!(ours) == theirs => return None,
        (Err(_), Err(_)) => return None,
        (Err(why), Ok(_)) if REFUSED_ON_PURPOSE.iter().any(|on_purpose| why.contains(on_purpose)) => {
            return None;
        }
        (Ok(ours), Ok(theirs)) => format!("read as {}, by kubectl as {theirs}", json!(ours)),
        (Ok(ours), Err(why)) => format!("read as {}, refused by kubectl: {why}", json!(ours)),
        (Err(why), Ok(theirs)) => format!("refused: {why}; by kubectl read as {theirs}"),
    };
    Some(format!("{text:?}\n    {differs}"))
}

#[test]
fn what_kubectl_takes_is_taken_with_the_same_value_and_what_it_refuses_is_refused() {
    let lines = TABLE.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let differences: Vec<String> = lines.filter_map(|line| difference(&line)).collect();
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn the_table_is_what_kubectls_code_says_today() {
    let go = Command::new("go")
        .args(["run", "."])
        .current_dir(FOLDER)
        .stdin(std::fs::File::open(format!("{FOLDER}/table.jsonl")).unwrap())
        .stderr(Stdio::inherit())
        .output();
    match go {
        Err(error) if std::env::var_os("CI").is_none() => eprintln!("skipped: there is no Go: {error}"),
        go => {
            let go = go.unwrap();
            assert!(go.status.success(), "go run . in {FOLDER}: {}", go.status);
            assert!(
                String::from_utf8(go.stdout).unwrap() == TABLE,
                "make the table anew: see {FOLDER}/main.go"
            );
        }
    }
}
