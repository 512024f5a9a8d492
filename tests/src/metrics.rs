//! The metrics of the paper's Table 5 that shipped patches are scored by.

/// The share of predictions that are right.
pub fn accuracy(found: &[usize], gold: &[usize]) -> f64 {
    assert_eq!(found.len(), gold.len());
    found.iter().zip(gold).filter(|(a, b)| a == b).count() as f64 / gold.len() as f64
}

/// Counts of (true, false) positives and (false, true) negatives of class 1.
fn confusion(found: &[usize], gold: &[usize]) -> (f64, f64, f64, f64) {
    assert_eq!(found.len(), gold.len());
    let count = |f: usize, g: usize| found.iter().zip(gold).filter(|(a, b)| (**a, **b) == (f, g)).count() as f64;
    (count(1, 1), count(1, 0), count(0, 1), count(0, 0))
}

/// The harmonic mean of precision and recall of class 1.
pub fn f1(found: &[usize], gold: &[usize]) -> f64 {
    let (tp, fp, fn_, _) = confusion(found, gold);
    2.0 * tp / (2.0 * tp + fp + fn_)
}

/// Matthews' correlation of two classes.
pub fn matthews(found: &[usize], gold: &[usize]) -> f64 {
    let (tp, fp, fn_, tn) = confusion(found, gold);
    (tp * tn - fp * fn_) / ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt()
}

/// Spearman's rank correlation, ties having the mean of their ranks.
pub fn spearman(found: &[f64], gold: &[f64]) -> f64 {
    assert_eq!(found.len(), gold.len());
    let (a, b) = (ranks(found), ranks(gold));
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(&b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut at = 0;
    while at < order.len() {
        let end = (at..order.len()).take_while(|i| values[order[*i]] == values[order[at]]).count() + at;
        for i in at..end {
            ranks[order[i]] = (at + end - 1) as f64 / 2.0;
        }
        at = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_agree_with_scikit_learn_and_scipy() {
        let (found, gold) = ([1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1]);
        assert!((accuracy(&found, &gold) - 0.666_666_666_7).abs() < 1e-9);
        assert!((f1(&found, &gold) - 0.75).abs() < 1e-12);
        assert!((matthews(&found, &gold) - 0.25).abs() < 1e-12);
        assert!((spearman(&[1.0, 2.0, 2.0, 4.0], &[1.0, 3.0, 2.0, 4.0]) - 0.948_683_298_1).abs() < 1e-9);
    }
}
