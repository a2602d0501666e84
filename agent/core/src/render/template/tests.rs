//! What templates can do, and what ends them.

use minijinja::context;
use serde_json::json;

use super::*;

fn root() -> Value {
    Value::from(minijinja::value::Serde(json!({
        "values": {"name": "pos", "list": [3, 1, 2], "n": 3, "map": {"b": 1, "a": "x"}, "empty": null, "on": true},
        "labels": {"region": "emea"},
    })))
}

fn out(source: &str) -> String {
    render("t.j2", Position::START, source, &root()).unwrap_or_else(|errors| panic!("{source}: {errors:?}"))
}

fn error(source: &str) -> String {
    match render("t.j2", Position::START, source, &root()) {
        Ok(text) => panic!("{source} gave {} bytes", text.len()),
        Err(errors) => errors[0].to_string(),
    }
}

#[test]
fn templates_work_as_in_minijinja() {
    for (source, expected) in [
        ("a{{ values.name }}b", "aposb"),
        ("{{ values.name ~ '-' ~ values.n }}", "pos-3"),
        ("{{ values.n * 2 + 1 }} {{ values.n - 1 }} {{ 7 // 2 }} {{ 2 ** 3 }}", "7 2 3 8"),
        ("{{ 'a' + 'b' }} {{ [1] + [2] }}", "ab [1,2]"),
        ("{% if values.n > 2 and values.name == 'pos' %}y{% else %}n{% endif %}", "y"),
        ("{% if 1 in values.list %}y{% endif %}{% if 9 not in values.list %}z{% endif %}", "yz"),
        ("{% for x in values.list | sort %}{{ x }},{% endfor %}", "1,2,3,"),
        ("{% for k, v in values.map | items %}{{ k }}={{ v }};{% endfor %}", "a=x;b=1;"),
        ("{{ values.missing | default('d') }}", "d"),
        ("{{ values.list | join('-') }} {{ values.list | length }}", "3-1-2 3"),
        ("{{ values.map | tojson }}", r#"{"a": "x", "b": 1}"#),
        ("{{ values.name[:2] }} {{ values.list[1:] }}", "po [1,2]"),
        ("{% macro m(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}{{ m(1, y=3) }}", "1213"),
        ("{% set a %}x{{ values.n }}{% endset %}{{ a }}{{ a }}", "x3x3"),
        ("{{ values.empty }} {{ values.on }}", "null true"),
        ("{{ values.on ~ values.empty ~ values.map }}", r#"truenull{"a":"x","b":1}"#),
        ("{{ {'a': 1, 'b': [2]} }}", r#"{"a":1,"b":[2]}"#),
        ("{{ values.name is defined }} {{ values.x is defined }}", "true false"),
        ("{{ values.list | map('string') | join('') }}", "312"),
        ("{{ values.list | select('>', 1) | list }}", "[3,2]"),
        ("{{ '%s' }}{# a comment #}{% raw %}{{ x }}{% endraw %}", "%s{{ x }}"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ '-' * values.n }}", "---"),
        ("{{ range(3) | list }} {{ dict(a=1) }}", r#"[0,1,2] {"a":1}"#),
        ("{{ 'y' if values.on else 'n' }}", "y"),
        ("{% for x in range(2) recursive %}{{ x }}{% endfor %}", "01"),
        ("{{ values.list is eq([3, 1, 2]) }}", "true"),
    ] {
        assert_eq!(out(source), expected, "{source}");
    }
}

#[test]
fn an_undefined_value_is_an_error_with_its_line() {
    assert!(
        error("a: 1\nb: {{ values.nmae }}\n").starts_with("t.j2:2:"),
        "{}",
        error("a: 1\nb: {{ values.nmae }}\n")
    );
    assert!(error("{{ values.nmae }}").contains("undefined value"));
    assert!(error("{{ nothing }}").contains("undefined value"));
    assert!(error("{{ values.a.b }}").contains("undefined value"));
    assert!(error("{{ values.nmae ~ 'x' }}").contains("undefined value"));
    assert!(error("{% if values.nmae == 1 %}{% endif %}").contains("undefined value"));
    assert!(error("{{ values.nmae | tojson }}").contains("undefined value"));
    assert!(error("{{ [values.nmae] }}").contains("undefined value"));
    assert!(error("{{ dict(a=values.nmae) }}").contains("undefined value"));
    assert!(error("{{ values.nmae is eq(1) }}").contains("undefined value"));
    assert!(error("{% for x in values.nmae %}{% endfor %}").contains("undefined value"));
}

#[test]
fn mistakes_are_errors_with_their_line() {
    assert!(error("a\n{% if x %}\n").starts_with("t.j2:"));
    assert!(error("a\n{{ 1 | nofilter }}").starts_with("t.j2:2:"));
    assert!(error("\n\n{{ open").starts_with("t.j2:3:"));
    assert!(error("{{ 1 / 0 }}").starts_with("t.j2:1:"));
}

#[test]
fn nothing_can_be_loaded_and_no_state_is_shared() {
    for source in [
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{% extends 'a' %}",
        "{% set ns = namespace() %}",
        "{{ debug() }}",
        "{% block x %}{% endblock %}",
    ] {
        assert!(error(source).starts_with("t.j2:1:"), "{source}");
    }
}

#[test]
fn templates_that_loop_for_too_long_end() {
    let nested = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    assert!(error(nested).contains("runs for too long"));
    assert!(error("{% for a in range(10**9) %}{% endfor %}").contains("too many elements"));
    let captured = format!(
        "{{% set x %}}{{% for a in range(100000) %}}{}{{% endfor %}}{{% endset %}}",
        "y".repeat(60_000)
    );
    assert!(error(&captured).contains("runs for too long"));
}

#[test]
fn templates_that_recurse_end() {
    assert!(error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").contains("recursion"));
    let two = "{% macro a(f) %}{{ f(f) }}{% endmacro %}{{ a(a) }}";
    assert!(error(two).contains("recursion"));
    let looping = "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}";
    assert!(error(looping).contains("recursion") || error(looping).contains("too long"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    assert!(error(&deep).contains("recursion"), "{}", error(&deep));
    let deep = format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    assert!(error(&deep).starts_with("t.j2:"));
}

#[test]
fn templates_that_grow_without_end_are_stopped_before_they_fill_the_memory() {
    let doubling = |step: &str| format!("{{% set a = 'xxxxxxxxxxxxxxxx' %}}{}{{{{ a }}}}", step.repeat(60));
    for step in [
        "{% set a = a ~ a %}",
        "{% set a = a + a %}",
        "{% set a = a * 2 %}",
        "{% set a = [a, a] | join(a) %}",
        "{% set a = a | replace('x', a) %}",
        "{% set a %}{{ a }}{{ a }}{% endset %}",
        "{% set a = a | indent(100000) %}",
        "{% set a = [a, a] %}",
        "{% set a = {'a': a, 'b': a} %}",
        "{% set a = dict(a=a, b=a) %}",
        "{% set a = (a, a) %}",
        "{% set a = [a, a] | string %}",
        "{% set a = [a, a] | tojson %}",
        "{% set a = [a] + [a] + [a] %}",
    ] {
        let error = error(&doubling(step));
        assert!(error.contains("is too expensive") || error.contains("too deep"), "{step}: {error}");
    }
}

#[test]
fn single_operations_that_ask_for_too_much_are_stopped() {
    for source in [
        "{{ 'x' * 10**9 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ ('x' * 100000) * 100000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ values.name * 1000000000 }}",
        "{{ values.list * 1000000000 }}",
        "{{ 'a' | indent(1000000000) }}",
        "{{ 'a' | indent(width=1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ range(100000) | join('x' * values.n * 10000) }}",
        "{{ values.list | tojson(indent=1000000000) }}",
        "{{ dict(**values.map) }}",
        "{{ 1 < 2 < 3 }}",
    ] {
        assert!(error(source).starts_with("t.j2:1:"), "{source}");
    }
}

#[test]
fn trees_of_exponential_size_cannot_be_compared() {
    let build = |name: &str| {
        format!("{{% set {name} = [1] %}}{}", format!("{{% set {name} = [{name}, {name}] %}}").repeat(40))
    };
    let source = format!("{}{}{{{{ a == b }}}}", build("a"), build("b"));
    assert!(error(&source).contains("is too expensive"));
}

#[test]
fn what_is_built_cannot_be_nested_deeper_than_a_stack_can_take() {
    let source = format!("{{% set a = 1 %}}{}", "{% set a = [a] %}".repeat(10_000));
    assert!(error(&source).contains("too deep"));
}

#[test]
fn an_output_or_a_template_that_is_too_long_is_refused() {
    assert!(error(&"x".repeat(SOURCE_LIMIT + 1)).contains("at most"));
    let lines = format!("{{% for a in range(20000) %}}{}\n{{% endfor %}}", "y".repeat(300));
    assert!(error(&lines).contains("at most"));
    assert!(error(&"\n".repeat(70_000)).contains("65,535 lines"));
}

#[test]
fn names_of_operators_are_no_way_around_the_budget() {
    assert!(error("{{ ['a'] | map('~') | list }}").contains("operands"));
    let _ = context! {};
}
