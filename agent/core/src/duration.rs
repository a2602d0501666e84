//! Durations as people write them, in documents, in agent.toml and on the command line: whole numbers with units, the
//! larger units first, as in `60s`, `5m`, `1h30m` and `500ms`.

use std::time::Duration;

use crate::diagnostic::quoted;

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a duration; write 60s, 5m, 1h30m or 500ms", quoted(.0))]
pub struct NotADuration(String);

/// The units in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The same as a regular expression, for JSON Schema.
pub const PATTERN: &str = "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// Reads a duration. A bare number is none: nobody can tell its unit.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let wrong = || NotADuration(text.chars().take(50).collect());
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        // Going on where the last unit was found: units come in order, and none twice.
        let (_, scale) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        millis = number.checked_mul(*scale).and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// Writes a duration in the shortest form that [`parse`] reads back. What is less than a millisecond is left out.
pub fn format(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in UNITS {
        if millis >= size {
            out.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_were_written() {
        for text in ["5m", "60s", "1h30m", "250ms", "2d", "0s", "1d2h3m4s5ms"] {
            let duration = parse(text).unwrap();
            assert_eq!(parse(&format(duration)).unwrap(), duration, "{text}");
        }
        assert_eq!(format(Duration::from_secs(5400)), "1h30m");
    }

    #[test]
    fn a_duration_without_a_unit_out_of_order_or_out_of_range_is_refused() {
        let bad = [
            "",
            "5",
            "m",
            "5x",
            "-5s",
            "1.5s",
            "5m5m",
            "30m1h",
            "1 h",
            " 5m",
            "5m ",
            "99999999999999999999s",
            "9999999999999999d",
            "é",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
