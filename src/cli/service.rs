//! `service`, `completions` and `man`: what runs the collector, and what makes it easy to type.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::config::{self, ApiSection, ConfigError};

use super::args::{Args, CompletionsArgs, Scheduler, ServiceArgs};
use super::{Exit, print};

/// Where a token is, if nobody says.
const TOKEN_FILE: &str = "/etc/dex-archive/token";

/// Prints what runs the collector unattended.
pub(super) fn run(args: &Args, command: &ServiceArgs) -> anyhow::Result<Exit> {
    let (place, file) = args.config()?;
    let every = config::parse_duration(&command.every)?;
    if every.as_secs() % 60 != 0 || every.as_secs() == 0 {
        return Err(ConfigError::Minutes(command.every.clone()).into());
    }
    let typed = ApiSection { account: command.account.clone(), ..ApiSection::default() };
    // What the config file says of the token is as good as what is typed.
    let said = file.accounts(&file.api, &typed)?.into_iter().next().and_then(|(_, api)| api.token_file);
    let token_file = command.token_file.clone().or(said).unwrap_or_else(|| PathBuf::from(TOKEN_FILE));
    let account = match (&command.account, file.account.is_empty()) {
        // The accounts of the config file, with their own tokens.
        (None, false) if command.scheduler != Scheduler::Kubernetes => None,
        (typed, _) => Some(file.one_account(typed.as_deref())?.to_string()),
    };
    let minutes = every.as_secs() / 60;
    let service = Service {
        program: std::env::current_exe().ok().unwrap_or_else(|| PathBuf::from("dex-archive")),
        root: place.absolute()?,
        disk: std::path::absolute(place.disk())?,
        account,
        token_file: std::path::absolute(token_file)?,
        config: args.config_file().map(std::path::absolute).transpose()?,
        has_key_file: file.privacy.as_ref().is_some_and(|rules| rules.key_file.is_some()),
        every: command.every.clone(),
        minutes,
        command,
    };
    if !service.has_key_file && file.policy().is_ok_and(|policy| policy.key_mark().is_some()) {
        print::warning(
            &"the key of the pseudonyms is in DEX_ARCHIVE_PRIVACY_KEY, which nothing of this sets: name it with key_file in [privacy]",
        );
    }
    let text = match command.scheduler {
        Scheduler::Cron => service.cron()?,
        Scheduler::Systemd => service.systemd(),
        Scheduler::Kubernetes => service.kubernetes()?,
    };
    print::data(text)?;
    Ok(Exit::Done)
}

/// Prints what makes a shell complete commands.
pub(super) fn completions(command: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(command.shell, &mut Args::command(), "dex-archive", &mut text);
    if command.shell == clap_complete::Shell::Bash {
        // For a program with a dash, it writes labels that its own script does not look for.
        text = String::from_utf8(text)?.replace("dex__subcmd__archive__", "dex__archive__").into_bytes();
    }
    print::data(text)?;
    Ok(Exit::Done)
}

/// Prints the manual.
pub(super) fn man() -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    let mut program = Args::command();
    program.build();
    clap_mangen::Man::new(program.clone()).render(&mut text)?;
    for command in program.get_subcommands() {
        pages(command, &mut text)?;
    }
    print::data(text)?;
    Ok(Exit::Done)
}

/// The pages of a command, its options first, and those of the commands below it.
fn pages(command: &clap::Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    let man = clap_mangen::Man::new(command.clone());
    man.render_name_section(text)?;
    man.render_synopsis_section(text)?;
    man.render_description_section(text)?;
    man.render_options_section(text)?;
    man.render_extra_section(text)?;
    command.get_subcommands().try_for_each(|below| pages(below, text))
}

/// What is to run, and where.
struct Service<'a> {
    program: PathBuf,
    root: PathBuf,
    /// What is written to on this machine: the archive's folder, or its state's.
    disk: PathBuf,
    /// One account, or those of the config file.
    account: Option<String>,
    token_file: PathBuf,
    config: Option<PathBuf>,
    /// Whether that names a key of the pseudonyms.
    has_key_file: bool,
    every: String,
    minutes: u64,
    command: &'a ServiceArgs,
}

impl Service<'_> {
    fn config(&self, quote: impl Fn(&str) -> String) -> String {
        let named = |option, path: &Path| format!(" --{option} {}", quote(&path.display().to_string()));
        let state = if self.is_in_bucket() { named("state-dir", &self.disk) } else { String::new() };
        state + &self.config.as_ref().map_or(String::new(), |path| named("config", path))
    }

    fn is_in_bucket(&self) -> bool {
        self.disk != self.root
    }

    fn if_bucket(&self, text: &'static str) -> &'static str {
        if self.is_in_bucket() { text } else { "" }
    }

    /// Whose fleet is collected, and with which token; nothing where the config file says that.
    fn who(&self, token_file: &str) -> String {
        let who = |account| format!(" --account {account} --token-file {token_file}");
        self.account.as_ref().map_or(String::new(), who)
    }

    /// A line for a crontab.
    fn cron(&self) -> anyhow::Result<String> {
        let schedule = self.schedule()?;
        let quote = |text: &str| cron_word(text);
        let path = |path: &Path| quote(&path.display().to_string());
        Ok(format!(
            "# A sweep every {}; one that is still running makes the next end with 75, which is no fault.\n\
             {}{schedule} {} --archive {}{} collect{} --deadline {} --self-heal --quiet\n",
            self.every,
            self.if_bucket("# cron knows nothing of the bucket's variables: set them in lines above this one.\n"),
            path(&self.program),
            path(&self.root),
            self.config(quote),
            self.who(&path(&self.token_file)),
            self.every,
        ))
    }

    /// A unit for a loop that watches itself, and its installation.
    fn systemd(&self) -> String {
        let path = |path: &Path| systemd_word(&path.display().to_string());
        // On a command's line a dollar begins a variable.
        let argument = |text: &str| systemd_word(&text.replace('$', "$$"));
        let directory = match self.disk.strip_prefix("/var/lib") {
            Ok(below) if below.components().count() > 0 => {
                format!("StateDirectory={}\nStateDirectoryMode=0750\n", systemd_word(&below.display().to_string()))
            }
            _ => format!("ReadWritePaths={}\n", path(&self.disk)),
        };
        format!(
            include_str!("service/dex-archive.service"),
            directory = directory,
            user = self.command.user,
            credential = self
                .account
                .as_ref()
                // What stands behind the colon is taken as it is, quotes too.
                .map_or(String::new(), |_| {
                    format!("LoadCredential=token:{}\n", self.token_file.display().to_string().replace('%', "%%"))
                }),
            environment = self.if_bucket("EnvironmentFile=/etc/dex-archive/bucket.env\n"),
            // Of what is started no variable is put in.
            program = systemd_word(&self.program.display().to_string()),
            root = argument(&self.root.display().to_string()),
            config = self.config(argument),
            who = self.who("%d/token"),
            prepare = self.prepare(),
            home = if self.is_at_home() { "no" } else { "yes" },
            every = self.every,
        )
    }

    /// What is to be done before the unit can start.
    fn prepare(&self) -> String {
        let user = &self.command.user;
        let mut lines = String::new();
        if self.disk.strip_prefix("/var/lib").is_err() {
            let root = shell_word(&self.disk.display().to_string());
            let _ = writeln!(lines, "# install -d -o {user} -g {user} -m 750 {root}");
        }
        if self.is_in_bucket() {
            let _ = writeln!(
                lines,
                "# /etc/dex-archive/bucket.env, readable by root alone: the variables of the bucket's cloud"
            );
        }
        if self.account.is_none() {
            let _ = writeln!(lines, "# the token files of the config file must be readable by {user}");
        }
        if self.has_key_file {
            let _ = writeln!(lines, "# the key_file of its [privacy] must be readable by {user}");
        }
        lines
    }

    /// Whether any of it is where other units may not look.
    fn is_at_home(&self) -> bool {
        let paths = [Some(&self.program), Some(&self.disk), self.config.as_ref()];
        paths.into_iter().flatten().any(|path| ["/home", "/root"].iter().any(|home| path.starts_with(home)))
    }

    /// A `CronJob`, with the archive on a volume and the token in a secret.
    fn kubernetes(&self) -> anyhow::Result<String> {
        let schedule = self.schedule()?;
        Ok(format!(
            include_str!("service/cron-job.yaml"),
            schedule = schedule,
            archive = if self.is_in_bucket() {
                format!(r#"{}, "--state-dir", "/data/state""#, yaml_word(&self.root.display().to_string()))
            } else {
                r#""/data/archive""#.to_owned()
            },
            bucket = self.if_bucket(
                "# kubectl create secret generic dex-archive-bucket --from-env-file=FILE   (its variables: AWS_… and so on)\n"
            ),
            environment = self.if_bucket(
                "              envFrom:\n                - secretRef: { name: dex-archive-bucket }\n"
            ),
            create = self.if_config("# kubectl create configmap dex-archive --from-file=config.toml=FILE\n"),
            config = self.if_config(r#" "--config", "/config/config.toml","#),
            mount = self.if_config("                - { name: config, mountPath: /config, readOnly: true }\n"),
            volume = self
                .if_config("            - name: config\n              configMap:\n                name: dex-archive\n"),
            deadline = self.minutes * 60 * 2,
            image = yaml_word(&self.command.image),
            account = self.account.as_deref().unwrap_or_default(),
            every = self.every,
        ))
    }

    /// What is needed only where there is a config file.
    fn if_config(&self, text: &'static str) -> &'static str {
        if self.config.is_some() { text } else { "" }
    }

    /// When cron is to start it: cron knows even parts of an hour and of a day.
    fn schedule(&self) -> anyhow::Result<String> {
        match self.minutes {
            minutes @ 1..60 if 60 % minutes == 0 => Ok(format!("*/{minutes} * * * *")),
            minutes if minutes % 60 == 0 && minutes < 1_440 && 1_440 % minutes == 0 => {
                Ok(format!("7 */{} * * *", minutes / 60))
            }
            1_440 => Ok("7 3 * * *".to_owned()),
            _ => anyhow::bail!(
                "cron knows no such interval as {}: 1m, 5m, 15m, 30m, 1h, 6h and 1d are some it knows",
                self.every
            ),
        }
    }
}

/// A word for the shell.
fn shell_word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A word for the shell in a crontab, where a per cent sign ends the line.
fn cron_word(text: &str) -> String {
    shell_word(text).replace('%', "\\%")
}

/// A word in a unit, where per cent signs, backslashes, quotes and spaces mean something.
fn systemd_word(text: &str) -> String {
    let text = text.replace('%', "%%");
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-%".contains(letter);
    if text.chars().all(is_plain) { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// A text in YAML: JSON's texts are YAML's.
fn yaml_word(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_meaning_where_they_are_put() {
        assert_eq!(cron_word("/srv/dex archive/50%"), "'/srv/dex archive/50\\%'");
        assert_eq!(cron_word("/srv/it's"), "'/srv/it'\\''s'");
        assert_eq!(shell_word("/srv/it's 50%"), "'/srv/it'\\''s 50%'");
        assert_eq!(systemd_word("/srv/a \"b\" 50%"), "\"/srv/a \\\"b\\\" 50%%\"");
        assert_eq!(systemd_word("/var/lib/dex-archive"), "/var/lib/dex-archive");
    }
}
