//! How far a list is read: what a page of it says of the next one.
//!
//! A list ends with its first empty page, whatever `result_info` says: a server may have pages that are shorter than was
//! asked for. The API documents offsets and no cursor, so rows may move between two requests. What tells of that is a row
//! that comes again. A page that shows another one's devices once more, and mostly their rows, shows that the server
//! repeats itself. In a part of the history that no longer changes, a row of the page before is either there twice, or
//! the order of the list is another at each request, and others were passed over: both pages are asked for again, and
//! where they are not what they were, so it is. Such a page counts as failed: what it brought is kept, and nobody relies
//! on the list's being whole.

use std::collections::HashSet;

use twox_hash::XxHash64;

use crate::api::{Exchange, Failure};
use crate::snapshot::PAGE_ROWS;

/// No list is longer: 2,000,000 rows. One that is has no end.
pub(super) const MOST_PAGES: u32 = 40_000;

/// The pages of a list of so many rows: the last of them is short, and the one behind it empty.
pub(super) fn pages_of(rows: u64) -> u64 {
    rows / PAGE_ROWS as u64 + 2
}

/// So many pages in a row that cannot be read, and the rest of the list is given up.
const FAILED_PAGES: u32 = 3;

/// How far one list is read.
#[derive(Default)]
pub(super) struct Paging {
    /// The hashes of the rows so far. Of a few of two million, two may be the same: the page they stand on is read all
    /// the same.
    rows: HashSet<u64>,
    /// The hashes of the devices of each page so far.
    pages_seen: HashSet<u64>,
    /// The hashes of the last page's rows.
    last: Vec<u64>,
    /// Whether the list is of a time of which nothing can come any more.
    is_settled: bool,
    again: Again,
    failed_in_a_row: u32,
    pub(super) pages: u32,
    pub(super) read: u32,
}

/// What is asked for once more.
#[derive(Default)]
enum Again {
    #[default]
    Nothing,
    /// A page that may be a slip.
    Page,
    /// The page before one with these rows.
    Before(Vec<u64>),
    /// Then that one itself; whether the page before it was what it had been.
    Then(Vec<u64>, bool),
}

/// Which devices a page shows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    pub(super) devices: usize,
    /// A hash of their ids, in the page's order.
    pub(super) hash: u64,
}

/// What a page says of the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    /// The same page once more.
    Again,
    /// The page before once more.
    Back,
    End,
    GiveUp(String),
}

impl Shown {
    /// Those of the ids on a page.
    pub(super) fn of(ids: &[String]) -> Self {
        Self { devices: ids.len(), hash: XxHash64::oneshot(0, ids.join("\n").as_bytes()) }
    }
}

impl Paging {
    /// Of a list that no longer changes.
    pub(super) fn settled(is_settled: bool) -> Self {
        Self { is_settled, ..Self::default() }
    }

    /// Whether the rest of the list is not read.
    pub(super) fn is_given_up(&self) -> bool {
        self.failed_in_a_row >= FAILED_PAGES
    }

    /// Takes in a page. What may be a slip of the server is asked for once more: an empty page behind a full one, and a
    /// page that shows what another one did. A page of something else than devices says nothing of the list's length: it
    /// counts as failed.
    pub(super) fn take(&mut self, exchange: &mut Exchange, shown: Shown) -> Next {
        self.pages += 1;
        let bodies = &exchange.answer.bodies;
        let hashes: Vec<u64> = bodies.iter().map(|body| XxHash64::oneshot(0, &body.bytes)).collect();
        if !hashes.is_empty() && shown.devices == 0 && exchange.failure.is_none() {
            exchange.distrust("the page shows no devices");
        }
        match std::mem::take(&mut self.again) {
            Again::Before(then) => {
                let is_same = exchange.failure.is_none() && hashes == self.last;
                self.rows.extend(hashes);
                self.again = Again::Then(then, is_same);
                Next::Read
            }
            Again::Then(before, is_same) => {
                if exchange.failure.is_none() && !(is_same && hashes == before) {
                    exchange.distrust("rows of other pages came again: the list has another order at each request");
                }
                self.go_on(exchange.failure.as_ref(), shown, hashes)
            }
            again => self.look(exchange, shown, hashes, matches!(again, Again::Page)),
        }
    }

    /// Takes in a page that is asked for in its turn, or for a second time.
    fn look(&mut self, exchange: &mut Exchange, shown: Shown, hashes: Vec<u64>, is_again: bool) -> Next {
        if exchange.failure.is_some() {
            return self.go_on(exchange.failure.as_ref(), shown, hashes);
        }
        let known = hashes.iter().filter(|hash| self.rows.contains(hash)).count();
        let is_repeated = known > 0 && 2 * known >= hashes.len() && self.pages_seen.contains(&shown.hash);
        let may_be_slip = is_repeated || (hashes.is_empty() && self.last.len() >= PAGE_ROWS);
        if may_be_slip && !is_again {
            self.again = Again::Page;
            return Next::Again;
        }
        if is_repeated {
            let failure = exchange.distrust("the page has the rows of others");
            return self.fail(&failure);
        }
        if known > 0 && self.is_settled {
            self.again = Again::Before(hashes);
            return Next::Back;
        }
        self.go_on(None, shown, hashes)
    }

    /// Goes on behind a page. One that failed and shows devices all the same was read as far as it could be.
    fn go_on(&mut self, failure: Option<&Failure>, shown: Shown, hashes: Vec<u64>) -> Next {
        if let Some(failure) = failure.filter(|_| shown.devices == 0) {
            return self.fail(failure);
        }
        let is_empty = hashes.is_empty();
        self.rows.extend(&hashes);
        self.pages_seen.insert(shown.hash);
        (self.failed_in_a_row, self.last) = (0, hashes);
        self.read += 1;
        if is_empty { Next::End } else { Next::Read }
    }

    fn fail(&mut self, failure: &Failure) -> Next {
        self.last.clear();
        let is_hopeless = matches!(failure, Failure::Unreachable(_));
        self.failed_in_a_row = if is_hopeless { FAILED_PAGES } else { self.failed_in_a_row + 1 };
        if self.is_given_up() { Next::GiveUp(failure.reason().to_owned()) } else { Next::Read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::snapshot::{AccountId, Answer, Body, Source};

    /// A page with the rows of these numbers; each ten are of one device.
    fn page(rows: impl IntoIterator<Item = u32>) -> Exchange {
        let body = |row: u32| Body::new(&format!(r#"{{"deviceId":"{}","row":{row}}}"#, row / 10));
        let account_id = AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id");
        let collected_at = clock::from_micros(0).expect("a time");
        let (sweep_id, source, bodies) = ("s".to_owned(), Source::List, rows.into_iter().map(body).collect());
        let answer = Answer { account_id, sweep_id, source, collected_at, bodies, poll: None };
        Exchange { answer, failure: None, clock_off: None }
    }

    fn failed(rows: impl IntoIterator<Item = u32>) -> Exchange {
        Exchange { failure: Some(Failure::Other("no".to_owned())), ..page(rows) }
    }

    /// What each page says, and whether it counts as failed.
    fn check(is_settled: bool, pages: Vec<Exchange>, expect: &[&str]) {
        let mut paging = Paging::settled(is_settled);
        let said = pages.into_iter().map(|mut page| {
            let text = |body: &Body| String::from_utf8(body.bytes.to_vec()).expect("a text");
            let ids: Vec<String> =
                page.answer.bodies.iter().filter_map(|body| crate::envelope::device_id(&text(body))).collect();
            let next = match paging.take(&mut page, Shown::of(&ids)) {
                Next::Read => "read",
                Next::Again => "again",
                Next::Back => "back",
                Next::End => "end",
                Next::GiveUp(_) => "give up",
            };
            format!("{next}{}", if page.failure.is_some() { ", failed" } else { "" })
        });
        assert_eq!(said.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn an_empty_page_behind_a_full_one_is_asked_for_once_more() {
        let pages = vec![page(0..50), page([]), page(50..100), page(100..120), page([])];
        check(true, pages, &["read", "again", "read", "read", "end"]);
        check(true, vec![page(0..50), page([]), page([])], &["read", "again", "end"]);
        check(true, vec![page([])], &["end"]);
    }

    #[test]
    fn a_page_that_shows_what_another_did_has_failed_and_those_behind_it_are_read() {
        let once = vec![page(0..50), page(0..50), page(50..100), page([]), page([])];
        check(false, once, &["read", "again", "read", "again", "end"]);
        let twice = vec![page(0..50), page(0..50), page(0..50), page(100..110), page([])];
        check(false, twice, &["read", "again", "read, failed", "read", "end"]);
        let expect = ["read", "again", "read, failed", "again", "read, failed", "again", "give up, failed"];
        check(false, (0..7).map(|_| page(0..50)).collect(), &expect);
        // Some have a newer state by then, which makes them no other page.
        let newer = |at: u32| page((0..40).chain(40 + at..41 + at));
        check(false, (0..7).map(newer).collect(), &expect);
    }

    #[test]
    fn many_rows_of_one_device_are_no_repetition() {
        let of_one = |rows: std::ops::Range<u32>| {
            let mut page = page(rows.clone());
            let body = |row: u32| Body::new(&format!(r#"{{"deviceId":"d","registration":{row}}}"#));
            page.answer.bodies = rows.map(body).collect();
            page
        };
        let pages = vec![of_one(0..50), of_one(50..100), of_one(100..150), page([]), page([])];
        check(false, pages, &["read", "read", "read", "again", "end"]);
    }

    #[test]
    fn a_row_that_comes_again_is_a_sign_only_where_nothing_changes_any_more() {
        // While a list is read, somebody may join in front of what is still to come.
        check(false, vec![page(0..50), page(49..99), page([]), page([])], &["read", "read", "again", "end"]);
        check(false, vec![page(0..50), page([49]), page([])], &["read", "read", "end"]);
        // A row is there twice: both pages are what they were.
        let twice = vec![page(0..50), page(49..99), page(0..50), page(49..99), page([]), page([])];
        check(true, twice, &["read", "back", "read", "read", "again", "end"]);
        // The first or the second one is another at the next request.
        let first = vec![page(1..51), page(50..100), page(0..50), page(50..100), page([]), page([])];
        check(true, first, &["read", "back", "read", "read, failed", "again", "end"]);
        let second = vec![page(0..50), page(49..99), page(0..50), page(50..100), page([]), page([])];
        check(true, second, &["read", "back", "read", "read, failed", "again", "end"]);
        check(true, vec![page([1, 1, 2]), page([])], &["read", "end"]);
    }

    #[test]
    fn three_failures_in_a_row_end_a_list_unless_they_show_devices() {
        let pages = vec![failed([]), failed([]), page(0..50), failed([]), failed([]), failed([])];
        let expect = ["read, failed", "read, failed", "read", "read, failed", "read, failed", "give up, failed"];
        check(false, pages, &expect);
        let salvaged = (0..4).map(|page| failed(page * 50..page * 50 + 49)).chain([page([])]).collect();
        check(false, salvaged, &["read, failed", "read, failed", "read, failed", "read, failed", "end"]);
        let unreachable = Exchange { failure: Some(Failure::Unreachable("no".to_owned())), ..page([]) };
        check(false, vec![unreachable], &["give up, failed"]);
        let mut no_devices = page(0..3);
        assert_eq!(Paging::default().take(&mut no_devices, Shown::default()), Next::Read);
        assert!(no_devices.failure.is_some());
    }
}
