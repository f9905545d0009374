//! Shows whether the time that `kes` takes depends on secrets.
//!
//!     kes-timing SAMPLES [PART OF A NAME...]
//!
//! What exceeds |t| = 4.5 and does so again in one of two more runs, with other inputs in another order, is a leak.

mod cases;
mod welch;

use std::{process::ExitCode, time::Instant};

use welch::{LIMIT, Order, compare};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(samples) = arguments.next().and_then(|text| text.parse::<usize>().ok()) else {
        eprintln!("usage: kes-timing SAMPLES [PART OF A NAME...]");
        return ExitCode::from(2);
    };
    let wanted: Vec<_> = arguments.collect();
    let cases = cases::all();
    if let Some(part) =
        wanted.iter().find(|part| !cases.iter().any(|case| case.name.contains(&***part)))
    {
        eprintln!("no case has '{part}' in its name; they are:");
        cases.iter().for_each(|case| eprintln!("  {}", case.name));
        return ExitCode::from(2);
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the system has randomness");
    let mut order = Order(u64::from_le_bytes(seed) | 1);
    let begin = Instant::now();
    let (mut leaks, mut is_blind) = (0, false);
    println!("    |t|   difference  {samples} measurements each");
    for mut case in cases {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|part| case.name.contains(part));
        if !is_wanted && !case.is_leak {
            continue;
        }
        let mut run = || {
            let (t, nanoseconds) = compare(&mut case, samples, &mut order);
            println!("{t:7.2}  {nanoseconds:8.2} ns  {}", case.name);
            t >= LIMIT
        };
        // What exceeds it once by chance does not do so twice.
        match (run() && (run() || run()), case.is_leak) {
            (true, false) => {
                println!("LEAK: {}", case.name);
                leaks += 1;
            }
            (false, true) => {
                println!("NOT SEEN: {}", case.name);
                is_blind = true;
            }
            _ => {}
        }
    }
    println!("{leaks} leaks, {} s", begin.elapsed().as_secs());
    if leaks == 0 && !is_blind { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
