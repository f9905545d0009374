//! The generations of KES whose behaviour a server may have.

/// A generation of the API, the configuration and the stored formats. The configuration file chooses one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// KES up to 0.14, whose configuration file has a `root`.
    #[default]
    V0_14,
    /// KES since October 2023, whose configuration file has an `admin`.
    Newest,
}

impl Generation {
    /// Whether it is [`Self::Newest`].
    pub fn is_newest(self) -> bool {
        self == Self::Newest
    }
}
