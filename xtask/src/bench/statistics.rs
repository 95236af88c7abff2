//! Best, median and geometric mean.
//!
//! On a shared host disturbances only ever add time, so the best of several runs is the nearest to what the code can do; the median
//! says how disturbed they were. Ratios are averaged by their geometric mean, the only mean that does not depend on
//! which of two columns is the base.

/// The smallest, if there is any.
pub fn best(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().min_by(f64::total_cmp)
}

/// The middle one, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// The geometric mean; nothing where there are no values, or one that is not positive.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.iter().any(|value| !value.is_finite() || *value <= 0.0) {
        return None;
    }
    Some((values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_there_is_nothing() {
        assert_eq!((best(&[]), median(&[]), geometric_mean(&[])), (None, None, None));
    }

    #[test]
    fn middles() {
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
        assert_eq!(best(&[3.0, 1.0, 2.0]), Some(1.0));
    }

    #[test]
    fn geometric_mean_does_not_depend_on_the_base() {
        let ratios = [2.0, 8.0, 0.5];
        let inverse: Vec<f64> = ratios.iter().map(|ratio| 1.0 / ratio).collect();
        let (there, back) = (geometric_mean(&ratios).unwrap(), geometric_mean(&inverse).unwrap());
        assert!((there - 2.0).abs() < 1e-12 && (there * back - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[1.0, 0.0]), None);
        assert_eq!(geometric_mean(&[1.0, f64::NAN]), None);
    }
}
