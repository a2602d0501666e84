//! Sizes as `agent.toml` writes them: a number and a unit. Durations are [`holdfast_core::duration`]'s.

/// A text that is no size.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and a unit (B, KiB, MiB, GiB, TiB), such as \"2GiB\"")]
pub struct NotASize(String);

const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

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
