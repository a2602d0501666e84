//! What differs between two JSON values, in a line for people.

use serde_json::Value;

/// How many differences are named; the rest is counted.
const NAMED: usize = 3;

/// How many characters of a value are shown.
const SHOWN: usize = 40;

/// Names the places where `found` differs from `wanted`, the first few with their values; `None` when they
/// are equal. With `values` false only the places are named: what lies there may be secret.
pub fn difference(found: &Value, wanted: &Value, values: bool) -> Option<String> {
    let mut places = Vec::new();
    walk(&mut String::new(), Some(found), Some(wanted), values, &mut places);
    if places.is_empty() {
        return None;
    }
    let more = places.len().saturating_sub(NAMED);
    places.truncate(NAMED);
    let mut text = places.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    Some(text)
}

fn walk(
    path: &mut String,
    found: Option<&Value>,
    wanted: Option<&Value>,
    values: bool,
    places: &mut Vec<String>,
) {
    match (found, wanted) {
        (found, wanted) if found == wanted => {}
        (Some(Value::Object(found)), Some(Value::Object(wanted))) => {
            for (key, value) in wanted {
                step(path, key, |path| walk(path, found.get(key), Some(value), values, places));
            }
            for (key, value) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                step(path, key, |path| walk(path, Some(value), None, values, places));
            }
        }
        (Some(Value::Array(found)), Some(Value::Array(wanted))) if found.len() == wanted.len() => {
            for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                step(path, &index.to_string(), |path| {
                    walk(path, Some(found), Some(wanted), values, places);
                });
            }
        }
        (found, wanted) => places.push(describe(path, found, wanted, values)),
    }
}

fn step(path: &mut String, key: &str, inner: impl FnOnce(&mut String)) {
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.push_str(key);
    inner(path);
    path.truncate(length);
}

fn describe(path: &str, found: Option<&Value>, wanted: Option<&Value>, values: bool) -> String {
    let path = if path.is_empty() { "the whole object" } else { path };
    match (found, wanted) {
        (None, _) => format!("{path} is missing"),
        (_, None) => format!("{path} was added"),
        (Some(found), Some(wanted)) if values => {
            format!("{path} is {}, but should be {}", short(found), short(wanted))
        }
        _ => format!("{path} differs"),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_values_have_no_difference() {
        assert_eq!(difference(&json!({"a": [1, {"b": null}]}), &json!({"a": [1, {"b": null}]}), true), None);
    }

    #[test]
    fn a_difference_names_its_place_and_both_values() {
        let text = difference(&json!({"spec": {"replicas": 1}}), &json!({"spec": {"replicas": 3}}), true);
        assert_eq!(text.unwrap(), "spec.replicas is 1, but should be 3");
    }

    #[test]
    fn what_is_missing_and_what_was_added_is_told_apart() {
        let text = difference(&json!({"b": 1}), &json!({"a": 1}), true).unwrap();
        assert_eq!(text, "a is missing, b was added");
    }

    #[test]
    fn values_that_may_be_secret_are_not_shown() {
        let text = difference(&json!({"data": {"k": "old"}}), &json!({"data": {"k": "new"}}), false).unwrap();
        assert_eq!(text, "data.k differs");
    }

    #[test]
    fn many_differences_are_counted() {
        let text = difference(&json!([1, 2, 3, 4, 5]), &json!([0, 0, 0, 0, 0]), false).unwrap();
        assert_eq!(text, "0 differs, 1 differs, 2 differs and 2 more");
    }
}
