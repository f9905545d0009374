//! The section of Gemalto KeySecure.

use std::{path::PathBuf, sync::Arc};

use super::{RETRY, Store, URL, authorities, field};
use crate::{
    base::secret::Secret,
    config::source::Reader,
    keystore::{self, keysecure},
};

const ENDPOINT: &str = "keystore.gemalto.keysecure.endpoint";
const CA: &str = "keystore.gemalto.keysecure.tls.ca";

#[rustfmt::skip] // a row is a line or two
pub(super) const STORE: Store = Store {
    name: "Gemalto KeySecure",
    fields: &[
        field(ENDPOINT, "URL", "keys are in [KeySecure or CipherTrust](keysecure.md)")
            .check("invalid Gemalto KeySecure endpoint", URL),
        field("keystore.gemalto.keysecure.credentials.token", "secret", "refresh token").unset("required")
            .check("failed to connect to Gemalto KeySecure: no refresh token has been specified", "set \"credentials.token\" to the refresh token"),
        field("keystore.gemalto.keysecure.credentials.domain", "text", "domain").unset("the root domain"),
        field("keystore.gemalto.keysecure.credentials.retry", "duration", "time between attempts to log in").default(RETRY),
        authorities(CA),
    ],
    read: Some(|reader| reader.key_secure()),
    look: |look| look.at_authorities("failed to connect to Gemalto KeySecure: ", CA),
};

impl Reader<'_> {
    fn key_secure(&mut self) -> Option<Arc<dyn keystore::Settings>> {
        let endpoint = self.endpoint(ENDPOINT, "Gemalto KeySecure", ["api", "v1"]);
        let token = self.required("keystore.gemalto.keysecure.credentials.token")?;
        Some(Arc::new(keysecure::Settings {
            endpoint: endpoint?,
            token: Secret::new(token.into_bytes()),
            domain: self.source.text("keystore.gemalto.keysecure.credentials.domain"),
            retry: self.time("keystore.gemalto.keysecure.credentials.retry"),
            ca: self.source.filled(CA).map(PathBuf::from),
        }))
    }
}
