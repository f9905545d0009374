//! Whether two kinds of input take the same time: Welch's t-test on times that were measured in random order,
//! as in "Dude, is my code constant time?" (Reparaz, Balasch, Verbauwhede; 2017).

use std::{hint::black_box, time::Instant};

/// From here on, times are said to differ.
pub const LIMIT: f64 = 4.5;

/// Parts of the shortest times that are looked at, each by itself: an interrupt hides what a few nanoseconds
/// tell, and a difference may be in the slow cases alone.
const PARTS: [f64; 6] = [0.3, 0.5, 0.7, 0.9, 0.99, 1.0];
/// The part without interrupts, for the difference that is printed.
const QUIET: usize = 3;

type Run = Box<dyn FnMut(&[u8])>;

/// How many inputs are made before they are used: what makes them leaves no trace of the kind in caches.
const BLOCK: usize = 1024;

/// Something that is done with an input of one of two kinds.
pub struct Case {
    pub name: &'static str,
    /// A fresh input of the first kind or of the second. All have one length.
    pub input: Box<dyn FnMut(usize) -> Vec<u8>>,
    pub run: Run,
    /// How often it is run for one measurement, so that the clock's own time does not matter.
    pub batch: u32,
    /// Whether a difference has to be found.
    pub is_leak: bool,
}

/// A generator of numbers that is good enough for an order (xorshift64*).
pub struct Order(pub u64);

impl Order {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The largest |t| of `samples` measurements, and by how many nanoseconds the means differ.
pub fn compare(case: &mut Case, samples: usize, order: &mut Order) -> (f64, f64) {
    let warm_up = samples / 50 + 100;
    let mut measured = Vec::with_capacity(samples + BLOCK);
    // One place for all inputs, so that where an input is does not matter.
    let mut place = (case.input)(0);
    while measured.len() < warm_up + samples {
        let kinds = std::iter::repeat_with(|| (order.next() >> 63) as usize).take(BLOCK);
        let inputs: Vec<_> = kinds.map(|kind| (kind, (case.input)(kind))).collect();
        for (kind, input) in &inputs {
            place.copy_from_slice(input);
            let begin = Instant::now();
            for _ in 0..case.batch {
                (case.run)(black_box(&place));
            }
            measured.push((begin.elapsed().as_nanos() as u64, *kind));
        }
    }
    measured.drain(..warm_up);
    let mut times: Vec<_> = measured.iter().map(|(time, _)| *time).collect();
    times.sort_unstable();
    let compared = PARTS.map(|part| {
        let longest = times[((times.len() - 1) as f64 * part) as usize];
        let [a, b] = [0, 1].map(|kind| {
            let those = measured.iter().filter(|(time, of)| *of == kind && *time <= longest);
            moments(those.map(|(time, _)| *time as f64))
        });
        (t_of(a, b), (b.1 - a.1) / f64::from(case.batch))
    });
    let t = compared.iter().map(|(t, _)| *t).fold(0.0, f64::max);
    (t, compared[QUIET].1)
}

/// Number, mean and variance.
fn moments(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let delta = value - mean;
        mean += delta / count;
        squares += delta * (value - mean);
    }
    (count, mean, squares / (count - 1.0_f64).max(1.0))
}

fn t_of(a: (f64, f64, f64), b: (f64, f64, f64)) -> f64 {
    if a.0 < 100.0 || b.0 < 100.0 {
        return 0.0;
    }
    let error = (a.2 / a.0 + b.2 / b.0).sqrt();
    if error == 0.0 { 0.0 } else { ((a.1 - b.1) / error).abs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_is_as_published() {
        let [a, b] = [[1.0, 2.0, 3.0, 4.0].repeat(50), [2.0, 3.0, 4.0, 5.0].repeat(50)]
            .map(|values| moments(values.into_iter()));
        assert!(a.0 == 200.0 && (a.1 - 2.5).abs() < 1e-9, "{}, {}", a.0, a.1);
        // variance 250/199, so t = 1 / sqrt(2 * 250 / 199 / 200)
        assert!((t_of(a, b) - 1.0 / (2.0 * 250.0 / 199.0 / 200.0_f64).sqrt()).abs() < 1e-9);
    }
}
