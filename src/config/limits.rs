//! How much clients may ask for.

use super::{settings::parse_number, source::Reader, types::Limits};

/// No identity comes near so many, in a second or at once.
const MANY: usize = 1_000_000;

impl Reader<'_> {
    pub(super) fn limits(&mut self) -> Limits {
        Limits {
            connections: self.read("limits.connections", parse_count),
            requests_per_second: self.limit("limits.requests_per_second"),
            concurrent: self.limit("limits.concurrent"),
        }
    }

    /// A limit of each identity.
    fn limit(&mut self, path: &str) -> Option<usize> {
        let limit = self.read(path, parse_count);
        if limit.is_some_and(|limit| limit > MANY) {
            self.findings.warn(
                self.source.at(path),
                "no client comes near this number, so it limits nothing",
                "write a lower number, or leave out the field",
            );
        }
        limit
    }
}

fn parse_count(text: &str) -> Option<usize> {
    parse_number(text).filter(|number| *number > 0)
}
