//! Numbers of bytes for people.

use std::fmt;

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A number of bytes, as people read it: `500 MiB`, `1.5 KiB`, `7 B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size(bytes) = *self;
        match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
            Some((name, unit)) if bytes.is_multiple_of(unit) => write!(f, "{} {name}", bytes / unit),
            Some((name, unit)) => write!(f, "{:.1} {name}", bytes as f64 / unit as f64),
            None => write!(f, "{bytes} B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (7, "7 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (500 << 20, "500 MiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
