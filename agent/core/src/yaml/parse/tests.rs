//! What the parser takes and what it refuses, with its place.

use serde_json::json;

use super::*;
use crate::yaml::DOCUMENT_LIMIT;

fn read(text: &str) -> Result<Vec<Value>, Vec<String>> {
    parse("f.yaml", text.as_bytes(), Dialect::Strict, DOCUMENT_LIMIT)
        .map(|nodes| nodes.iter().map(Node::to_json).collect())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn errors(text: &str) -> String {
    read(text).unwrap_err().join("\n")
}

#[test]
fn a_stream_of_documents_is_read_and_empty_ones_are_left_out() {
    assert_eq!(
        read("a: 1\n---\n---\nb: [x, '0042']\n").unwrap(),
        [json!({"a": 1}), json!({"b": ["x", "0042"]})]
    );
    assert_eq!(read("").unwrap(), Vec::<Value>::new());
    assert_eq!(read("# nothing but a comment\n").unwrap(), Vec::<Value>::new());
}

#[test]
fn a_node_knows_its_place() {
    let nodes = parse("f", b"a:\n  - b: 1\n", Dialect::Strict, 100).unwrap();
    let NodeValue::Sequence(items) = &nodes[0].get("a").unwrap().value else { panic!() };
    assert_eq!(items[0].get("b").unwrap().at, Position { line: 2, column: 8 });
}

#[test]
fn every_duplicate_key_is_an_error_with_its_place() {
    let text = errors("a: 1\nb:\n  c: 1\n  c: 2\na: 2\n");
    assert_eq!(
        text,
        "f.yaml:4:3: the key \"c\" is duplicated (remove one of them)\nf.yaml:5:1: the key \"a\" is duplicated (remove one of them)"
    );
}

#[test]
fn keys_that_are_not_strings_and_merge_keys_are_refused() {
    assert!(errors("1: a\n").contains("f.yaml:1:1: a key must be a string; this is a number"));
    assert!(errors("? [a]\n: b\n").contains("a key must be a string; this is a list"));
    assert!(errors("a: &x {b: 1}\nc:\n  <<: *x\n").contains("f.yaml:3:3: merge keys"));
}

#[test]
fn a_few_aliases_are_fine_and_a_bomb_of_them_is_not() {
    assert_eq!(read("a: &x [1]\nb: *x\n").unwrap(), [json!({"a": [1], "b": [1]})]);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let last = level - 1;
        let items = vec![format!("*a{last}"); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert!(errors(&bomb).contains("anchors and aliases repeat more than"));
    assert!(errors("a: &x [*x]\n").contains("f.yaml:1:8"));
}

#[test]
fn a_long_text_repeated_by_aliases_is_refused() {
    let text = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), vec!["*x"; 20].join(", "));
    assert!(errors(&text).contains("anchors and aliases repeat"));
}

#[test]
fn deep_trees_are_refused_in_flow_and_in_block_style() {
    assert!(errors(&"[".repeat(500_000)).contains("nested more than 64 deep"));
    assert!(errors(&"[\n".repeat(200)).contains("nested more than 64 deep"));
    assert!(errors(&"- ".repeat(500_000)).contains("nested more than 64 deep"));
    assert!(errors(&"{a: ".repeat(200)).contains("nested more than 64 deep"));
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let hundred_megabytes = vec![b'x'; 100_000_000];
    let error = parse("f.yaml", &hundred_megabytes, Dialect::Strict, DOCUMENT_LIMIT).unwrap_err();
    assert!(error[0].message.contains("100000000 bytes"), "{}", error[0]);
}

#[test]
fn bytes_that_are_not_utf8_are_an_error_at_their_place() {
    let error = parse("f.yaml", b"a: \xc3\xa4\nb: \xff\n", Dialect::Strict, 100).unwrap_err();
    assert!(error[0].to_string().starts_with("f.yaml:2:4: the file is not UTF-8"), "{}", error[0]);
}

#[test]
fn garbage_is_an_error_with_its_place() {
    for text in ["a: [1, 2\n", "a: b: c\n", "\"open", "a:\n\tb: 1", "a: 'b", "%YAML 9\n", "}", "a: !foo bar"]
    {
        assert!(errors(text).starts_with("f.yaml:"), "{text:?}");
    }
}

#[test]
fn tags_of_the_core_schema_are_heeded() {
    assert_eq!(read("a: !!str 42\nb: !!int 7\nc: ! 7\n").unwrap(), [json!({"a": "42", "b": 7, "c": "7"})]);
    assert!(errors("a: !!int x\n").contains("this is not a valid !!int"));
    assert!(errors("a: !!binary aGk=\n").contains("the tag !!binary is not known"));
}
