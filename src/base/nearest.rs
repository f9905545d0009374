//! Which word a mistyped one may be meant to be.

/// The one of `known` that `word` may be meant to be: it starts like that, or is nearly the same.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let has_letters_of = |known: &str| {
        let count = |text: &str, letter| text.chars().filter(|c| *c == letter).count();
        known.len() == word.len() && word.chars().all(|c| count(word, c) == count(known, c))
    };
    let far = |known: &str| match word.len() > 1 {
        true if known.starts_with(word) => 0,
        true if has_letters_of(known) => 1,
        _ => distance(word, known),
    };
    let nearest = known.min_by_key(|known| far(known));
    nearest.filter(|known| far(known) <= known.len() / 2)
}

/// The number of letters to insert, delete or replace to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}
