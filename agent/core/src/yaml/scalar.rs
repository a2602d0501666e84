//! Scalars: whose rules they are read by, and how they are written as values and as keys.

use serde_json::{Number, Value};

use super::{Dialect, kubernetes, strict};

/// Why a scalar has no value.
pub(super) struct BadScalar {
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl BadScalar {
    pub(super) fn new(message: impl Into<String>, hint: &'static str) -> Self {
        BadScalar { message: message.into(), hint: Some(hint) }
    }
}

/// A scalar before it is a value or a key; as these, Kubernetes writes numbers in different ways.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Only what an `i64` can't hold.
    Uint(u64),
    Float(f64),
    Text(String),
}

/// The value of a plain scalar without a tag.
pub(super) fn plain(text: &str, dialect: Dialect) -> Result<Scalar, BadScalar> {
    match dialect {
        Dialect::Strict => strict::plain(text).map(Scalar::of),
        Dialect::Kubernetes => Ok(kubernetes::plain(text)),
    }
}

/// The value of a scalar with one of YAML's own tags; `name` is what follows `!!`.
pub(super) fn tagged(text: &str, name: &str, dialect: Dialect) -> Result<Scalar, BadScalar> {
    match dialect {
        Dialect::Strict => strict::tagged(text, name).map(Scalar::of),
        Dialect::Kubernetes => kubernetes::tagged(text, name),
    }
}

/// Why something of that kind is no key.
pub(super) fn no_key(kind: &str) -> BadScalar {
    BadScalar::new(format!("a key must be a string; this is {kind}"), "quote it")
}

impl Scalar {
    /// What a node holds, as long as it is no list or map.
    pub(super) fn of(value: Value) -> Scalar {
        match value {
            Value::Bool(value) => Scalar::Bool(value),
            Value::String(text) => Scalar::Text(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => Scalar::Int(number),
                (None, Some(number), _) => Scalar::Uint(number),
                (None, None, Some(number)) => Scalar::Float(number),
                (None, None, None) => Scalar::Null,
            },
            _ => Scalar::Null,
        }
    }

    /// As a value of JSON. For Kubernetes, floats without a fraction are integers there.
    pub(super) fn into_value(self, dialect: Dialect) -> Result<Value, BadScalar> {
        Ok(match self {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => Value::Bool(value),
            Scalar::Int(number) => Value::Number(number.into()),
            Scalar::Uint(number) => Value::Number(number.into()),
            Scalar::Text(text) => Value::String(text),
            Scalar::Float(number) => Some(number)
                .filter(|_| dialect == Dialect::Kubernetes)
                .and_then(whole)
                .or_else(|| Number::from_f64(number))
                .map(Value::Number)
                .ok_or_else(|| {
                    let hint = "write a finite number, or quote it to have a string";
                    BadScalar::new(format!("{} can't be represented in JSON", shown(number)), hint)
                })?,
        })
    }

    /// As the key of a map, which is always a string. Kubernetes makes strings of numbers and booleans.
    pub(super) fn into_key(self, dialect: Dialect) -> Result<String, BadScalar> {
        match (self, dialect) {
            (Scalar::Text(text), _) => Ok(text),
            (Scalar::Null, _) => Err(no_key("nothing")),
            (Scalar::Bool(_), Dialect::Strict) => Err(no_key("a boolean")),
            (_, Dialect::Strict) => Err(no_key("a number")),
            (Scalar::Bool(value), _) => Ok(value.to_string()),
            (Scalar::Int(number), _) => Ok(number.to_string()),
            (Scalar::Float(number), _) => Ok(shown(number)),
            (Scalar::Uint(_), _) => Err(no_key("a number of more than 63 bits")),
        }
    }
}

/// `[0-9]+(\.[0-9]*)?` or `\.[0-9]+`, then perhaps `[eE][-+]?[0-9]+`.
pub(super) fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(index) => (&unsigned[..index], Some(&unsigned[index + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => {
            digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
        }
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !unsigned.is_empty() && digits(unsigned)
    });
    mantissa_fits && exponent_fits
}

/// A float without a fraction as the integer that JSON of Go has for it: as few digits as tell it from its
/// neighbours, then zeros.
fn whole(number: f64) -> Option<Number> {
    if number.fract() != 0.0 || (number == 0.0 && number.is_sign_negative()) {
        return None;
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e')?;
    let exponent: usize = exponent.parse().ok().filter(|exponent| *exponent < 21)?;
    let (first, others) = digits.split_once('.').unwrap_or((digits, ""));
    let written = format!("{first}{others:0<exponent$}");
    written.parse::<i64>().map(Number::from).or_else(|_| written.parse::<u64>().map(Number::from)).ok()
}

/// A float as Go writes it with `%g` and 32 bits, which is how keys are written there.
fn shown(number: f64) -> String {
    #[allow(clippy::cast_possible_truncation)] // As it is done there.
    let number = number as f32;
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    // One digit, a point, the others, and the exponent: as few digits as tell it from its neighbours.
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    number.to_string()
}
