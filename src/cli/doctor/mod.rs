//! What `kes doctor` looks at: the set-up of a server, that of a client, and what both need.

pub(crate) mod client;
pub(crate) mod look;
pub(crate) mod server;

use std::time::Duration;

use crate::{
    base::{
        checkup::{Checkup, Line, Outcome},
        duration,
    },
    keystore::KeyName,
};

const CLOCK: &str = "clock";
const PROBE_KEY: &str = "probe key";
/// Clocks may differ by so much without a word, in seconds.
const CLOSE: u64 = 5;
/// From here on, certificates and tokens are refused.
const FAR: u64 = 60;

/// Compares clocks: that of this machine is `ahead` by so many seconds of that of `other`. An unknown
/// time is no finding.
fn at_clock(ahead: Option<i64>, other: &str, found: &mut Checkup) {
    const ADVICE: &str = "set the wrong one of both: 'timedatectl set-ntp true', or chrony";
    let Some(ahead) = ahead else { return };
    let apart = ahead.unsigned_abs();
    let nanos = Duration::from_secs(apart).as_nanos();
    let how = if ahead > 0 { "ahead of" } else { "behind" };
    let shown = duration::format(i64::try_from(nanos).unwrap_or(i64::MAX));
    let text = format!("the clock of this machine is {shown} {how} that of {other}");
    if apart <= CLOSE {
        found.ok(CLOCK, &format_args!("like that of {other}"));
    } else if apart <= FAR {
        found.warn(CLOCK, &text, ADVICE);
    } else {
        found.fail(CLOCK, &text, ADVICE);
    }
}

/// The name of a key that nobody else has or makes.
fn probe_key() -> Result<KeyName, getrandom::Error> {
    let (high, low) = (getrandom::u64()?, getrandom::u64()?);
    let name = KeyName::parse(&format!("kes-doctor-{high:016x}{low:016x}"));
    Ok(name.expect("letters, digits and dashes are a name"))
}

/// Drops what a wrong clock explains: certificates seem to have expired, or not to be valid yet.
pub(crate) fn drop_consequences(found: &mut Checkup) {
    let is_off = |line: &Line| line.about == CLOCK && line.outcome == Outcome::Failed;
    if found.lines.iter().any(is_off) {
        let words = ["expired", "not valid yet"];
        found.lines.retain(|line| {
            line.outcome == Outcome::Ok || !words.iter().any(|word| line.text.contains(word))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_seconds_and_not_by_minutes() {
        for (ahead, outcome) in [
            (0, Outcome::Ok),
            (-5, Outcome::Ok),
            (6, Outcome::Warning),
            (-60, Outcome::Warning),
            (61, Outcome::Failed),
            (i64::MIN, Outcome::Failed),
        ] {
            let mut found = Checkup::default();
            at_clock(Some(ahead), "a server", &mut found);
            assert_eq!(1, found.count(outcome), "{ahead}: {found:?}");
        }
        let mut found = Checkup::default();
        at_clock(Some(-90), "a server", &mut found);
        assert!(found.lines[0].text.contains("1m30s behind that of a server"), "{found:?}");
    }
}
