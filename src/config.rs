//! Options: what was typed, what the environment says, what the config file says, in this order.
//!
//! The only reader of the config file, and of who asks (the variables of the API and of the privacy key). What comes
//! out is typed and checked; unknown keys and bad values are errors that name them. Where and how things are printed is
//! not an option of these, nor are a bucket's credentials.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use serde::Deserialize;

use crate::api::{Budget, BudgetError, ClientOptions, Credential, CredentialError, Secret};
use crate::clock;
use crate::disk::Access;
use crate::ingest::PublishRule;
use crate::privacy::{Key, KeyError, Policy, PrivacyError, Rules};
use crate::report::{LimitError, Limits, Plan};
use crate::schema::Schema;
use crate::snapshot::{AccountId, DeviceId, IdError};

/// The API that is asked where nothing else is said.
pub const DEFAULT_API_URL: &str = "https://api.cloudflare.com/client/v4";
/// The archive that is meant where nothing else is said.
pub const DEFAULT_ARCHIVE: &str = "./dex-archive-data";

/// The variable that holds the key of the pseudonyms.
const PRIVACY_KEY: &str = "DEX_ARCHIVE_PRIVACY_KEY";

const DEFAULT_LIMIT: &str = "1200/5m";
const DEFAULT_BUDGET: &str = "80%";
const DEFAULT_ATTEMPTS: u32 = 5;
const DEFAULT_RETRY_DELAY: Duration = Duration::from_millis(500);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY_BYTES: usize = 16 << 20;

/// The config file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// The archive.
    #[serde(default)]
    pub archive: ArchiveSection,
    /// The API.
    #[serde(default)]
    pub api: ApiSection,
    /// Several accounts, each with what differs from `[api]`.
    #[serde(default)]
    pub account: Vec<AccountSection>,
    /// What personal data may be written; none where nobody said.
    pub privacy: Option<Rules>,
    /// What a report shows.
    #[serde(default)]
    pub report: ReportSection,
}

/// `[[account]]`: one of several accounts that are collected side by side.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountSection {
    /// The account.
    pub id: String,
    /// What it is called in messages.
    pub name: Option<String>,
    /// A file that holds its token.
    pub token_file: Option<PathBuf>,
    /// Its limit.
    pub rate_limit: Option<String>,
    /// Our share of that.
    pub budget: Option<String>,
}

/// `[report]`: beyond which limits a device is in trouble.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportSection {
    /// By name; those that are not set are those of the table of the report.
    #[serde(default)]
    pub limits: Limits,
}

/// `[archive]`: where it is, and who may read it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// The archive's folder, or its address in a bucket.
    pub path: Option<PathBuf>,
    /// Where the journal of an archive in a bucket is.
    pub state_dir: Option<PathBuf>,
    /// Who may read what is written: `owner`, `group` or `all`.
    #[serde(default)]
    pub readable_by: Access,
    /// When a collector publishes: `auto`, `sweep`, or after a time such as `15m`.
    pub publish: Option<String>,
}

/// `[api]`: who is asked, by whom, how fast.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiSection {
    /// Where the API is.
    pub url: Option<String>,
    /// The account.
    pub account: Option<String>,
    /// A file that holds the token.
    pub token_file: Option<PathBuf>,
    /// The API's limit, as `1200/5m`, or `none`.
    pub rate_limit: Option<String>,
    /// Our share of it, as `80%`.
    pub budget: Option<String>,
    /// How often a request is sent at most.
    pub attempts: Option<u32>,
    /// The first wait before a request is sent again, as `500ms`.
    pub retry_delay: Option<String>,
    /// The longest time that an answer may take, as `30s`.
    pub timeout: Option<String>,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The config file is not of its form.
    #[error("config file {}, line {line}: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// Nobody said who asks.
    #[error(
        "no credentials: set CLOUDFLARE_API_TOKEN, or name a file with --token-file, or set CLOUDFLARE_EMAIL and CLOUDFLARE_API_KEY"
    )]
    NoCredential,
    /// What was given is no credential.
    #[error("{place} is no credential: {problem}")]
    Credential {
        /// Where it comes from.
        place: String,
        /// What is wrong with it.
        problem: CredentialError,
    },
    /// Nobody said which account.
    #[error("no account: name it with --account, or set CLOUDFLARE_ACCOUNT_ID")]
    NoAccount,
    /// Somebody else's account was named.
    #[error("the config file has no account {name:?}: it has {}", .known.join(", "))]
    UnknownAccount {
        /// What was named.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// One of several accounts has to be named.
    #[error("the config file has several accounts: name one with --account ({})", .0.join(", "))]
    WhichAccount(Vec<String>),
    /// An account is in the config file twice.
    #[error("the config file has the account {0} twice: take out one [[account]], or give it another name")]
    SameAccount(String),
    /// What was given is no id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A line of a devices file is no id.
    #[error("{name}, line {line}: {problem}")]
    DevicesFile {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: IdError,
    },
    /// What was given is no limit, or no share of one.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// What was given is no key for pseudonyms.
    #[error("{place} is no key for pseudonyms: {problem}")]
    PrivacyKey {
        /// Where it comes from.
        place: String,
        /// What is wrong with it.
        problem: KeyError,
    },
    /// What was written is no rule of publishing.
    #[error("[archive] publish = {0:?} is no rule: write auto, sweep, or a time such as 15m")]
    Publish(String),
    /// The rules of privacy cannot be kept to.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
    /// What was set is no limit of the report.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A schedule is not of whole minutes.
    #[error("{0:?} is no whole number of minutes, which schedulers count in: 5m, 15m and 1h are")]
    Minutes(String),
    /// What was typed is no shard.
    #[error("{0:?} is no shard: 3/8 is the fourth of eight, and 3 of however many there are")]
    Shard(String),
    /// One of several collectors is to heal.
    #[error("--self-heal is for a collector of all shards: run `backfill` beside those of a shard each")]
    HealShard,
    /// Where a shard is named, and not how many there are, there is no archive that would say so.
    #[error("{} is no archive yet: say how many shards it has (`--shard 3/8`), or make it first (`init --shards 8`)", .0.display())]
    NoShards(PathBuf),
    /// The archive has another number of shards.
    #[error("the archive has {found} shards and not {said}: `reshard` gives it another number")]
    ShardCount {
        /// What was said.
        said: u32,
        /// What it has.
        found: u32,
    },
    /// An account stands where it is not looked for.
    #[error("[api] names account {0}, which is no [[account]]: give it a section of its own, or take it out")]
    LoneAccount(String),
    /// An interval is longer than what the history tells.
    #[error("{0:?} is longer than the 7 days that Cloudflare remembers: expect a state each 1h, or each 1d at most")]
    Expect(String),
    /// What was typed is no duration.
    #[error("{0:?} is no duration: 90s, 5m, 1h and 1d are")]
    Duration(String),
    /// What was typed is no time.
    #[error("{0:?} is no time: 2026-11-24T07:40:51Z, 2026-11-24, 7d (ago) and now are")]
    Time(String),
    /// Somebody is to be forgotten whom nobody can be sure of.
    #[error("{0:?} is no e-mail address: alice@example.com is one")]
    Email(String),
    /// A point of a chart would be longer than all of it.
    #[error("--every {0} is longer than the time that the report is about")]
    LongEvery(String),
    /// A file's name ends in what says another kind of file.
    #[error("nothing is written as .{ending}: name a file that ends in {known}, or the form with --format")]
    Ending {
        /// What it ends in.
        ending: String,
        /// What it may end in.
        known: &'static str,
    },
    /// Devices are named, and the list is to be asked, which knows no choice of devices.
    #[error("--source list reads the whole fleet: leave it out to ask for the devices that are named")]
    NamedAndList,
    /// A file of devices names none.
    #[error("{0} names no device: leave it out to ask for the whole fleet")]
    NoDevices(String),
}

impl ConfigFile {
    /// Reads a config file.
    ///
    /// # Errors
    /// Where it cannot be read, or holds keys or values that it should not.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            ConfigError::Toml { path: path.to_owned(), line, problem: error.message().to_owned() }
        })
    }

    /// The accounts that are meant, and what each is called: all of the file, or the one that was typed, by its name or
    /// id. `api` is what was typed over what the file says of the API, `typed` what was typed alone.
    ///
    /// # Errors
    /// Where there is no such account, or one is there twice.
    pub fn accounts(&self, api: &ApiSection, typed: &ApiSection) -> Result<Vec<(String, ApiSection)>, ConfigError> {
        for (at, account) in self.account.iter().enumerate() {
            AccountId::parse(&account.id)?;
            if self.account[..at].iter().any(|other| other.id.eq_ignore_ascii_case(&account.id)) {
                return Err(ConfigError::SameAccount(account.id.clone()));
            }
            if let Some(name) = &account.name
                && self.account[..at].iter().any(|other| other.name.as_ref() == Some(name))
            {
                return Err(ConfigError::SameAccount(name.clone()));
            }
        }
        if let Some(lone) = &self.api.account
            && !self.account.is_empty()
            && !self.account.iter().any(|account| account.id.eq_ignore_ascii_case(lone))
        {
            return Err(ConfigError::LoneAccount(lone.clone()));
        }
        let wanted = if self.account.is_empty() { &api.account } else { &typed.account }.as_deref();
        let is_meant = |account: &&AccountSection| {
            wanted.is_none_or(|wanted| {
                wanted.eq_ignore_ascii_case(&account.id) || account.name.as_deref() == Some(wanted)
            })
        };
        let meant: Vec<_> =
            self.account.iter().filter(is_meant).map(|account| (account.called(), account.over(api, typed))).collect();
        match wanted {
            Some(name) if meant.is_empty() && !self.account.is_empty() && AccountId::parse(name).is_err() => {
                let known = self.account.iter().map(AccountSection::called).collect();
                Err(ConfigError::UnknownAccount { name: name.to_owned(), known })
            }
            _ if meant.is_empty() => Ok(vec![(wanted.unwrap_or_default().to_owned(), api.clone())]),
            _ => Ok(meant),
        }
    }

    /// The ids of the accounts that the file names, and what each is called.
    #[must_use]
    pub fn known_accounts(&self) -> BTreeMap<String, String> {
        let named = self.account.iter().map(|account| (&account.id, account.called()));
        let lone = self.api.account.iter().map(|id| (id, id.clone()));
        // One that has a section is called what that says.
        let all =
            lone.chain(named).filter_map(|(id, name)| Some((AccountId::parse(id).ok()?.as_str().to_owned(), name)));
        all.collect()
    }

    /// The one account that is meant.
    ///
    /// # Errors
    /// Where none is named, or several are there and none was typed.
    pub fn one_account(&self, typed: Option<&str>) -> Result<AccountId, ConfigError> {
        let typed = ApiSection { account: typed.map(str::to_owned), ..ApiSection::default() };
        let api = ApiSection { account: typed.account.clone().or_else(|| self.api.account.clone()), ..typed.clone() };
        match self.accounts(&api, &typed)?.as_slice() {
            [(_, only)] => Ok(AccountId::parse(only.account.as_deref().ok_or(ConfigError::NoAccount)?)?),
            several => Err(ConfigError::WhichAccount(several.iter().map(|(name, _)| name.clone()).collect())),
        }
    }

    /// What may be written to the archive, with the key that the environment or else a file holds.
    ///
    /// # Errors
    /// Says which rule or key will not do.
    pub fn policy(&self) -> Result<Policy, ConfigError> {
        let key_file = self.privacy.as_ref().and_then(|rules| rules.key_file.as_ref());
        let key = match (variable(PRIVACY_KEY), key_file) {
            (Some(text), _) => Some(privacy_key(PRIVACY_KEY.to_owned(), text.as_encoded_bytes())?),
            (None, Some(path)) => {
                let bytes = fs::read(path).map_err(|error| ConfigError::Read { path: path.clone(), error })?;
                Some(privacy_key(path.display().to_string(), &bytes)?)
            }
            (None, None) => None,
        };
        match &self.privacy {
            Some(rules) => Ok(Policy::new(&Schema::device_state(), rules, key)?),
            None => Ok(Policy::unsaid(key)),
        }
    }

    /// The rules for who only reads: none where the key is not this user's to read. Then names are looked for as they are
    /// typed, and what is stored needs no key.
    ///
    /// # Errors
    /// As for [`ConfigFile::policy`].
    pub fn policy_of_reader(&self) -> Result<Policy, ConfigError> {
        match self.policy() {
            Err(ConfigError::Read { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Policy::default())
            }
            policy => policy,
        }
    }
}

impl AccountSection {
    /// What it is called: its name, or else its id.
    fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.clone())
    }

    /// What it says over what is said of the API. Its own token beats the environment's, which may be another's.
    fn over(&self, api: &ApiSection, typed: &ApiSection) -> ApiSection {
        let own = |typed: &Option<String>, own: &Option<String>, all: &Option<String>| {
            typed.clone().or_else(|| own.clone()).or_else(|| all.clone())
        };
        ApiSection {
            account: Some(self.id.clone()),
            token_file: typed.token_file.clone().or_else(|| self.token_file.clone()).or_else(|| api.token_file.clone()),
            rate_limit: own(&typed.rate_limit, &self.rate_limit, &api.rate_limit),
            budget: own(&typed.budget, &self.budget, &api.budget),
            ..api.clone()
        }
    }
}

impl ReportSection {
    /// What a report shows, with these limits.
    ///
    /// # Errors
    /// Where there is no limit of a name.
    pub fn plan(&self) -> Result<Plan, ConfigError> {
        Ok(Plan::new(&self.limits)?)
    }
}

impl ApiSection {
    /// The client's options; `self` holds what was typed over what the file says.
    ///
    /// # Errors
    /// Says which of them is missing, or not of its form.
    pub fn client_options(&self, seed: u64) -> Result<ClientOptions, ConfigError> {
        let duration = |text: &Option<String>, default| text.as_deref().map_or(Ok(default), parse_duration);
        let account = self.account.as_deref().ok_or(ConfigError::NoAccount)?;
        Ok(ClientOptions {
            account_id: AccountId::parse(account)?,
            credential: self.credential()?,
            base_url: self.url.clone().unwrap_or_else(|| DEFAULT_API_URL.to_owned()),
            budget: Budget::parse(
                self.rate_limit.as_deref().unwrap_or(DEFAULT_LIMIT),
                self.budget.as_deref().unwrap_or(DEFAULT_BUDGET),
            )?,
            attempts: self.attempts.unwrap_or(DEFAULT_ATTEMPTS).max(1),
            retry_delay: duration(&self.retry_delay, DEFAULT_RETRY_DELAY)?,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            timeout: duration(&self.timeout, DEFAULT_TIMEOUT)?,
            max_body_bytes: MAX_BODY_BYTES,
            seed,
        })
    }

    /// Who asks: by the token file or, without one, by the environment.
    ///
    /// # Errors
    /// Where nobody says so, or what is there is no credential.
    pub fn credential(&self) -> Result<Credential, ConfigError> {
        if let Some(path) = &self.token_file {
            return Ok(Credential::Token(secret(&path.display().to_string(), &read(path)?)?));
        }
        let variable = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        if let Some(token) = variable("CLOUDFLARE_API_TOKEN") {
            return Ok(Credential::Token(secret("CLOUDFLARE_API_TOKEN", &token)?));
        }
        match (variable("CLOUDFLARE_EMAIL"), variable("CLOUDFLARE_API_KEY")) {
            (Some(email), Some(key)) => Ok(Credential::Key {
                email: secret("CLOUDFLARE_EMAIL", &email)?,
                key: secret("CLOUDFLARE_API_KEY", &key)?,
            }),
            _ => Err(ConfigError::NoCredential),
        }
    }
}

impl ArchiveSection {
    /// When a collector publishes.
    ///
    /// # Errors
    /// Where what is written is no such rule.
    pub fn publish_rule(&self) -> Result<PublishRule, ConfigError> {
        let Some(text) = &self.publish else { return Ok(PublishRule::default()) };
        PublishRule::parse(text).ok_or_else(|| ConfigError::Publish(text.clone()))
    }
}

/// What a variable of the environment says; one that holds nothing says nothing.
#[must_use]
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether the environment says who asks.
#[must_use]
pub fn has_credential() -> bool {
    let given = |name: &str| variable(name).is_some();
    given("CLOUDFLARE_API_TOKEN") || (given("CLOUDFLARE_EMAIL") && given("CLOUDFLARE_API_KEY"))
}

/// Reads a point in time that somebody typed.
///
/// # Errors
/// Where the text is no time.
pub fn parse_time(text: &str, zone: clock::Zone, now: clock::Timestamp) -> Result<clock::Timestamp, ConfigError> {
    clock::parse_point(text, zone, now).ok_or_else(|| ConfigError::Time(text.to_owned()))
}

/// Reads a duration that somebody typed.
///
/// # Errors
/// Where the text is no duration, or one of no length.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let parsed = clock::parse_duration(text).filter(|duration| !duration.is_zero());
    parsed.ok_or_else(|| ConfigError::Duration(text.to_owned()))
}

/// Reads a shard that somebody typed, counted from 0, and how many there are, where that was said: `3/8`, or `3`.
///
/// # Errors
/// Where the text is no shard.
pub fn parse_shard(text: &str) -> Result<(u32, Option<u32>), ConfigError> {
    let wrong = || ConfigError::Shard(text.to_owned());
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_no_number| wrong());
    match text.split_once('/') {
        None => Ok((number(text)?, None)),
        Some((shard, count)) => match (number(shard)?, number(count)?) {
            (shard, count) if shard < count => Ok((shard, Some(count))),
            _ => Err(wrong()),
        },
    }
}

/// Reads device ids, one a line; `#` begins a comment, and blank lines are passed over.
///
/// # Errors
/// Says which line is no id.
pub fn parse_devices(name: &str, text: &str) -> Result<Vec<DeviceId>, ConfigError> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split('#').next().unwrap_or("").trim()));
    let ids = lines.filter(|(_, line)| !line.is_empty()).map(|(line, id)| {
        DeviceId::parse(id).map_err(|problem| ConfigError::DevicesFile { name: name.to_owned(), line, problem })
    });
    ids.collect()
}

fn secret(place: &str, text: &str) -> Result<Secret, ConfigError> {
    Secret::new(text).map_err(|problem| ConfigError::Credential { place: place.to_owned(), problem })
}

fn privacy_key(place: String, text: &[u8]) -> Result<Key, ConfigError> {
    Key::parse(text).map_err(|problem| ConfigError::PrivacyKey { place, problem })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors() {
        let said = |text: &str| toml::from_str::<ConfigFile>(text).err().map_or("fine".to_owned(), |e| e.to_string());
        assert_eq!(
            said("[archive]\npath = \"a\"\nreadable_by = \"group\"\n[api]\nrate_limit = \"1200/5m\"\nbudget = \"50%\""),
            "fine"
        );
        assert!(said("archiv = \"a\"").contains("unknown field `archiv`"));
        assert!(said("[api]\ntoken = \"x\"").contains("unknown field `token`"));
        assert_eq!(said("[privacy]\nunknown = \"drop\"\n[privacy.classes]\nperson = \"pseudonym\""), "fine");
        assert!(said("[privacy]\nkey = \"x\"").contains("unknown field `key`"));
        assert!(said("[privacy]\nunknown = \"pseudonym\"").contains("expected `keep` or `drop`"));
        assert!(said("[privacy.columns]\ncolo = \"hash\"").contains("unknown variant `hash`"));
    }

    #[test]
    fn several_accounts_are_meant_unless_one_is_named() {
        let (a, b) = ("01a7362d577a6c3019a474fd6f485823", "11a7362d577a6c3019a474fd6f485823");
        let text = format!(
            "[api]\nbudget = \"50%\"\ntoken_file = \"all\"\n[[account]]\nid = \"{a}\"\nname = \"emea\"\nbudget = \"20%\"\n[[account]]\nid = \"{b}\"\ntoken_file = \"own\"\n"
        );
        let file: ConfigFile = toml::from_str(&text).expect("a config");
        let accounts = |typed: Option<&str>| {
            let typed = ApiSection { account: typed.map(str::to_owned), ..ApiSection::default() };
            file.accounts(&file.api, &typed).map(|found| {
                let word = |(name, api): (String, ApiSection)| {
                    format!("{name} {} {:?}", api.budget.unwrap_or_default(), api.token_file.unwrap_or_default())
                };
                found.into_iter().map(word).collect::<Vec<_>>().join(", ")
            })
        };
        assert_eq!(accounts(None).expect("all"), format!("emea 20% \"all\", {b} 50% \"own\""));
        assert_eq!(accounts(Some("emea")).expect("one"), "emea 20% \"all\"");
        assert!(accounts(Some("apac")).expect_err("none").to_string().contains("it has emea, 11a7"));
        assert_eq!(file.one_account(Some("emea")).expect("one").as_str(), a);
        assert!(file.one_account(None).expect_err("two").to_string().contains("name one with --account (emea, 11a7"));
        let twice = format!("[[account]]\nid = \"{a}\"\n[[account]]\nid = \"{}\"\n", a.to_uppercase());
        let twice: ConfigFile = toml::from_str(&twice).expect("a config");
        assert!(
            twice
                .accounts(&ApiSection::default(), &ApiSection::default())
                .expect_err("twice")
                .to_string()
                .ends_with("twice: take out one [[account]], or give it another name")
        );
    }

    #[test]
    fn a_devices_file_is_read_or_its_bad_line_named() {
        let text = "# fleet\ncb49c27f-7f97-49c5-b6f3-f7c01ead0fd7 # alice\n\n";
        assert_eq!(parse_devices("f", text).expect("a list").len(), 1);
        let said = parse_devices("f", "\nlaptop-17\n").expect_err("an error").to_string();
        assert!(said.starts_with("f, line 2: \"laptop-17\" is no device id"), "{said}");
    }
}
