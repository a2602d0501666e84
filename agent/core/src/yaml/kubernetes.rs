//! What a scalar means to Kubernetes' own tools: YAML 1.1 as sigs.k8s.io/yaml reads it, which kubectl and the
//! API server use. `agent/core/tests/yaml_table.rs` compares with them.

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::scalar::{BadScalar, Scalar, is_float};

/// The value of a scalar with one of YAML's own tags; `name` is what follows `!!`.
pub(super) fn tagged(text: &str, name: &str) -> Result<Scalar, BadScalar> {
    let wrong = || BadScalar { message: format!("this is not a valid !!{name}"), hint: None };
    match (name, plain(text)) {
        ("binary", _) => binary(text).map(Scalar::Text).ok_or_else(wrong),
        ("null", scalar @ Scalar::Null)
        | ("bool", scalar @ Scalar::Bool(_))
        | ("int", scalar @ (Scalar::Int(_) | Scalar::Uint(_)))
        | ("float", scalar @ Scalar::Float(_)) => Ok(scalar),
        #[allow(clippy::cast_precision_loss)] // As it is done there.
        ("float", Scalar::Int(number)) => Ok(Scalar::Float(number as f64)),
        ("timestamp", Scalar::Text(text)) if is_date(&text) => Ok(Scalar::Text(text)),
        ("null" | "bool" | "int" | "float" | "timestamp", _) => Err(wrong()),
        // Also of tags that nobody knows.
        _ => Ok(Scalar::Text(text.to_owned())),
    }
}

/// The value of a plain scalar without a tag.
pub(super) fn plain(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let number = match text.as_bytes().first() {
        Some(b'.') => float(text),
        Some(b'0'..=b'9' | b'+' | b'-') => number(&text.replace('_', "")),
        _ => None,
    };
    number.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}

/// An integer with the prefixes of Go, or a float; underscores are gone already.
fn number(plain: &str) -> Option<Scalar> {
    integer(plain).or_else(|| float(plain)).or_else(|| {
        // As it is there: what follows 0b may have a sign of its own.
        let (sign, digits) = match plain.strip_prefix("-0b") {
            Some(digits) if !digits.starts_with(['+', '-']) => ("-", digits),
            Some(_) => return None,
            None => ("", plain.strip_prefix("0b")?),
        };
        i64::from_str_radix(&format!("{sign}{digits}"), 2).ok().map(Scalar::Int)
    })
}

fn integer(plain: &str) -> Option<Scalar> {
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    let lower = unsigned.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") if lower.len() > 2 => (16, &lower[2..]),
        Some("0o") if lower.len() > 2 => (8, &lower[2..]),
        Some("0b") if lower.len() > 2 => (2, &lower[2..]),
        _ if lower.starts_with('0') && lower.len() > 1 => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match plain.as_bytes().first() {
        Some(b'-') => 0i64.checked_sub_unsigned(magnitude).map(Scalar::Int),
        Some(b'+') => i64::try_from(magnitude).ok().map(Scalar::Int),
        _ => Some(i64::try_from(magnitude).map_or(Scalar::Uint(magnitude), Scalar::Int)),
    }
}

/// What is too large for a float stays a string.
fn float(plain: &str) -> Option<Scalar> {
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(plain);
    is_float(unsigned)
        .then(|| plain.parse::<f64>().ok())
        .flatten()
        .filter(|number| number.is_finite())
        .map(Scalar::Float)
}

/// Whether it begins like a date: what a `!!timestamp` is stays a string.
fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let mut digits = |least: usize, most: usize| {
        let part = parts.next().unwrap_or_default();
        let count = part.bytes().take_while(u8::is_ascii_digit).count();
        (least..=most).contains(&count)
    };
    digits(4, 4) && digits(1, 2) && digits(1, 2)
}

/// The text that base64 stands for; as in JSON of Go, what isn't UTF-8 is replaced byte by byte.
fn binary(text: &str) -> Option<String> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    let encoded = text.replace(['\n', '\r'], "");
    let bytes = GeneralPurpose::new(&ALPHABET, config).decode(encoded).ok()?;
    let mut decoded = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        decoded.push_str(chunk.valid());
        decoded.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Some(decoded)
}
