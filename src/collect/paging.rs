//! How far a list is read: what a page of it says of the next one.
//!
//! A list ends with its first empty page, whatever `result_info` says: a server may have pages that are shorter than was
//! asked for. The API documents offsets and no cursor, so rows may move between two requests. What tells of that is a row
//! that comes again: a page of nothing else shows that the server repeats itself, and any such row in a part of the
//! history that no longer changes shows that the order of the list is another at each request, in which case others were
//! passed over. Such a page counts as failed: what it brought is kept, and nobody relies on the list's being whole.

use std::collections::HashSet;

use twox_hash::XxHash64;

use crate::api::{Exchange, Failure};
use crate::snapshot::PAGE_ROWS;

/// So many pages in a row that cannot be read, and the rest of the list is given up.
const FAILED_PAGES: u32 = 3;

/// How far one list is read.
#[derive(Default)]
pub(super) struct Paging {
    /// The hashes of the rows so far. Of a few of two million, two may be the same: the page they stand on is read all
    /// the same.
    seen: HashSet<u64>,
    /// Whether the list is of a time of which nothing can come any more.
    is_settled: bool,
    was_full: bool,
    /// Whether the page is asked for a second time.
    is_again: bool,
    failed_in_a_row: u32,
    pub(super) pages: u32,
    pub(super) read: u32,
}

/// What a page says of the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    /// The same page once more.
    Again,
    End,
    GiveUp(String),
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

    /// Takes in a page that shows so many devices. What may be a slip of the server is asked for once more: an empty page
    /// behind a full one, and a page of rows that all came before. A page of something else than devices says nothing of
    /// the list's length: it counts as failed.
    pub(super) fn take(&mut self, exchange: &mut Exchange, devices: usize) -> Next {
        self.pages += 1;
        let rows = exchange.answer.bodies.len();
        if rows > 0 && devices == 0 && exchange.failure.is_none() {
            exchange.distrust("the page shows no devices");
        }
        if let Some(failure) = &exchange.failure {
            return self.fail(&failure.clone());
        }
        let hashes: Vec<u64> = exchange.answer.bodies.iter().map(|body| XxHash64::oneshot(0, &body.bytes)).collect();
        let known = hashes.iter().filter(|hash| self.seen.contains(hash)).count();
        let is_repeated = rows > 0 && known == rows;
        let may_be_slip = is_repeated || (rows == 0 && self.was_full);
        if may_be_slip && !std::mem::replace(&mut self.is_again, may_be_slip) {
            return Next::Again;
        }
        self.is_again = false;
        if is_repeated {
            let failure = exchange.distrust("the page has the rows of others");
            return self.fail(&failure);
        }
        if known > 0 && self.is_settled {
            exchange.distrust("rows of other pages came again: the list has another order at each request");
        }
        self.seen.extend(hashes);
        (self.failed_in_a_row, self.was_full) = (0, rows >= PAGE_ROWS);
        self.read += 1;
        if rows == 0 { Next::End } else { Next::Read }
    }

    fn fail(&mut self, failure: &Failure) -> Next {
        (self.is_again, self.was_full) = (false, false);
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

    /// A page with the rows of these numbers.
    fn page(rows: impl IntoIterator<Item = u32>) -> Exchange {
        let bodies = rows.into_iter().map(|row| Body::new(&format!(r#"{{"deviceId":"{row}"}}"#))).collect();
        let account_id = AccountId::parse("01a7362d577a6c3019a474fd6f485823").expect("an id");
        let collected_at = clock::from_micros(0).expect("a time");
        let (sweep_id, source) = ("s".to_owned(), Source::List);
        Exchange { answer: Answer { account_id, sweep_id, source, collected_at, bodies, poll: None }, failure: None }
    }

    fn failed() -> Exchange {
        Exchange { failure: Some(Failure::Other("no".to_owned())), ..page([]) }
    }

    /// What each page says, and whether it counts as failed.
    fn check(is_settled: bool, pages: Vec<Exchange>, expect: &[&str]) {
        let mut paging = Paging::settled(is_settled);
        let said = pages.into_iter().map(|mut page| {
            let rows = page.answer.bodies.len();
            let next = match paging.take(&mut page, rows) {
                Next::Read => "read",
                Next::Again => "again",
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
    fn a_page_of_rows_that_came_before_has_failed_and_those_behind_it_are_read() {
        let once = vec![page(0..50), page(0..50), page(50..100), page([]), page([])];
        check(false, once, &["read", "again", "read", "again", "end"]);
        let twice = vec![page(0..50), page(0..50), page(0..50), page(100..110), page([])];
        check(false, twice, &["read", "again", "read, failed", "read", "end"]);
        let for_ever = (0..7).map(|_| page(0..50)).collect();
        let expect = ["read", "again", "read, failed", "again", "read, failed", "again", "give up, failed"];
        check(false, for_ever, &expect);
    }

    #[test]
    fn a_row_that_comes_again_is_a_sign_only_where_nothing_changes_any_more() {
        // While a list is read, somebody may join in front of what is still to come.
        let pages = || vec![page(0..50), page(49..99), page([]), page([])];
        check(false, pages(), &["read", "read", "again", "end"]);
        check(true, pages(), &["read", "read, failed", "again", "end"]);
        let within_a_page = vec![page([1, 1, 2]), page([])];
        check(true, within_a_page, &["read", "end"]);
    }

    #[test]
    fn three_failures_in_a_row_end_a_list() {
        let pages = vec![failed(), failed(), page(0..50), failed(), failed(), failed()];
        let expect = ["read, failed", "read, failed", "read", "read, failed", "read, failed", "give up, failed"];
        check(false, pages, &expect);
        let unreachable = Exchange { failure: Some(Failure::Unreachable("no".to_owned())), ..page([]) };
        check(false, vec![unreachable], &["give up, failed"]);
        let mut no_devices = page(0..3);
        assert_eq!(Paging::default().take(&mut no_devices, 0), Next::Read);
        assert!(no_devices.failure.is_some());
    }
}
