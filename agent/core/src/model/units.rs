//! Durations, quantities and shares, as people write them in documents.

use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use super::decode::text;
use crate::diagnostic::quoted;
use crate::duration::{self, NotADuration};

/// A span of time, as [`crate::duration`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        duration::parse(text).map(Span)
    }
}

text!(
    Span,
    json!({"type": "string", "pattern": duration::PATTERN,
    "examples": ["60s", "5m", "1h30m", "500ms"]})
);

/// A number of bytes, as Kubernetes writes quantities: `64Mi`, `1G`, `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not a memory quantity; write 64Mi or 1Gi", quoted(text));
        let (number, scale) = BYTE_UNITS
            .iter()
            .find_map(|(unit, scale)| text.strip_suffix(unit).map(|number| (number, *scale)))
            .ok_or_else(wrong)?;
        thousandths(number)
            .and_then(|number| number.checked_mul(scale))
            .map(|number| Bytes(number / 1000))
            .ok_or_else(wrong)
    }
}

text!(
    Bytes,
    number,
    json!({"type": ["string", "number"], "examples": ["64Mi", "1Gi"],
    "pattern": "^[0-9]+(\\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$|\\{[{%]"})
);

/// An amount of processor time in thousandths of a core: `500m`, `0.5`, `2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MilliCpu(pub u32);

impl FromStr for MilliCpu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{} is not a CPU quantity; write 500m, 0.5 or 2", quoted(text));
        let millis = match text.strip_suffix('m') {
            Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
            Some(_) => None,
            None => thousandths(text),
        };
        let millis = millis.and_then(|millis| u32::try_from(millis).ok()).filter(|millis| *millis > 0);
        millis.map(MilliCpu).ok_or_else(wrong)
    }
}

text!(
    MilliCpu,
    number,
    json!({"type": ["string", "number"], "examples": ["500m", 0.5],
    "pattern": "^([0-9]+m|[0-9]+(\\.[0-9]{1,3})?)$|\\{[{%]"})
);

/// A decimal number with at most three places, times a thousand.
pub(super) fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction)
}

/// A share in whole percent: `25%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_suffix('%')
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|number| number.parse().ok())
            .filter(|percent| *percent <= 100)
            .map(Percent)
            .ok_or_else(|| format!("{} is not a percentage; write 25%", quoted(text)))
    }
}

text!(Percent, json!({"type": "string", "pattern": "^(100|[0-9]{1,2})%$", "examples": ["25%"]}));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units_from_large_to_small() {
        for (text, millis) in [
            ("60s", 60_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "5", "s", "5x", "30m1h", "5m5m", "-5s", "1.5h", "5 m", "99999999999999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, bytes) in
            [("64Mi", 64 << 20), ("1.5Ki", 1536), ("1G", 1_000_000_000), ("7", 7), ("2k", 2000)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for (text, millis) in [("500m", 500), ("0.5", 500), ("2", 2000), ("1.25", 1250)] {
            assert_eq!(text.parse(), Ok(MilliCpu(millis)), "{text}");
        }
        for text in ["", "x", "64MB", "-1", ".5Mi", "1.Mi", "1.2345", "99999999999Ti"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["0", "0m", "m", "1.5m", "0.0001", "99999999999"] {
            assert!(text.parse::<MilliCpu>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_whole_percent() {
        assert_eq!("25%".parse(), Ok(Percent(25)));
        for text in ["25", "101%", "%", "-1%", "2.5%"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
