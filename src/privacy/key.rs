//! The key of the pseudonyms, and the pseudonyms that it makes.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::caseless::folded;

/// A secret that turns values into pseudonyms. Nothing shows it.
#[derive(Clone)]
pub struct Key(hmac::Key);

/// Why a text is no key. The text itself is not in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no text.
    #[error("it is no text: write it in base64 or hexadecimal digits")]
    NoText,
    /// It is too short to resist trying.
    #[error("it has {0} bytes, at least {LEAST_BYTES} are needed: `openssl rand -base64 32` makes some")]
    Short(usize),
}

/// Shorter keys can be found by trying.
const LEAST_BYTES: usize = 16;

/// Stands before every value, so that the key can serve another purpose some day without one telling
/// of the other.
const DOMAIN: &[u8] = b"dex-archive pseudonym 1\0";

/// Stands for all values where the key itself is told from another.
const MARK_DOMAIN: &[u8] = b"dex-archive key 1\0";

/// Bytes of the hash that are shown: enough that two values never share a pseudonym.
const SHOWN_BYTES: usize = 16;

impl Key {
    /// Takes a key: hexadecimal digits, base64 with its padding, or else the text itself. White space
    /// around it, as a file has, does not belong to it.
    ///
    /// # Errors
    /// Where it is shorter than 16 bytes, or no text.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(text).map_err(|_not_shown| KeyError::NoText)?.trim();
        let long_base64 = || STANDARD.decode(text).ok().filter(|bytes| bytes.len() >= LEAST_BYTES);
        let bytes = hex(text).or_else(long_base64).unwrap_or_else(|| text.as_bytes().to_vec());
        if bytes.len() < LEAST_BYTES {
            return Err(KeyError::Short(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// `p-` and 32 hexadecimal digits, the same for a value in any case and Unicode form and with blanks around it: so a
    /// person is found by it who is named by what they are called.
    pub(super) fn pseudonym(&self, value: &str) -> String {
        format!("p-{}", self.hash(DOMAIN, &folded(value.trim())))
    }

    /// `k-` and 32 hexadecimal digits: the same for the same key, and no help in finding it.
    pub(super) fn mark(&self) -> String {
        format!("k-{}", self.hash(MARK_DOMAIN, ""))
    }

    fn hash(&self, domain: &[u8], value: &str) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(domain);
        context.update(value.as_bytes());
        let mut digits = String::with_capacity(2 * SHOWN_BYTES);
        for byte in &context.sign().as_ref()[..SHOWN_BYTES] {
            let _ = write!(digits, "{byte:02x}");
        }
        digits
    }
}

/// Whether a text is a pseudonym as the privacy rules make them: `p-` and 32 hexadecimal digits.
#[must_use]
pub fn is_pseudonym(text: &str) -> bool {
    text.strip_prefix("p-").is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

/// The bytes that pairs of hexadecimal digits are; `None` where it is anything else.
fn hex(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_in_three_spellings() {
        let pseudonym = |text: &str| Key::parse(text.as_bytes()).expect("a key").pseudonym("alice@example.com");
        let text = pseudonym("sixteen letters!");
        assert_eq!(pseudonym("7369787465656e206C65747465727321\n"), text);
        assert_eq!(pseudonym(" c2l4dGVlbiBsZXR0ZXJzIQ== "), text);
        assert_ne!(pseudonym("sixteen letters?"), text);
        let mark = |text: &str| Key::parse(text.as_bytes()).expect("a key").mark();
        assert_eq!(mark("sixteen letters!"), mark("7369787465656e206C65747465727321"));
        assert_ne!(mark("sixteen letters!"), mark("sixteen letters?"));
        let of_nothing = Key::parse(b"sixteen letters!").expect("a key").pseudonym("");
        assert_ne!(mark("sixteen letters!")[2..], of_nothing[2..], "no value's pseudonym tells of the key");
        // By `printf 'dex-archive pseudonym 1\0alice@example.com' | openssl mac -digest SHA256 -macopt
        // key:'sixteen letters!' HMAC`.
        assert_eq!(text, "p-b2c4fdd87631a6f636096046e76badcb");
    }

    #[test]
    fn a_key_is_long_enough_and_never_shown() {
        let said = |text: &str| Key::parse(text.as_bytes()).err().map_or("fine".to_owned(), |error| error.to_string());
        assert_eq!(
            said("fifteen letters"),
            "it has 15 bytes, at least 16 are needed: `openssl rand -base64 32` makes some"
        );
        assert!(said("").starts_with("it has 0 bytes"));
        assert!(said("0123456789abcdef").starts_with("it has 8 bytes"), "as hexadecimal digits");
        assert_eq!(said("0123456789abcdef0"), "fine", "an odd number of digits is text");
        assert_eq!(said("correct-horse-battery"), "fine");
        assert_eq!(Key::parse(b"\xff sixteen letters").err(), Some(KeyError::NoText));
        assert_eq!(format!("{:?}", Key::parse(b"sixteen letters!").expect("a key")), "(secret)");
    }
}
