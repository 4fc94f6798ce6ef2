//! Clients of the API, for the accounts that are meant.

use crate::api::{Client, ClientOptions};
use crate::clock::Clock;
use crate::config::ConfigError;

use super::args::Clients;
use super::{Exit, print};

/// A client; where the archive is absent and still to be made, one that has reached the API.
pub(super) async fn client(options: ClientOptions, is_absent: bool, clock: &Clock) -> anyhow::Result<Client> {
    let client = Client::new(options, clock.clone())?;
    if is_absent {
        client.reach().await?;
    }
    Ok(client)
}

/// Accounts, and those that cannot be asked.
pub(super) struct Askable {
    /// What each is called, and how it is asked.
    pub(super) accounts: Vec<(String, ClientOptions)>,
    /// What those are called that have no credential that can be read.
    pub(super) left_out: Vec<String>,
}

impl Askable {
    /// How a command ends that does the rest of its work well.
    pub(super) fn exit(&self) -> Exit {
        if self.left_out.is_empty() { Exit::Done } else { Exit::Failed }
    }
}

/// The accounts that have a credential. Where one of several has none that can be read, it is told, and the others are
/// asked all the same.
pub(super) fn with_credential(accounts: Clients) -> Result<Askable, ConfigError> {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for (name, options) in accounts {
        match options {
            Ok(options) => usable.push((name, options)),
            Err(error @ (ConfigError::Read { .. } | ConfigError::Credential { .. })) => unusable.push((name, error)),
            Err(error) => return Err(error),
        }
    }
    if usable.is_empty()
        && let Some((_, error)) = unusable.pop()
    {
        return Err(error);
    }
    for (name, error) in &unusable {
        print::error(&format_args!("{name}: {error}; nothing is asked of it"));
    }
    Ok(Askable { accounts: usable, left_out: unusable.into_iter().map(|(name, _)| name).collect() })
}

/// A client for each account, beside each other where they have one credential.
pub(super) async fn connect(
    accounts: Vec<(String, ClientOptions)>,
    is_absent: bool,
    clock: &Clock,
) -> anyhow::Result<Vec<(String, Client)>> {
    let mut clients: Vec<(String, Client)> = Vec::new();
    for (name, options) in accounts {
        let client = client(options, is_absent, clock).await?;
        let sharing = clients.iter().map(|(_, other)| other).find(|other| client.shares_limit(other));
        let client = match sharing {
            Some(other) => client.beside(other),
            None => client,
        };
        clients.push((name, client));
    }
    Ok(clients)
}

/// Gives accounts that are asked side by side with one credential a part of its limit each.
pub(super) fn share_limits(accounts: &mut [(String, ClientOptions)]) {
    let credentials: Vec<_> = accounts.iter().map(|(_, client)| client.credential.clone()).collect();
    for (_, client) in accounts {
        let sharing = credentials.iter().filter(|credential| **credential == client.credential).count();
        client.budget.share /= f64::from(u32::try_from(sharing).unwrap_or(u32::MAX));
    }
}

/// A number that differs from run to run; nothing secret hangs on it.
#[expect(clippy::cast_sign_loss, reason = "any number will do")]
pub(super) fn seed(clock: &Clock) -> u64 {
    (clock.now().timestamp_micros() as u64) ^ (u64::from(std::process::id()) << 40)
}
