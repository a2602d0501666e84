//! Durations and sizes as `agent.toml` writes them: a number and a unit.

use std::time::Duration;

/// A text that is no duration.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write a whole number and a unit (ms, s, m, h, d), such as \"60s\", \"5m\" or \"1h30m\""
)]
pub struct NotADuration(String);

/// A text that is no size.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and a unit (B, KiB, MiB, GiB, TiB), such as \"2GiB\"")]
pub struct NotASize(String);

const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a duration such as `5m` or `1h30m`. A bare number is refused: nobody can tell its unit.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let bad = || NotADuration(text.chars().take(50).collect());
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(bad)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let millis = TIMES.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?.1;
        total = number.checked_mul(millis).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// Writes a duration in the shortest form that [`parse_duration`] reads back.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in TIMES {
        if millis >= size {
            out.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    out
}

/// Reads a size such as `2GiB`, in bytes.
pub fn parse_size(text: &str) -> Result<u64, NotASize> {
    let bad = || NotASize(text.chars().take(50).collect());
    let (number, unit) = split_number(text.trim()).ok_or_else(bad)?;
    let bytes = SIZES.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(bad)?.1;
    number.checked_mul(bytes).ok_or_else(bad)
}

/// Writes a number of bytes with the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let (unit, size) =
        SIZES.into_iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_were_written() {
        for text in ["5m", "60s", "1h30m", "250ms", "2d", "0s"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration, "{text}");
        }
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
    }

    #[test]
    fn a_duration_without_a_unit_or_out_of_range_is_refused() {
        for text in ["", "5", "m", "5x", "-5s", "1.5s", "99999999999999999999s", "9999999999999999d", "é"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_read_back_as_they_were_written() {
        for (text, bytes) in [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("7B", 7)] {
            assert_eq!(parse_size(text).unwrap(), bytes);
            assert_eq!(parse_size(&format_size(bytes)).unwrap(), bytes);
        }
        for text in ["", "2", "2GB", "GiB", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }
}
