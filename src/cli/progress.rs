//! How far a sweep is: a bar on a terminal, the plan as lines.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::collect::Progress;

use super::print;

/// Shows a sweep to people.
pub(super) struct Bar {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::new(None) }
    }

    fn with_bar(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        act(&mut self.bar.lock().expect("no holder of the bar panics"));
    }
}

impl Progress for Bar {
    fn plan(&self, line: &str) {
        if !self.quiet {
            print::note(&format!("plan: {line}"));
        }
    }

    fn start(&self, what: &'static str, requests: Option<u64>) {
        if self.quiet {
            return;
        }
        // On anything but a terminal, indicatif draws nothing.
        let bar = ProgressBar::with_draw_target(requests, ProgressDrawTarget::stderr());
        let template = match requests {
            Some(_) => "{bar:30} {pos}/{len} {msg}, {eta} left",
            None => "{spinner} {pos} {msg}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template names only known keys"));
        bar.set_message(what);
        self.with_bar(|held| *held = Some(bar));
    }

    fn advance(&self, requests: u64) {
        self.with_bar(|bar| bar.iter().for_each(|bar| bar.inc(requests)));
    }

    fn finish(&self) {
        self.with_bar(|bar| bar.take().iter().for_each(ProgressBar::finish_and_clear));
    }
}
