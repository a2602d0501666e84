//! What a scalar means in documents of Holdfast's own: the core schema of YAML 1.2 (chapter 10.3).

use serde_json::{Number, Value};

use super::scalar::{BadScalar, is_float};

/// The value of a plain scalar without a tag.
pub(super) fn plain(text: &str) -> Result<Value, BadScalar> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if is_special_float(text) {
        return Err(BadScalar::new(
            format!("{text} can't be represented in JSON"),
            "write a finite number, or quote it to have a string",
        ));
    }
    match number(text) {
        Some(result) => result.map(Value::Number),
        None => Ok(Value::String(text.to_owned())),
    }
}

/// The value of a scalar with one of the core schema's tags, such as `!!str`.
pub(super) fn tagged(text: &str, suffix: &str) -> Result<Value, BadScalar> {
    let wrong = || BadScalar { message: format!("this is not a valid !!{suffix}"), hint: None };
    match suffix {
        "str" => Ok(Value::String(text.to_owned())),
        "null" | "bool" | "int" | "float" => {
            let value = plain(text)?;
            let fits = match (&value, suffix) {
                (Value::Null, "null") | (Value::Bool(_), "bool") | (Value::Number(_), "float") => true,
                (Value::Number(number), "int") => !number.is_f64(),
                _ => false,
            };
            if fits { Ok(value) } else { Err(wrong()) }
        }
        _ => Err(BadScalar::new(
            format!("the tag !!{suffix} is not known"),
            "known are !!str, !!int, !!float, !!bool and !!null",
        )),
    }
}

fn is_special_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// The number that `text` is, if it looks like one.
fn number(text: &str) -> Option<Result<Number, BadScalar>> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let negative = text.starts_with('-');
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if let Some(digits) = unsigned.strip_prefix("0x") {
        return integer(digits, 16, negative);
    }
    if let Some(digits) = unsigned.strip_prefix("0o") {
        return integer(digits, 8, negative);
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        if unsigned.len() == 1 || !unsigned.starts_with('0') {
            return integer(unsigned, 10, negative);
        }
        return Some(Err(BadScalar::new(
            format!("{text} is ambiguous: some parsers read it as {unsigned}, others as an octal number"),
            "quote it to keep its zeros, or leave them out",
        )));
    }
    is_float(unsigned).then(|| float(text))
}

fn integer(digits: &str, radix: u32, negative: bool) -> Option<Result<Number, BadScalar>> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok().and_then(|number| match negative {
        false => Some(Number::from(number)),
        true => 0i64.checked_sub_unsigned(number).map(Number::from),
    });
    Some(
        number
            .ok_or_else(|| BadScalar::new("the number needs more than 64 bits", "quote it to have a string")),
    )
}

fn float(text: &str) -> Result<Number, BadScalar> {
    text.parse::<f64>()
        .ok()
        .and_then(Number::from_f64)
        .ok_or_else(|| BadScalar::new("the number is too large", "quote it to have a string"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strict(text: &str) -> Option<Value> {
        plain(text).ok()
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("true", json!(true)),
            ("NO", json!("NO")),
            ("yes", json!("yes")),
            ("0", json!(0)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1e3", json!(1000.0)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.2.3", json!("1.2.3")),
            ("64Mi", json!("64Mi")),
            (".", json!(".")),
            ("-", json!("-")),
            ("e3", json!("e3")),
        ] {
            assert_eq!(strict(text), Some(value), "{text:?}");
        }
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for text in ["0042", "-007", ".inf", "-.INF", ".nan", "18446744073709551616", "1e999"] {
            assert_eq!(strict(text), None, "{text:?}");
        }
    }
}
