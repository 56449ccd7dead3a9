//! What a download has to say: a bar on a terminal, a line now and then elsewhere.

use crate::progress::Bar;
use crate::terminal::{message, printable};
use rotor_hub::{Event, units};
use std::time::{Duration, Instant};

/// The share of a file, in percent, after which a line is written where there is no terminal.
const LINE_EVERY: u64 = 5;

/// The time after which one is written even so.
const LINE_AFTER: Duration = Duration::from_secs(10);

/// Tells people how a download goes on.
#[derive(Debug)]
pub(super) struct Progress {
    shown: Option<(String, Bar)>,
    line: Option<Line>,
}

/// The last line about a file.
#[derive(Debug)]
struct Line {
    file: String,
    began: Instant,
    began_at: u64,
    written: Instant,
    share: u64,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress { shown: None, line: None }
    }

    pub(super) fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::Chosen(_) => {}
            Event::Waiting { file } => {
                self.say(format!("{file} is being downloaded by another program: waiting for it"))
            }
            Event::Retrying { why, wait } => {
                self.say(format!("{why}; trying again in {:.0} s", wait.as_secs_f64().ceil()))
            }
            Event::Warning(text) => self.say(format!("warning: {text}")),
            Event::Checking { file, done, total } => self.bar("checking", file).set(*done, *total),
            Event::Progress { file, done, total } => {
                let bar = self.bar("fetching", file);
                bar.set(*done, *total);
                if !bar.is_visible() {
                    self.line(file, *done, *total);
                }
            }
        }
    }

    /// A message, with the bar out of its way.
    fn say(&mut self, text: String) {
        self.shown = None;
        message(format_args!("{}", printable(&text)));
    }

    fn bar(&mut self, action: &'static str, file: &str) -> &Bar {
        let text = format!("{action} {}", file.rsplit('/').next().unwrap_or(file));
        let shown = self.shown.take().filter(|(earlier, _)| *earlier == text);
        let (_, bar) = self.shown.insert(shown.unwrap_or_else(|| {
            let bar = Bar::bytes(action, 0);
            bar.say(text.clone());
            (text, bar)
        }));
        bar
    }

    fn line(&mut self, file: &str, done: u64, total: u64) {
        let now = Instant::now();
        let new = || Line { file: file.into(), began: now, began_at: done, written: now, share: 0 };
        let line = match self.line.take().filter(|line| line.file == file) {
            Some(line) => self.line.insert(line),
            None => self.line.insert(new()),
        };
        let share = done.saturating_mul(100) / total.max(1);
        if share >= line.share + LINE_EVERY || now - line.written >= LINE_AFTER || done == total {
            (line.share, line.written) = (share, now);
            let seconds = (now - line.began).as_secs_f64();
            let rate = (done - line.began_at.min(done)) as f64 / seconds.max(1e-3);
            let speed = if seconds > 0.5 { format!(", {}/s", units::bytes(rate as u64)) } else { String::new() };
            message(format_args!("{file}: {} of {} ({share} %{speed})", units::bytes(done), units::bytes(total)));
        }
    }
}
