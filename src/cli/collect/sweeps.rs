//! Sweeps of the accounts, one after the other, until a schedule or a signal ends them, and what is told of each.

use std::time::Duration;

use crate::archive::{Archive, ArchiveError};
use crate::cli::args::CollectArgs;
use crate::cli::heal::{Healed, Healer};
use crate::cli::metrics::Metrics;
use crate::cli::take::ASKING;
use crate::cli::{Exit, print, summary, supervise, sweep_number};
use crate::clock::Clock;
use crate::collect::{CollectError, CollectStats, Collector, Resume, Stop};
use crate::config::ConfigFile;
use crate::snapshot::AccountId;

/// An account that is collected.
pub(super) struct Account {
    pub(super) name: String,
    pub(super) id: AccountId,
    pub(super) healer: Healer,
}

/// Sweeps, one after the other.
pub(super) struct Sweeps<'a> {
    /// One for each account.
    pub(super) collectors: Vec<Collector<'a>>,
    pub(super) accounts: Vec<Account>,
    /// Whether several are meant, some of which may be left out.
    pub(super) several: bool,
    /// What those are called that are meant and have no credential that can be read.
    pub(super) left_out: Vec<String>,
    pub(super) command: &'a CollectArgs,
    pub(super) file: &'a ConfigFile,
    pub(super) every: Option<Duration>,
    pub(super) metrics: Metrics,
    pub(super) resumes: Resumes,
    pub(super) clock: Clock,
    pub(super) quiet: bool,
}

/// Where single sweeps go on that another process began. A loop knows that by itself.
pub(super) struct Resumes {
    pub(super) archive: Archive,
    pub(super) shard: u32,
    pub(super) is_used: bool,
}

/// What the accounts' sweeps did.
struct Swept<'a> {
    total: CollectStats,
    /// Each by itself, for the summary's file.
    by_account: serde_json::Map<String, serde_json::Value>,
    /// The accounts whose sweep failed, and why.
    failures: Vec<(&'a str, CollectError)>,
}

/// What was told of a sweep of all accounts.
struct Told {
    exit: Exit,
    /// All of them together.
    stats: CollectStats,
    /// Why nothing goes on, or why the only one did not come to its end.
    failed: Option<CollectError>,
    /// Whether there is any use in asking for more.
    can_heal: bool,
}

impl Resumes {
    pub(super) fn read(&self, account: &AccountId) -> Option<Resume> {
        let noted = self.archive.resume(self.shard, account.as_str()).filter(|_| self.is_used)?;
        // One that somebody bent begins at the beginning.
        serde_json::from_str(&noted).ok()
    }

    /// Notes where the next one goes on. One that is not noted begins at the beginning.
    fn keep(&self, account: &AccountId, ended_at: Option<Resume>) {
        let note = ended_at.map(|at| serde_json::to_string(&at).expect("it always has a form in JSON"));
        if self.is_used
            && let Err(error) = self.archive.keep_resume(self.shard, account.as_str(), note.as_deref())
        {
            print::error(&format_args!("{error}: the next sweep begins at the beginning"));
        }
    }
}

impl Sweeps<'_> {
    /// Sweeps until the schedule or a signal ends it.
    pub(super) async fn run(mut self, stop: &Stop, mut exit: Exit) -> anyhow::Result<Exit> {
        supervise::ready();
        let (command, every) = (self.command, self.every);
        // A loop that is stopped has done what it should; what its sweeps met was told when they met it.
        let is_endless = every.is_some() && command.sweeps.is_none();
        let (mut ended_by, mut is_replaced) = (None, false);
        for number in 1_u64.. {
            let swept = Collector::sweep_side_by_side(&mut self.collectors, sweep_number(number)).await;
            let ended = command.sweeps == Some(number) || stop.is_requested();
            let Told { exit: told, stats, mut failed, can_heal } = self.tell(swept, stop);
            exit = exit.or_worse(told);
            if command.self_heal && can_heal && !stop.is_requested() {
                let (told, error) = self.heal(stats, number).await;
                (exit, failed) = (exit.or_worse(told), error);
            }
            for (collector, account) in self.collectors.iter().zip(&self.accounts) {
                self.resumes.keep(&account.id, collector.ended_at());
            }
            let is_gone = matches!(failed, Some(CollectError::Ended));
            if is_gone || every.is_none() || ended && !is_endless {
                ended_by = failed;
                break;
            }
            // In a loop a sweep that failed is told, and the next one tries again.
            failed.iter().for_each(|error| print::error(&error));
            let Some(every) = every.filter(|_| !ended) else { break };
            if !self.collectors[0].next_tick(every).await {
                break;
            }
            check_shards(self.resumes.archive.clone()).await?;
            if self.renew_credentials() {
                is_replaced = true;
                break;
            }
        }
        let exit = match is_endless {
            true if is_replaced => Exit::Failed,
            true => Exit::Done,
            false => exit,
        };
        self.end(exit, ended_by).await
    }

    /// Publishes what a loop has left in the journal, whatever it ended of, and ends the writer.
    async fn end(self, mut exit: Exit, mut ended_by: Option<CollectError>) -> anyhow::Result<Exit> {
        if self.every.is_some() && !matches!(ended_by, Some(CollectError::Ended)) {
            match self.collectors[0].publish_waiting().await {
                Ok(published) => {
                    summary::tell_publish(&published.damaged, &published.held);
                    exit = exit.or_worse(Exit::of_publish(&published));
                }
                Err(error) if ended_by.is_some() => print::error(&error),
                Err(error) => ended_by = Some(error),
            }
        }
        let mut finished = Ok(());
        for collector in self.collectors {
            finished = finished.and(collector.finish());
        }
        match (finished, ended_by) {
            (Err(error), _) | (Ok(()), Some(error)) => Err(error.into()),
            (Ok(()), None) => Ok(exit),
        }
    }

    /// Takes the tokens that the files hold by now: a loop outlives them. Where one cannot be read, it stays as it was. True
    /// where that of an account that was left out can be read: whoever watches over the process starts one that asks for it.
    fn renew_credentials(&self) -> bool {
        let mut credentials = self.command.api.credentials(self.file);
        for (collector, account) in self.collectors.iter().zip(&self.accounts) {
            match credentials.remove(&account.name) {
                Some(Ok(credential)) => collector.renew(credential),
                Some(Err(error)) => print::warning(&format_args!("{error}: it goes on with the token that it had")),
                None => (),
            }
        }
        let mut can_be_asked = false;
        for name in &self.left_out {
            match credentials.remove(name) {
                Some(Ok(_)) => {
                    print::error(&format_args!(
                        "{name}: its token can be read now: start the collector again to ask for it"
                    ));
                    can_be_asked = true;
                }
                Some(Err(error)) => print::error(&format_args!("{name}: {error}; nothing is asked of it")),
                None => (),
            }
        }
        can_be_asked
    }

    /// Tells how the accounts' sweeps went. Where one of several failed, it is told, and the others count.
    fn tell(&self, swept: Vec<(CollectStats, Option<CollectError>)>, stop: &Stop) -> Told {
        let several = self.several;
        let Swept { total, by_account, mut failures } = self.add_up(swept, stop);
        let all_failed = failures.len() == self.accounts.len();
        // What ends the program is told as it ends, once.
        let is_end = |error: &CollectError| matches!(error, CollectError::Ended);
        let ended = failures.iter().position(|(_, error)| is_end(error));
        for (name, error) in failures.iter().filter(|(_, error)| several && !is_end(error)) {
            print::error(&format_args!("{name}: {error}"));
        }
        let mut exit = summary::tell_sweep(&total, !failures.is_empty(), self.quiet);
        if self.every.is_none() && (total.list_cut || total.devices_unasked > 0) {
            // In a loop the next sweep asks for them; who starts single ones is to know.
            exit = exit.or_worse(Exit::Partly);
        }
        let written = self.metrics.publish(&total).and(self.write_summary(&total, by_account));
        if let Err(error) = written {
            // That nobody can read how it went is no reason not to note where the next sweep goes on.
            print::error(&format_args!("{error:#}"));
            exit = Exit::Failed;
        }
        supervise::status(&summary::of_sweep(&total));
        // What is asked under a wrong clock is of another time than it says.
        let can_heal = !all_failed && !total.is_away && !total.has_wrong_clock();
        let failed = ended.or((!several && all_failed).then_some(0)).map(|at| failures.swap_remove(at).1);
        Told { exit, stats: total, can_heal: can_heal && failed.is_none(), failed }
    }

    /// Adds up what the accounts' sweeps did, and notes it in the metrics.
    fn add_up(&self, swept: Vec<(CollectStats, Option<CollectError>)>, stop: &Stop) -> Swept<'_> {
        let (several, now) = (self.several, self.clock.now());
        // What was published, the first one says; what went wrong with that went wrong for all.
        let is_published = swept.first().is_none_or(|(stats, failed)| {
            let is_theirs = matches!(failed, Some(CollectError::Ingest(_) | CollectError::Ended));
            !is_theirs && !stats.has_publish_failures() && stats.held.is_empty()
        });
        let mut total: Option<CollectStats> = None;
        let (mut failures, mut by_account) = (Vec::new(), serde_json::Map::new());
        for ((mut stats, failed), account) in swept.into_iter().zip(&self.accounts) {
            let is_fine = is_published && failed.is_none() && stats.has_gone_well();
            // One that was told to end early has not failed.
            let success = (is_fine || !stats.stopped || !stop.is_requested()).then_some(is_fine);
            self.metrics.note(account.id.as_str(), &stats, success, now);
            if several {
                if !self.quiet || !is_fine {
                    print::note(&format!("{}: {}", account.name, summary::of_account(&stats)));
                }
                by_account.insert(account.id.as_str().to_owned(), summary::of_account_json(&stats));
                stats.failures.iter_mut().for_each(|failure| *failure = format!("{}: {failure}", account.name));
            }
            match &mut total {
                None => total = Some(stats),
                Some(total) => total.merge(stats),
            }
            failures.extend(failed.map(|error| (account.name.as_str(), error)));
        }
        for (id, _) in self.file.known_accounts().iter().filter(|(_, name)| self.left_out.contains(name)) {
            self.metrics.fail(id);
        }
        Swept { total: total.unwrap_or_default(), by_account, failures }
    }

    fn write_summary(
        &self,
        total: &CollectStats,
        by_account: serde_json::Map<String, serde_json::Value>,
    ) -> anyhow::Result<()> {
        let Some(path) = &self.command.summary_json else { return Ok(()) };
        let mut summary = serde_json::to_value(total)?;
        if let (Some(object), false) = (summary.as_object_mut(), by_account.is_empty()) {
            object.insert("accounts".to_owned(), by_account.into());
        }
        print::file(path, serde_json::to_string_pretty(&summary)? + "\n")
    }

    /// Spends what is left of the interval on holes, one account after the other. What that publishes is told together
    /// with what the sweep did.
    async fn heal(&mut self, mut total: CollectStats, number: u64) -> (Exit, Option<CollectError>) {
        let waiting = total.waiting_since.map(|since| since.0);
        let (start, swept_s) = (std::time::Instant::now(), total.elapsed_s);
        let (mut exit, mut accounts) = (Exit::Done, u32::try_from(self.accounts.len()).unwrap_or(u32::MAX));
        for (collector, account) in self.collectors.iter_mut().zip(&self.accounts) {
            let time = match self.every {
                Some(every) => collector.time_left(every),
                None => left(account.healer.interval, swept_s).saturating_sub(start.elapsed()),
            };
            let time = time / accounts.max(1);
            let Healed { exit: told, asked, failed } = account.healer.heal(collector, time, waiting, number << 8).await;
            exit = exit.or_worse(told);
            accounts -= 1;
            if let Some(asked) = asked {
                self.metrics.count(account.id.as_str(), &asked);
                // Where the publish failed, nobody knows what waits: what waited before, at least.
                let is_published = !matches!(failed, Some(CollectError::Ingest(_) | CollectError::Ended));
                let waiting = if is_published { &asked } else { &total };
                let (bytes, since) = (waiting.waiting_bytes, waiting.waiting_since);
                total.merge(asked);
                (total.waiting_bytes, total.waiting_since) = (bytes, since);
                if let Err(error) = self.metrics.publish(&total) {
                    print::error(&format_args!("{error:#}"));
                    exit = Exit::Failed;
                }
            }
            match failed {
                Some(error) if self.accounts.len() > 1 && !matches!(error, CollectError::Ended) => {
                    // The others' holes are healed all the same.
                    print::error(&format_args!("{}: {error}", account.name));
                    exit = Exit::Failed;
                }
                Some(error) => return (exit, Some(error)),
                None => (),
            }
        }
        (exit, None)
    }
}

/// Whether an archive has the shards that it had. Where its days went into others, nothing can be published any more:
/// who watches over the process starts another one. A store that gives no answer in time is asked again after the next
/// sweep.
async fn check_shards(archive: Archive) -> Result<(), ArchiveError> {
    let asked = tokio::task::spawn_blocking(move || archive.check_shards());
    match tokio::time::timeout(ASKING, asked).await {
        Ok(Ok(Err(error @ (ArchiveError::Resharded { .. } | ArchiveError::Resharding { .. })))) => Err(error),
        _ => Ok(()),
    }
}

/// What a sweep left of its interval.
fn left(interval: Duration, swept_s: f64) -> Duration {
    interval.saturating_sub(Duration::try_from_secs_f64(swept_s).unwrap_or_default())
}
