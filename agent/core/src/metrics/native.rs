//! Native histograms: buckets whose bounds follow from a schema, each `2^(2^-schema)` times the one before.

use std::collections::BTreeMap;

/// The schemas of exponential buckets.
const SCHEMAS: std::ops::RangeInclusive<i8> = -4..=8;
/// More buckets than any client library keeps.
const BUCKETS_LIMIT: usize = 1024;
/// Beyond this no bucket of any schema is a number.
const INDEX_LIMIT: i64 = 300_000;

/// What a native histogram counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Native {
    schema: i8,
    zero_threshold: f64,
    zero: f64,
    /// All that is below zero, together: no latency is.
    below: f64,
    positive: BTreeMap<i32, f64>,
}

/// The runs of a native histogram's buckets: how far each begins behind the last, and how long it is.
pub(super) type Spans = Vec<(i64, u64)>;

impl Native {
    /// From what a page says; or why it can't be.
    pub(super) fn new(schema: i64, zero_threshold: f64, zero: f64, below: f64) -> Result<Self, String> {
        let known = i8::try_from(schema).ok().filter(|schema| SCHEMAS.contains(schema));
        let schema =
            known.ok_or_else(|| format!("native histograms of schema {schema} are not understood"))?;
        if !(zero_threshold.is_finite() && zero_threshold >= 0.0 && zero >= 0.0 && below >= 0.0) {
            return Err("a native histogram has a count or threshold that is not a valid number".to_owned());
        }
        Ok(Native { schema, zero_threshold, zero, below, positive: BTreeMap::new() })
    }

    /// With its buckets above zero.
    pub(super) fn with(mut self, spans: &Spans, counts: &[f64]) -> Result<Self, String> {
        let length: u64 = spans.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length));
        if length != counts.len() as u64 || counts.len() > BUCKETS_LIMIT {
            return Err(format!(
                "a native histogram has spans for {length} buckets, and {} of at most {BUCKETS_LIMIT}",
                counts.len()
            ));
        }
        let mut next = 0i64;
        let mut counts = counts.iter();
        for (offset, length) in spans {
            next = next.saturating_add(*offset);
            for count in counts.by_ref().take(usize::try_from(*length).unwrap_or(usize::MAX)) {
                let index = i32::try_from(next).ok().filter(|_| next.abs() <= INDEX_LIMIT);
                let index = index.ok_or("a native histogram has a bucket whose index is out of range")?;
                if !(count.is_finite() && *count >= 0.0) {
                    return Err("a native histogram has a count that is not a valid number".to_owned());
                }
                self.positive.insert(index, *count);
                next += 1;
            }
        }
        Ok(self)
    }

    /// How many were observed.
    pub(super) fn count(&self) -> f64 {
        self.below + self.zero + self.positive.values().sum::<f64>()
    }

    /// The same in the buckets of a lower schema, and with a zero bucket at least so wide.
    fn coarsened(&self, schema: i8, zero_threshold: f64) -> Native {
        let steps = u32::from(self.schema.abs_diff(schema));
        let mut coarse = Native { schema, positive: BTreeMap::new(), ..self.clone() };
        coarse.zero_threshold = coarse.zero_threshold.max(zero_threshold);
        for (index, count) in &self.positive {
            // A shift rounds down, also below zero.
            let index = ((index - 1) >> steps) + 1;
            if upper(schema, index) <= coarse.zero_threshold {
                coarse.zero += count;
            } else {
                *coarse.positive.entry(index).or_default() += count;
            }
        }
        coarse
    }

    /// Two in the same buckets.
    fn alike(&self, other: &Native) -> (Native, Native) {
        let schema = self.schema.min(other.schema);
        let zero = self.zero_threshold.max(other.zero_threshold);
        (self.coarsened(schema, zero), other.coarsened(schema, zero))
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Native) -> Native {
        let (mut sum, other) = self.alike(other);
        sum.zero += other.zero;
        sum.below += other.below;
        for (index, count) in other.positive {
            *sum.positive.entry(index).or_default() += count;
        }
        sum
    }

    /// What was observed since `before`; none if it can't be the same histogram, as some count went down.
    pub(super) fn since(&self, before: &Native) -> Option<Native> {
        let (mut grown, before) = self.alike(before);
        grown.zero -= before.zero;
        grown.below -= before.below;
        for (index, count) in before.positive {
            *grown.positive.entry(index).or_default() -= count;
        }
        let falls = grown.positive.values().chain([&grown.zero, &grown.below]).any(|count| *count < 0.0);
        (!falls).then_some(grown)
    }

    /// The quantile `q`, between the bounds of its bucket as if it grew evenly by factors; none without
    /// observations.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count <= 0.0 {
            return None;
        }
        let mut rank = q * count - self.below;
        if rank <= self.zero && (self.zero > 0.0 || rank <= 0.0) {
            let share = if self.zero > 0.0 { (rank / self.zero).max(0.0) } else { 0.0 };
            return Some(self.zero_threshold * share);
        }
        rank -= self.zero;
        let mut last = None;
        for (index, count) in self.positive.iter().filter(|(_, count)| **count > 0.0) {
            let (low, high) = (upper(self.schema, index - 1), upper(self.schema, *index));
            if rank <= *count {
                return Some(low * (high / low).powf(rank / count));
            }
            rank -= count;
            last = Some(high);
        }
        last
    }
}

/// The upper bound of a bucket.
fn upper(schema: i8, index: i32) -> f64 {
    2f64.powf(f64::from(index) * 2f64.powi(-i32::from(schema)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The histogram of these times.
    fn of(schema: i8, times: &[f64]) -> Native {
        let mut native = Native::new(schema.into(), 1e-6, 0.0, 0.0).unwrap();
        for time in times {
            let index = (time.log2() * 2f64.powi(schema.into())).ceil() as i32;
            *native.positive.entry(index).or_default() += 1.0;
        }
        native
    }

    #[test]
    fn a_bucket_is_between_two_powers() {
        let native = Native::new(0, 1e-4, 0.0, 0.0).unwrap().with(&vec![(1, 2)], &[1.0, 1.0]).unwrap();
        assert_eq!(native.quantile(0.5), Some(2.0));
        assert_eq!(native.quantile(1.0), Some(4.0));
        let middle = native.quantile(0.25).unwrap();
        assert!((middle - 2f64.sqrt()).abs() < 1e-9, "{middle}");
    }

    #[test]
    fn what_cannot_be_a_native_histogram_is_told() {
        for schema in [-53, -5, 9, 1000] {
            assert!(Native::new(schema, 0.0, 0.0, 0.0).is_err(), "{schema}");
        }
        let native = || Native::new(0, 0.0, 0.0, 0.0).unwrap();
        assert!(native().with(&vec![(0, 2)], &[1.0]).is_err());
        assert!(native().with(&vec![(i64::MAX, 1), (i64::MAX, 1)], &[1.0, 1.0]).is_err());
        assert!(native().with(&vec![(0, u64::MAX), (0, u64::MAX)], &[]).is_err());
        assert!(native().with(&vec![(0, 1)], &[f64::NAN]).is_err());
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_its_buckets_width_of_the_request_that_it_is(
            mut times in prop::collection::vec(0.001..10.0f64, 1..200), q in 0.01..0.999f64, schema in -1..=8i8,
        ) {
            times.sort_by(f64::total_cmp);
            let rank = ((q * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let factor = upper(schema, 1);
            let found = of(schema, &times).quantile(q).unwrap();
            let ratio = found / times[rank - 1];
            prop_assert!(1.0 / factor - 1e-6 <= ratio && ratio <= factor + 1e-6, "{found} for {}", times[rank - 1]);
        }

        #[test]
        fn what_grew_and_what_was_before_are_what_is_whatever_their_schemas(
            early in prop::collection::vec(0.001..10.0f64, 0..50),
            late in prop::collection::vec(0.001..10.0f64, 0..50),
            fine in 0..=8i8, coarse in -4..=3i8,
        ) {
            let before = of(fine, &early);
            let now = of(coarse.min(fine), &[early.clone(), late.clone()].concat());
            let grown = now.since(&before).unwrap();
            prop_assert_eq!(grown.count(), late.len() as f64);
            prop_assert_eq!(before.plus(&grown).count(), now.count());
            prop_assert!(late.is_empty() || before.since(&now).is_none());
        }
    }
}
