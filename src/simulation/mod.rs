//! Deterministic simulation: the parts of the server that have time and order in them, in worlds where a seed decides
//! which thread runs, how long all takes and what goes wrong. After each run and at each answer a plain model says what
//! had to hold.
//!
//! `scripts/prove simulation` runs it; `KES_SIM_SEED` repeats one seed and shows its trace, `KES_SIM_SEEDS` says how many.

mod client;
mod followers;
mod identities;
mod keys;
mod model;
mod sent;
mod serving;
mod store;
mod tokens;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::base::sync::world::{self, Run};

/// Seeds without `KES_SIM_SEEDS`.
const SEEDS: u64 = 1000;

/// The scenarios; of sixteen seeds the last two run those behind the first.
const SCENARIOS: &[(&str, fn())] =
    &[("serving", serving::run), ("tokens", tokens::run), ("followers", followers::run)];

fn scenario(seed: u64) -> (&'static str, fn()) {
    SCENARIOS[(seed % 16 + SCENARIOS.len() as u64).saturating_sub(16) as usize]
}

fn run(seed: u64, is_traced: bool) -> Run {
    world::simulate(seed, is_traced, scenario(seed).1)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn what_must_hold_holds_with_every_seed() {
    identities::prepared();
    if let Some(seed) = number("KES_SIM_SEED") {
        let found = run(seed, true);
        println!("{}", found.trace.join("\n"));
        println!("seed {seed}: {} steps, {:?}, {:016x}", found.steps, found.time, found.hash);
        assert!(found.failure.is_none(), "seed {seed}: {}", found.failure.unwrap_or_default());
        return;
    }
    let (seeds, first) =
        (number("KES_SIM_SEEDS").unwrap_or(SEEDS), number("KES_SIM_FIRST").unwrap_or(1));
    let (next, steps, begun) = (AtomicU64::new(first), AtomicU64::new(0), Instant::now());
    let runners = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..runners)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + seeds {
                            return None;
                        }
                        let found = run(seed, false);
                        steps.fetch_add(found.steps, Ordering::Relaxed);
                        // The seed alone decides.
                        let again = seed.is_multiple_of(50).then(|| run(seed, false));
                        let why = match (found.failure, again) {
                            (Some(why), _) => why,
                            (None, Some(again)) if again.hash != found.hash => {
                                "a second run is another".to_owned()
                            }
                            (None, _) => continue,
                        };
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        return Some((seed, why));
                    }
                })
            })
            .collect();
        runners.into_iter().filter_map(|runner| runner.join().unwrap()).min()
    });
    println!("{seeds} seeds, {} steps, {:?}", steps.into_inner(), begun.elapsed());
    if let Some((seed, why)) = failed {
        panic!(
            "seed {seed} ({}): {why}\nrepeat it: scripts/prove simulation --seed {seed}",
            scenario(seed).0
        );
    }
}
