//! A policy as JSON, `{"paths":["/v1/key/create/my-app-*",...]}`, in files and in the API.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Policy;
use crate::base::glob::Pattern;

impl Policy {
    /// Reads the members of a JSON object. The name `paths` matches without case, `null` is empty, and
    /// nothing else may stand beside it.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn from_members(
        members: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Self, String> {
        let mut found = None;
        for (member, value) in members {
            if !member.eq_ignore_ascii_case("paths") {
                return Err(format!("unknown member {member:?}: a policy is {{\"paths\":[...]}}"));
            }
            let paths: Option<Vec<Option<String>>> = serde_json::from_value(value)
                .map_err(|e| format!("\"paths\" is no list of paths: {e}"))?;
            if found.replace(paths.unwrap_or_default()).is_some() {
                return Err("\"paths\" is there twice".to_owned());
            }
        }
        let pattern = |path: Option<String>| {
            let path = path.unwrap_or_default();
            Pattern::parse(&path).map_err(|e| format!("{path:?}: {e}"))
        };
        let paths = found.unwrap_or_default().into_iter().map(pattern);
        Ok(Self { paths: paths.collect::<Result<_, _>>()? })
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map([("paths", self.paths.iter().map(Pattern::as_str).collect::<Vec<_>>())])
    }
}
