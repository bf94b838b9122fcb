//! What the figures are made of: medians, intervals, fairness, and when a target
//! counts as met.

mod rng;

pub(crate) use rng::Rng;
use serde::Serialize;

/// How often the ratios of a row are drawn again for its interval. More changes
/// the third digit only.
const RESAMPLES: usize = 4000;

/// Fewer values than this make no interval: the row stays unresolved.
pub(crate) const FEWEST: usize = 3;

/// The value below which a part `q` (0 to 1) of the values lies, interpolated
/// between neighbours. `sorted` must be in rising order; 0 if it is empty.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// Puts values in rising order.
pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The value in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// A median and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// The median.
    pub(crate) median: f64,
    /// Lower end of its 95 % interval.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
    /// Values behind it.
    pub(crate) count: usize,
}

/// The median of `values` with its 95 % interval by the percentile bootstrap.
/// The same seed gives the same interval.
pub(crate) fn estimate(values: &[f64], seed: u64) -> Estimate {
    let mut rng = Rng::new(seed);
    let mut draw = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for slot in &mut draw {
            *slot = values[rng.below(values.len())];
        }
        medians.push(median(&draw));
    }
    medians.sort_by(f64::total_cmp);
    Estimate {
        median: median(values),
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
        count: values.len(),
    }
}

/// How far the rounds lie apart: (largest - smallest) / median, 0 of none.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let values = sorted(values);
    let middle = quantile(&values, 0.5);
    match (values.first(), values.last()) {
        (Some(first), Some(last)) if middle != 0.0 => (last - first) / middle,
        _ => 0.0,
    }
}

/// Jain's fairness index: 1 when all shares are equal, 1/n when one has all.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    if squares == 0.0 {
        return 0.0;
    }
    sum * sum / (shares.len() as f64 * squares)
}

/// What a row asks of its figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl std::fmt::Display for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(value) => write!(f, ">= {value}"),
            Self::AtMost(value) => write!(f, "<= {value}"),
        }
    }
}

/// Whether a row's target is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The whole interval lies on the right side.
    Met,
    /// The whole interval lies on the wrong side.
    NotMet,
    /// The interval holds the target, or there are too few values.
    NotResolved,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::NotResolved => "not resolved",
        })
    }
}

/// Judges an estimate by what is asked of it.
pub(crate) fn judge(estimate: &Estimate, need: Need) -> Verdict {
    if estimate.count < FEWEST {
        return Verdict::NotResolved;
    }
    let (met, missed) = match need {
        Need::AtLeast(target) => (estimate.low >= target, estimate.high < target),
        Need::AtMost(target) => (estimate.high <= target, estimate.low > target),
    };
    match (met, missed) {
        (true, _) => Verdict::Met,
        (_, true) => Verdict::NotMet,
        _ => Verdict::NotResolved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let values = [1.0, 2.0, 3.0, 4.0];
        close(quantile(&values, 0.0), 1.0);
        close(quantile(&values, 0.25), 1.75);
        close(quantile(&values, 0.5), 2.5);
        close(quantile(&values, 0.99), 3.97);
        close(quantile(&values, 1.0), 4.0);
        close(quantile(&[7.0], 0.99), 7.0);
        close(quantile(&[], 0.5), 0.0);
        close(median(&[9.0, 1.0, 5.0]), 5.0);
    }

    #[test]
    fn an_interval_holds_the_median_and_narrows_with_more_values() {
        let few: Vec<f64> = (0..5).map(f64::from).collect();
        let many: Vec<f64> = (0..500).map(|n| f64::from(n % 5)).collect();
        let (few, many) = (estimate(&few, 7), estimate(&many, 7));
        close(few.median, 2.0);
        close(many.median, 2.0);
        assert!(few.low <= 2.0 && few.high >= 2.0);
        // Of five values, the interval of the median is nearly all of them.
        close(few.low, 0.0);
        close(few.high, 4.0);
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(few, estimate(&[0.0, 1.0, 2.0, 3.0, 4.0], 7));
    }

    #[test]
    fn equal_values_make_a_point() {
        let one = estimate(&[1.5; 9], 1);
        close(one.low, 1.5);
        close(one.high, 1.5);
        close(spread(&[1.5; 9]), 0.0);
        close(spread(&[1.0, 2.0, 3.0]), 1.0);
    }

    #[test]
    fn fairness_of_known_shares() {
        close(jain(&[5.0; 64]), 1.0);
        close(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
        // (1+2+3)^2 / (3 * (1+4+9))
        close(jain(&[1.0, 2.0, 3.0]), 36.0 / 42.0);
        close(jain(&[]), 0.0);
    }

    #[test]
    fn a_target_is_met_only_by_the_whole_interval() {
        let of = |low, high, count| Estimate {
            median: f64::midpoint(low, high),
            low,
            high,
            count,
        };
        let least = Need::AtLeast(0.9);
        assert_eq!(judge(&of(0.9, 1.2, 5), least), Verdict::Met);
        assert_eq!(judge(&of(0.89, 1.2, 5), least), Verdict::NotResolved);
        assert_eq!(judge(&of(0.5, 0.89, 5), least), Verdict::NotMet);
        let most = Need::AtMost(1.1);
        assert_eq!(judge(&of(0.5, 1.1, 5), most), Verdict::Met);
        assert_eq!(judge(&of(0.5, 1.2, 5), most), Verdict::NotResolved);
        assert_eq!(judge(&of(1.11, 1.2, 5), most), Verdict::NotMet);
        // Two rounds that happen to agree prove nothing.
        assert_eq!(judge(&of(1.0, 1.0, 2), least), Verdict::NotResolved);
    }
}
