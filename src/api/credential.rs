//! Who asks: a token, or an e-mail address and a key.

use std::fmt;

use reqwest::RequestBuilder;
use reqwest::header::HeaderValue;

/// What the API knows us by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An API token, of an account or a user.
    Token(Secret),
    /// The older scheme: an e-mail address and the global key.
    Key {
        /// The address; personal, so not shown either.
        email: Secret,
        /// The key.
        key: Secret,
    },
}

/// A header value that nobody but the HTTP client sees.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(HeaderValue);

/// Why a text is no credential. The text itself is not in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It cannot be sent.
    #[error("it holds characters that no token has")]
    Characters,
}

impl Secret {
    /// Takes a secret; white space around it, as a file has, does not belong to it.
    ///
    /// # Errors
    /// Where it is empty, or cannot stand in a header.
    pub fn new(text: &str) -> Result<Self, CredentialError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(CredentialError::Empty);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CredentialError::Characters);
        }
        let mut value = HeaderValue::from_str(text).map_err(|_not_shown| CredentialError::Characters)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    fn bearer(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", self.0.as_bytes()].concat())
            .expect("a header value with letters and a space before it is one too");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

impl Credential {
    /// Adds the credential to a request.
    pub(super) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Token(token) => request.header("Authorization", token.bearer()),
            Self::Key { email, key } => {
                request.header("X-Auth-Email", email.0.clone()).header("X-Auth-Key", key.0.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let token = Credential::Token(Secret::new(" Sn3lZJTBX6kkg7Od\n").expect("a token"));
        let key =
            Credential::Key { email: Secret::new("a@b.example").expect("a"), key: Secret::new("144c9def").expect("a") };
        for shown in
            [format!("{token:?} {key:?}"), format!("{:?}", reqwest_debug(&token)), format!("{:?}", reqwest_debug(&key))]
        {
            for secret in ["Sn3l", "a@b", "144c"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }

    #[test]
    fn says_what_is_no_secret_without_showing_it() {
        assert_eq!(Secret::new(" \n").err(), Some(CredentialError::Empty));
        assert_eq!(Secret::new("two words").err(), Some(CredentialError::Characters));
        assert_eq!(Secret::new("tökén").err(), Some(CredentialError::Characters));
    }

    fn reqwest_debug(credential: &Credential) -> RequestBuilder {
        let _ = rustls::crypto::ring::default_provider().install_default();
        credential.sign(reqwest::Client::new().get("http://127.0.0.1"))
    }
}
