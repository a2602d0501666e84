//! Quantiles of classic histograms, as Prometheus' `histogram_quantile` computes them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The upper bound of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound(pub(super) f64);

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Where a quantile lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Quantile {
    /// About here.
    At(f64),
    /// In the last bucket, of which no more is known than where it begins.
    Above(f64),
}

/// The quantile `q` of what is in buckets that each count all up to their bound; none without observations, or
/// without a bucket for everything.
pub(super) fn quantile(buckets: &BTreeMap<Bound, f64>, q: f64) -> Option<Quantile> {
    let (last, _) = buckets.last_key_value().filter(|(bound, _)| bound.0 == f64::INFINITY)?;
    // A bucket can't hold less than a smaller one: scrapes aren't always of one moment.
    let mut most = 0.0_f64;
    let rising: Vec<(f64, f64)> = buckets
        .iter()
        .map(|(bound, count)| {
            most = most.max(*count);
            (bound.0, most)
        })
        .collect();
    if most <= 0.0 {
        return None;
    }
    let rank = q * most;
    let (mut start, mut before) = (0.0, 0.0);
    for (bound, count) in rising {
        if count >= rank && count > before {
            return Some(match bound {
                bound if bound == last.0 => Quantile::Above(start),
                bound if before == 0.0 && bound <= 0.0 => Quantile::At(bound),
                bound => Quantile::At(start + (bound - start) * ((rank - before) / (count - before))),
            });
        }
        (start, before) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buckets(counts: &[(f64, f64)]) -> BTreeMap<Bound, f64> {
        counts.iter().map(|(bound, count)| (Bound(*bound), *count)).collect()
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        // What histogram_quantile gives for the same buckets.
        let four = buckets(&[(0.1, 50.0), (0.5, 90.0), (1.0, 99.0), (f64::INFINITY, 100.0)]);
        for (q, expected) in [(0.25, 0.05), (0.5, 0.1), (0.7, 0.3), (0.9, 0.5), (0.99, 1.0)] {
            let Some(Quantile::At(found)) = quantile(&four, q) else { panic!("{q}") };
            assert!((found - expected).abs() < 1e-9, "{q}: {found}");
        }
        assert_eq!(quantile(&four, 0.999), Some(Quantile::Above(1.0)));
        assert_eq!(quantile(&buckets(&[(0.1, 0.0), (f64::INFINITY, 0.0)]), 0.5), None);
        assert_eq!(quantile(&buckets(&[(0.1, 4.0), (0.5, 9.0)]), 0.5), None, "no bucket for everything");
        assert_eq!(quantile(&buckets(&[]), 0.5), None);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_request_that_it_is(
            mut times in prop::collection::vec(0.0..3.0f64, 1..200), q in 0.01..0.999f64,
        ) {
            times.sort_by(f64::total_cmp);
            let bounds = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, f64::INFINITY];
            let count = |bound: f64| times.iter().filter(|time| **time <= bound).count() as f64;
            let counted: Vec<(f64, f64)> = bounds.iter().map(|bound| (*bound, count(*bound))).collect();
            let rank = ((q * times.len() as f64).ceil() as usize).clamp(1, times.len());
            let meant = times[rank - 1];
            let upper = bounds.iter().position(|bound| meant <= *bound).unwrap();
            let lower = if upper == 0 { 0.0 } else { bounds[upper - 1] };
            match quantile(&buckets(&counted), q) {
                Some(Quantile::At(found)) => {
                    prop_assert!(lower - 1e-9 <= found && found <= bounds[upper] + 1e-9, "{found} for {meant}");
                }
                Some(Quantile::Above(bound)) => prop_assert!(bound == 2.0 && meant > 2.0),
                None => prop_assert!(false, "no quantile"),
            }
        }
    }
}
