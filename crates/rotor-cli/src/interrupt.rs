//! Ctrl-C, and the signals that end a process.
//!
//! While text is being generated, Ctrl-C asks for an end, which the generation notices at its next token. At any other time
//! it ends the program, temporary files first; a hangup, a request to terminate or to quit and the end of the allowed
//! processor time always do. The limit on the size of files ends nothing by itself: the write fails, as on a full disk, and
//! that is told. A signal that the program was started to ignore (`nohup`, a background job of a script) stays ignored.

#![cfg_attr(not(any(unix, windows)), expect(dead_code, reason = "nothing interrupts a program there"))]

use crate::outcome::INTERRUPTED;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Ctrl-C ends the program.
const EXIT: u8 = 0;
/// Ctrl-C asks; a second one, from people who do not want to wait, ends the program.
const ASK: u8 = 1;
/// Ctrl-C asks, however often it comes.
const ASK_ONLY: u8 = 2;
/// It has been asked.
const ASKED: u8 = 3;
/// It has been asked, and may be asked again.
const ASKED_ONLY: u8 = 4;

static STATE: AtomicU8 = AtomicU8::new(EXIT);

/// A request to terminate asks as Ctrl-C does: for a server, which has answers to finish.
static TERMINATION_ASKS: AtomicBool = AtomicBool::new(false);

/// Installs the handlers. Where the system refuses, signals do what they do by default.
pub(crate) fn install() {
    #[cfg(unix)]
    unix::install();
    #[cfg(windows)]
    let _ = ctrlc::set_handler(interrupted);
}

/// What Ctrl-C does.
fn interrupted() {
    let asked = |state| match state {
        ASK => Some(ASKED),
        ASK_ONLY | ASKED_ONLY => Some(ASKED_ONLY),
        _ => None,
    };
    if STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, asked).is_err() {
        rotor::write::remove_temporaries();
        leave(INTERRUPTED.into());
    }
}

/// Ends the program from a thread that is not the first one, while others go on: without what runs at a usual end, which would take
/// down what they still use.
pub(crate) fn leave(code: i32) -> ! {
    #[cfg(unix)]
    signal_hook::low_level::exit(code);
    #[cfg(not(unix))]
    std::process::exit(code)
}

#[cfg(unix)]
mod unix {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use std::sync::Arc;

    pub(super) fn install() {
        // What the flag says is of no use: with a handler, whichever it is, the write that went too far returns an error.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
        let all = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU];
        let wanted = all.into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(wanted) else { return };
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if signal == SIGINT || (signal == SIGTERM && super::TERMINATION_ASKS.load(super::Ordering::SeqCst)) {
                    super::interrupted();
                } else {
                    rotor::write::remove_temporaries();
                    // By the signal itself, so that whoever started the program sees what ended it.
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        });
    }

    /// Whether the program was started with a signal ignored. Only Linux tells without unsafe code; elsewhere hangups are
    /// left as they are, because `nohup` is what people ignore signals with.
    fn is_ignored(signal: i32) -> bool {
        let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return signal == SIGHUP };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask >> (signal - 1) & 1 == 1
    }
}

/// Whether it has been asked to end what is going on.
pub(crate) fn requested() -> bool {
    matches!(STATE.load(Ordering::SeqCst), ASKED | ASKED_ONLY)
}

/// Ctrl-C asks for an end as long as this lives.
#[derive(Debug)]
pub(crate) struct Catch(());

impl Catch {
    /// For a program that ends with what is going on: a second Ctrl-C does not wait.
    pub(crate) fn once() -> Self {
        STATE.store(ASK, Ordering::SeqCst);
        Self(())
    }

    /// For a program that goes on afterwards.
    #[cfg(feature = "interactive")]
    pub(crate) fn always() -> Self {
        STATE.store(ASK_ONLY, Ordering::SeqCst);
        Self(())
    }

    /// For a server, which finishes its answers: a request to terminate asks too, and a second one does not wait.
    #[cfg(feature = "serve")]
    pub(crate) fn server() -> Self {
        TERMINATION_ASKS.store(true, Ordering::SeqCst);
        Self::once()
    }

    /// Forgets what was asked before.
    #[cfg(feature = "interactive")]
    pub(crate) fn reset(&self) {
        let forget = |state| match state {
            ASKED => Some(ASK),
            ASKED_ONLY => Some(ASK_ONLY),
            _ => None,
        };
        // Nothing was asked where this changes nothing.
        let _ = STATE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, forget);
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        STATE.store(EXIT, Ordering::SeqCst);
        TERMINATION_ASKS.store(false, Ordering::SeqCst);
    }
}
