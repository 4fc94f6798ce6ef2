//! Texts compared as people mean them, whatever the case and the Unicode form of their letters: what somebody types,
//! and the name that a Mac gave itself, may hold the same é in two ways.

use std::borrow::Cow;

use icu_normalizer::ComposingNormalizerBorrowed;

/// A text with each letter written in one way (lower case, NFKC): two that people take for the same are equal.
#[must_use]
pub fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return text.to_ascii_lowercase().into();
    }
    let fold = |text: &str| ComposingNormalizerBorrowed::new_nfkc().normalize(&text.to_lowercase()).into_owned();
    // A letter of another form may be a capital one in its usual form.
    fold(&fold(text)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_in_several_spellings() {
        for spelling in ["Élodie", "élodie", "e\u{301}lodie", "E\u{301}LODIE", "Ｅ\u{301}lodie", "𝐄\u{301}lodie"]
        {
            assert_eq!(folded(spelling), "élodie", "{spelling}");
        }
        assert_eq!(folded("Alice@Example.com"), "alice@example.com");
        assert_ne!(folded("elodie"), "élodie");
    }
}
