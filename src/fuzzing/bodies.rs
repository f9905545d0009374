//! JSON bodies of clients, and JSON in ciphertexts and stored keys.

use super::plain::{self, Json};
use crate::{base::secret::Secret, crypto::json};

/// The members of an object, and of the first `max` objects of an array, are those that another parser finds.
pub fn bodies(input: &[u8], max: usize) {
    let (names, in_lists) = (["plaintext", "context"], ["ciphertext", "context"]);
    let found = json::texts(input, names);
    assert!(
        !found.as_ref().is_some_and(|(_, is_all)| *is_all)
            || serde_json::from_slice::<serde::de::IgnoredAny>(input).is_ok(),
        "something follows"
    );
    // It wants whole numbers and deep nesting to make sense, which those who skip them do not.
    let Some(value) = Json::first(input) else { return };
    let texts = value.texts(names).map(|texts| texts.map(str::to_owned));
    assert_eq!(texts, found.map(|(found, _)| found.map(Into::into)), "texts");
    assert_eq!(binary(&value, names), json::secrets(input, names).map(exposed), "secrets");

    let lists = match &value {
        Json::Null => Some(Vec::new()),
        Json::Array(elements) => {
            elements.iter().take(max).map(|element| binary(element, in_lists)).collect()
        }
        _ => None,
    };
    let found = json::lists_of_secrets(input, in_lists, max);
    assert_eq!(lists, found.map(|lists| lists.into_iter().map(exposed).collect()), "lists");
}

fn exposed(secrets: [Secret; 2]) -> [Vec<u8>; 2] {
    secrets.map(|secret| secret.expose().to_vec())
}

/// The members in base64, in which line breaks do not count. Each must be some, of those of one name the last counts.
fn binary(value: &Json, names: [&str; 2]) -> Option<[Vec<u8>; 2]> {
    let [first, second] = value.members(names)?.map(|texts| {
        texts.iter().try_fold(Vec::new(), |_, text| plain::base64(&text.replace(['\r', '\n'], "")))
    });
    Some([first?, second?])
}
