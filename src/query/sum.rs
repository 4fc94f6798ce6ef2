//! Sums of doubles that all but certainly come out alike however their values are divided.
//!
//! How many pieces a day is read in depends on the machine, and a plain sum of the pieces' sums is rounded otherwise
//! than that of all values: what an answer says in its last digit would, too. So what is rounded off is kept beside the
//! sum (Knuth, The Art of Computer Programming 2, section 4.2.2).

/// A sum, and what was rounded off it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    rounded: f64,
    rest: f64,
}

impl Sum {
    /// Takes in a value.
    pub(super) fn add(&mut self, value: f64) {
        let before = self.rounded;
        self.rounded += value;
        let added = self.rounded - before;
        self.rest += (before - (self.rounded - added)) + (value - added);
    }

    /// Takes in another sum.
    pub(super) fn merge(&mut self, other: Self) {
        self.add(other.rounded);
        self.rest += other.rest;
    }

    /// What it comes to.
    pub(super) fn get(self) -> f64 {
        // Beyond all doubles there is no rest.
        if self.rounded.is_finite() { self.rounded + self.rest } else { self.rounded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_the_same_in_whatever_pieces_its_values_come() {
        let values: Vec<f64> =
            (1..5_000).map(|at: i32| f64::from(at * at % 997) / 7.0 * 10_f64.powi(at % 12)).collect();
        let sum = |values: &[f64]| {
            let mut sum = Sum::default();
            values.iter().for_each(|value| sum.add(*value));
            sum
        };
        let whole = sum(&values).get();
        for length in [1, 2, 7, 100, 1_000, 4_998] {
            let mut all = Sum::default();
            values.chunks(length).rev().for_each(|values| all.merge(sum(values)));
            assert_eq!(all.get().to_bits(), whole.to_bits(), "pieces of {length}");
        }
    }

    #[test]
    fn what_is_small_counts_beside_what_is_large() {
        let mut sum = Sum::default();
        [1e300, 1.0, -1e300, 0.5].into_iter().for_each(|value| sum.add(value));
        assert!((sum.get() - 1.5).abs() < f64::EPSILON);
    }

    #[test]
    fn too_much_is_infinite_and_no_nonsense() {
        let mut sum = Sum::default();
        [f64::MAX, f64::MAX, 1.0].into_iter().for_each(|value| sum.add(value));
        assert!(sum.get().is_infinite());
    }
}
