//! Why a client command got no answer, and whether to ask again or elsewhere.

use std::fmt;

/// Why there is no client, or no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// The environment is not that of a client; what is wrong with it.
    Environment(String),
    /// The server refused, with this status and these words.
    Refused(u16, String),
    /// The server could not be reached, or what answers is no kes server; why, and whether the same
    /// request may succeed a moment later.
    Failed(String, bool),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Environment(text) | Self::Refused(_, text) | Self::Failed(text, _)) = self;
        f.write_str(text)
    }
}

impl Error {
    /// Whether another server may do better.
    pub(crate) fn is_of_server(&self) -> bool {
        match self {
            Self::Environment(_) => false,
            Self::Refused(status, _) => *status >= 500 && *status != 501,
            Self::Failed(..) => true,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Refused(503, _) | Self::Failed(_, true))
    }

    /// Adds what an earlier try, if there was one, may have done.
    pub(crate) fn after_others(self, is_first: bool) -> Self {
        match self {
            Self::Refused(status, text)
                if !is_first
                    && matches!(&*text, "key does already exist" | "key already exists") =>
            {
                let text = text + " (an earlier try may have created it, its answer was lost)";
                Self::Refused(status, text)
            }
            error => error,
        }
    }

    /// What to say if every server has one of these; there is at least one.
    pub(crate) fn of_all(mut errors: Vec<Self>) -> Self {
        let said = errors.iter().position(|error| matches!(error, Self::Refused(..)));
        if let Some(at) = said {
            return errors.swap_remove(at);
        }
        let texts: Vec<_> = errors.iter().map(Self::to_string).collect();
        Self::Failed(texts.join("; and "), false)
    }
}
